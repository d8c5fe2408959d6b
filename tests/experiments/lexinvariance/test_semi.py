"""The claims on results made up to satisfy all of them, then spoilt one by one; the tasks that are asked; what is refused."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.harness.workspace import open_workspace
from experiments.lexinvariance import in_context
from experiments.lexinvariance.perplexity import Text
from experiments.lexinvariance.semi import PRESETS, SuiteConfig, ask, claims, figure, load_tasks, mark_ids, run
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.data.windows import TokenStream, window_source
from lexinv.lexinvariance.symbol_tasks import FAMILIES
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
SPREAD = np.array([0.0, 0.01, 0.02])


def arm(nats: float, recall: float, rules: float, grade: float) -> dict:
    scores = {
        name: {
            scoring: (value + SPREAD).tolist()
            for scoring, value in (("whole", exact), ("prompt", exact), ("grade", grade))
        }
        for name, exact in (("latest", recall), ("word", recall), ("reverse", rules))
    }
    mine = {"capitals": {"whole": [0.0] * 3, "prompt": [0.0] * 3, "grade": [None] * 3}}
    return {"nats": (nats + SPREAD[:, None] * np.ones(8)).tolist(), "scores": scores | mine}


def made_up() -> dict:
    level = {"whole": 0.03, "prompt": 0.1, "grade": 0.25}
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "shares": [0.0, 0.2, 1.0],
        "context": 8,
        "suite": {"recall": ["latest", "word"], "rules": ["reverse"]},
        "chance": {"latest": level, "word": level, "reverse": level, "capitals": {**level, "grade": None}},
        "arms": {"0": arm(1.4, 0.3, 0.1, 0.3), "0.2": arm(1.45, 0.5, 0.2, 0.4), "1": arm(2.0, 0.9, 0.4, 0.6)},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    held = verdicts(made_up())
    assert len(held) == 4 and set(held.values()) == {True}


@pytest.mark.parametrize(
    "share, value, broken",
    [
        ("1", arm(2.0, 0.3, 0.1, 0.6), "lexinvariant_above_standard_on_suite"),
        ("1", arm(2.0, 0.9, 0.4, 0.22), "lexinvariant_above_chance"),
        ("0.2", arm(1.45, 0.3, 0.1, 0.4), "semi_above_standard"),
        ("0.2", arm(1.55, 0.5, 0.2, 0.4), "semi_costs_little"),
    ],
)
def test_each_claim_can_fail(share, value, broken):
    results = copy.deepcopy(made_up())
    results["arms"][share] = value
    assert {name for name, holds in verdicts(results).items() if not holds} == {broken}


def test_gains_are_means_over_tasks_of_a_group_and_of_all():
    measured = next(claim for claim in claims(made_up()) if claim.name == "semi_above_standard").measured
    assert {name: value.mean for name, value in measured.items()} == pytest.approx(
        {"suite": 0.5 / 3, "recall": 0.2, "rules": 0.1, "ratio": np.mean((0.4 + SPREAD) / (0.7 / 3 + SPREAD))}
    )


def test_one_seed_cannot_tell():
    results = made_up()
    for each in results["arms"].values():
        each["nats"] = each["nats"][:1]
        each["scores"] = {name: {key: row[:1] for key, row in task.items()} for name, task in each["scores"].items()}
    assert set(verdicts(results).values()) == {None}


def test_figure_names_tasks_of_the_suite_and_shares():
    drawn = figure(made_up())
    labels = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert labels == ["reverse", "word", "latest"]
    legend = {text.get_text() for text in drawn.axes[0].get_legend().get_texts()}
    assert legend == {"chance", "p = 0", "p = 0.2", "p = 1"}


@pytest.mark.parametrize("name", in_context.PRESETS)
def test_presets_train_the_models_of_the_in_context_experiment(name):
    mine, theirs = PRESETS[name], in_context.PRESETS[name]
    for field in ("model", "training", "data", "evaluation", "shares"):
        assert getattr(mine, field) == getattr(theirs, field)


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda: SuiteConfig(families=()), "suite.families"),
        (lambda: SuiteConfig(families=("copy", "copy")), "suite.families"),
        (lambda: SuiteConfig(families=("copied",)), "family"),
        (lambda: SuiteConfig(items=0), "suite.items"),
        (lambda: SuiteConfig(symbols="abcdefgh"), "symbols"),
        (lambda: SuiteConfig(length=6), "symbols"),
        (lambda: replace(SMOKE, shares=(0.0, 0.2)), "shares"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        change()
    assert error.value.field == field
