"""The suite and task files of others are asked in characters of the tokenizer; what it cannot spell is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.harness.workspace import open_workspace
from experiments.lexinvariance.semi import PRESETS, SuiteConfig, ask, load_tasks, mark_ids, run
from experiments.subjects.text import Text
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.data.windows import TokenStream, window_source
from lexinv.lexinvariance.symbol_tasks import FAMILIES
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]


def text(tokenizer: str) -> Text:
    loaded = load_tokenizer(tokenizer, Corpus("made up", "0", {}))
    windows = window_source(TokenStream(np.zeros(64, np.uint8), np.array([0, 64])), 32)
    return Text("made up", "0", loaded.vocab_size, windows, [], loaded)


@pytest.mark.parametrize("tokenizer", ["letters", "char"])
def test_the_whole_suite_is_asked_in_characters_of_the_tokenizer(tokenizer):
    asked = ask(SMOKE, text(tokenizer), [], seed=0)
    assert set(asked) == set(FAMILIES)
    for task, answers in asked.values():
        for example, (first, *_) in zip(task.examples, answers, strict=True):
            whole = text(tokenizer).tokenizer.decode(first.tokens)
            assert whole == example.input + task.example_output_prefix + example.targets[0]
            assert len(first.tokens) - first.start == len(example.targets[0])
    assert {text(tokenizer).tokenizer.decode([mark]) for mark in mark_ids("abc", text(tokenizer))} == {",", ".", " "}


def test_seeds_and_families_have_items_of_their_own():
    first, again, other = (ask(SMOKE, text("letters"), [], seed) for seed in (0, 0, 1))
    assert first["copy"].task == again["copy"].task != other["copy"].task
    assert [e.input for e in first["reverse"].task.examples] != [e.input for e in first["copy"].task.examples]


CAPITALS = {
    "name": "capitals",
    "description": "Name the capital.",
    "keywords": [],
    "metrics": ["exact_str_match"],
    "examples": [
        {"input": "France", "target": "Paris"},
        {"input": "Peru", "target_scores": {"Lima": 1, "Quito": 0}},
        {"input": "Chile"},
    ],
}


def test_task_files_are_asked_beside_the_suite(tmp_path):
    (tmp_path / "capitals.json").write_text(json.dumps(CAPITALS))
    with pytest.warns(UserWarning, match=r"capitals.json: examples\[2\].target is missing"):
        others = load_tasks(str(tmp_path / "capitals.json"))
    config = replace(SMOKE, suite=replace(SMOKE.suite, shots=1), data=replace(SMOKE.data, context=128))
    task, answers = ask(config, text("char"), others, seed=0)["capitals"]
    spelled = text("char").tokenizer.decode(answers[0][0].tokens)
    assert spelled.startswith("\nQ: Peru\n  choice: ") and spelled.endswith("A: Lima\n\nQ: France\nA: Paris")
    assert [answer.text for answer in answers[1]] == ["Lima", "Quito"] and len(task.examples) == 2


@pytest.mark.long
def test_a_run_scores_task_files_and_takes_no_others_later(tmp_path):
    written = tmp_path / "capitals.json"
    written.write_text(json.dumps({**CAPITALS, "examples": CAPITALS["examples"][:2]}))
    suite = replace(SMOKE.suite, bigbench=str(written), families=("copy",))
    config = replace(SMOKE, suite=suite, shares=(0.0, 1.0))
    workspace = replace(open_workspace(tmp_path / "run", "lexinvariance/semi", "smoke", config), progress=False)
    results = run(config, workspace)
    for each in results["arms"].values():
        assert all(len(values) == 3 for values in each["scores"]["capitals"].values())
    assert results["chance"]["capitals"]["grade"] == 0.5 and results["suite"] == {"recall": [], "rules": ["copy"]}
    written.write_text(json.dumps({**CAPITALS, "examples": CAPITALS["examples"][:1]}))
    with pytest.raises(InvalidConfig, match="bigbench"):
        run(config, workspace)


def test_tasks_that_the_tokenizer_or_the_context_does_not_hold_are_refused(tmp_path):
    (tmp_path / "signs.json").write_text(json.dumps({**CAPITALS, "examples": [{"input": "a", "target": "+"}]}))
    with pytest.raises(InvalidConfig, match=r"capitals: examples\[0\]"):
        ask(SMOKE, text("letters"), load_tasks(str(tmp_path / "signs.json")), seed=0)
    with pytest.raises(InvalidConfig, match="at most 32 with the prompt"):
        ask(replace(SMOKE, data=replace(SMOKE.data, context=40)), text("letters"), [], seed=0)
    with pytest.raises(InvalidConfig, match="shots"):
        ask(replace(SMOKE, suite=SuiteConfig(shots=1)), text("char"), load_tasks(str(tmp_path / "signs.json")), seed=0)


@pytest.mark.parametrize("names", [("capitals", "capitals"), ("copy",)])
def test_tasks_of_one_name_are_refused(tmp_path, names):
    for index, name in enumerate(names):
        content = {**CAPITALS, "name": name, "examples": CAPITALS["examples"][:1]}
        (tmp_path / f"{index}.json").write_text(json.dumps(content))
    with pytest.raises(InvalidConfig, match=names[0]):
        load_tasks(str(tmp_path))


def test_symbols_that_the_tokenizer_folds_away_are_refused():
    with pytest.raises(InvalidConfig, match="A"):
        mark_ids("abA", text("letters"))
    assert len(mark_ids("abA", text("char"))) == 3
