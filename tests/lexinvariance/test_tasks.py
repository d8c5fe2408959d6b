"""BIG-bench files: good ones, bad ones beside good ones, and the prompts that come of them."""

import json

import numpy as np
import pytest

from lexinv.lexinvariance.tasks import Example, Task, as_bigbench, load_bigbench, prompts
from lexinv.validation import InvalidConfig

GOOD = {
    "canary": "not for training",
    "name": "capitals",
    "description": "Name the capital.",
    "keywords": ["geography"],
    "metrics": ["exact_str_match", "multiple_choice_grade"],
    "preferred_score": "exact_str_match",
    "examples": [
        {"input": "France", "target": "Paris"},
        {"input": "Bolivia", "target": ["Sucre", "La Paz"]},
        {"input": "Chile", "target_scores": {"Lima": 0, "Santiago": 1, "Santiago de Chile": 1.0}, "comment": "ignored"},
        {"input": "Peru", "target": "Lima", "target_scores": {"Lima": 1, "Quito": 0.5}},
    ],
}


def written(folder, content, name="task.json"):
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text)
    return folder / name


def test_both_kinds_of_targets_are_read(tmp_path):
    (task,), problems = load_bigbench(written(tmp_path, GOOD))
    assert not problems
    assert task == Task(
        "capitals",
        "Name the capital.",
        (
            Example("France", ("Paris",)),
            Example("Bolivia", ("Sucre", "La Paz")),
            Example(
                "Chile",
                ("Santiago", "Santiago de Chile"),
                (("Lima", 0.0), ("Santiago", 1.0), ("Santiago de Chile", 1.0)),
            ),
            Example("Peru", ("Lima",), (("Lima", 1.0), ("Quito", 0.5))),
        ),
        keywords=("geography",),
        metrics=("exact_str_match", "multiple_choice_grade"),
        preferred_score="exact_str_match",
    )


def test_defaults_are_those_of_the_format_and_every_field_comes_back(tmp_path):
    (task,), _ = load_bigbench(written(tmp_path, GOOD))
    shown = (task.task_prefix, task.example_input_prefix, task.example_output_prefix, task.choice_prefix)
    assert shown == ("", "\nQ: ", "\nA: ", "\n  choice: ")
    assert task.append_choices_to_input is True and task.few_shot_example_separator == "\n"
    others = {
        "task_prefix": "T",
        "example_input_prefix": "I",
        "example_output_prefix": "O",
        "choice_prefix": "C",
        "append_choices_to_input": False,
        "few_shot_example_separator": "S",
    }
    (changed,), _ = load_bigbench(written(tmp_path, GOOD | others))
    assert {field: getattr(changed, field) for field in others} == others
    assert load_bigbench(written(tmp_path, as_bigbench(changed))).tasks == [changed]


@pytest.mark.parametrize("field", ["description", "keywords", "metrics"])
def test_a_missing_descriptive_field_is_named_and_the_rest_loads(tmp_path, field):
    file = written(tmp_path, {name: value for name, value in GOOD.items() if name != field})
    (task,), problems = load_bigbench(file)
    assert [str(problem) for problem in problems] == [f"{file}: {field} is missing"]
    assert len(task.examples) == 4 and not getattr(task, field)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"input": 3, "target": "Paris"}, "input"),
        ({"input": "France"}, "target"),
        ({"input": "France", "target": []}, "target"),
        ({"input": "France", "target": ["Paris", None]}, "target"),
        ({"input": "France", "target_scores": {}}, "target_scores"),
        ({"input": "France", "target_scores": ["Paris"]}, "target_scores"),
        ({"input": "France", "target_scores": {"Paris": True}}, "target_scores"),
        ({"input": "France", "target_scores": {"Paris": float("nan")}}, "target_scores"),
        ({"input": "France", "target_scores": {"Paris": 10**400}}, "target_scores"),
    ],
)
def test_a_bad_example_is_named_and_left_out(tmp_path, change, field):
    file = written(tmp_path, GOOD | {"examples": [GOOD["examples"][0], change]})
    (task,), (problem,) = load_bigbench(file)
    assert task.examples == (Example("France", ("Paris",)),)
    assert problem.file == file and problem.field == f"examples[1].{field}"


@pytest.mark.parametrize(
    "content, field",
    [
        ("{", "as a whole"),
        ("[" * 100_000, "as a whole"),
        ("[1, 2]", "as a whole"),
        ("\x00", "as a whole"),
        ({**GOOD, "name": ""}, "name"),
        ({**GOOD, "examples": []}, "examples"),
        ({**GOOD, "examples": {"input": "a"}}, "examples"),
        ({**GOOD, "examples": ["a"]}, "examples[0]"),
        ({name: value for name, value in GOOD.items() if name != "examples"}, "examples"),
        ({name: value for name, value in GOOD.items() if name != "name"}, "name"),
    ],
)
def test_a_file_without_a_task_is_named_and_the_others_load(tmp_path, content, field):
    written(tmp_path / "a", GOOD)
    bad = written(tmp_path / "b", content)
    written(tmp_path / "c/subtask", GOOD | {"name": "in a subtask"})
    loaded = load_bigbench(tmp_path)
    assert [task.name for task in loaded.tasks] == ["capitals", "in a subtask"]
    assert [(problem.file, problem.field) for problem in loaded.problems] == [(bad, field)]


def test_a_field_of_another_type_has_its_default(tmp_path):
    (task,), (problem,) = load_bigbench(written(tmp_path, GOOD | {"append_choices_to_input": "no"}))
    assert task.append_choices_to_input is True
    assert problem.field == "append_choices_to_input" and '"no"' in str(problem)


def test_a_folder_has_json_files_of_its_own_and_task_files_below(tmp_path):
    written(tmp_path, GOOD, "one.json")
    written(tmp_path / "two", GOOD)
    written(tmp_path / "two/results", {"not": "a task"}, "scores.json")
    written(tmp_path, "no JSON", "README.md")
    loaded = load_bigbench(tmp_path)
    assert len(loaded.tasks) == 2 and not loaded.problems
    (tmp_path / "task.json").mkdir()
    loaded = load_bigbench(tmp_path)
    assert len(loaded.tasks) == 2 and [problem.file for problem in loaded.problems] == [tmp_path / "task.json"]


def test_a_place_without_task_files_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InvalidConfig, match="JSON task file"):
            load_bigbench(path)


def test_prompts_are_spelled_as_the_task_prescribes(tmp_path):
    (task,), _ = load_bigbench(written(tmp_path, GOOD | {"task_prefix": "Capitals."}))
    texts = prompts(task, np.random.default_rng(0))
    assert texts[0] == "Capitals.\nQ: France\nA: "
    assert texts[3] in (
        "Capitals.\nQ: Peru\n  choice: Lima\n  choice: Quito\nA: ",
        "Capitals.\nQ: Peru\n  choice: Quito\n  choice: Lima\nA: ",
    )
    orders = {prompts(task, np.random.default_rng(seed))[3] for seed in range(20)}
    assert len(orders) == 2


def test_shots_are_other_examples_with_their_answers():
    task = Task("t", "", tuple(Example(f"q{i}", (f"a{i}",)) for i in range(4)), example_input_prefix="")
    for index, text in enumerate(prompts(task, np.random.default_rng(0), shots=3)):
        *shown, asked = text.split("\nA: ")
        assert asked == "" and shown[-1].endswith(f"q{index}")
        lines = text.split("\n")
        assert sorted(lines[0:6:2]) == [f"q{other}" for other in range(4) if other != index]
        assert [line[3:] for line in lines[1:6:2]] == [f"a{line[1:]}" for line in lines[0:6:2]]
    for shots in (-1, 4):
        with pytest.raises(InvalidConfig, match="shots"):
            prompts(task, np.random.default_rng(0), shots=shots)
