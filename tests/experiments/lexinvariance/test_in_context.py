"""The claims on results made up to satisfy all of them, then spoilt one by one; and what a configuration may not be."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from experiments.lexinvariance.in_context import PRESETS, TasksConfig, claims, draw_tasks, figure
from experiments.lexinvariance.perplexity import Text
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.data.windows import TokenStream, window_source
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
SPREAD = np.array([0.0, 0.01, 0.02])


def arm(nats: float, whole: float, prompt: float) -> dict:
    task = {"whole": (whole + SPREAD).tolist(), "prompt": (prompt + SPREAD).tolist()}
    return {
        "nats": (nats + SPREAD[:, None] * np.ones(8)).tolist(),
        "accuracy": {"lookup 2": task, "permutation 2, 1": task},
    }


def made_up() -> dict:
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "shares": [0.0, 0.2, 1.0],
        "context": 8,
        "chance": {"lookup 2": 0.25, "permutation 2, 1": 0.05},
        "arms": {"0": arm(1.4, 0.1, 0.1), "0.2": arm(1.45, 0.2, 0.2), "1": arm(2.0, 0.6, 0.6)},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "share, value, broken",
    [
        ("1", arm(2.0, 0.15, 0.6), {"lexinvariant_twice_as_accurate"}),
        ("1", arm(2.0, 0.6, 0.1), {"lexinvariant_above_standard"}),
        ("0", arm(1.4, 0.1, 0.3), {"standard_near_chance"}),
        ("0.2", arm(1.45, 0.1, 0.2), {"semi_above_standard"}),
        ("0.2", arm(1.55, 0.2, 0.2), {"semi_costs_little"}),
    ],
)
def test_each_claim_can_fail(share, value, broken):
    results = copy.deepcopy(made_up())
    results["arms"][share] = value
    assert {name for name, holds in verdicts(results).items() if not holds} == broken


def test_figure_names_the_tasks():
    labels = {text.get_text() for axes in figure(made_up()).axes for text in axes.get_legend().get_texts()}
    assert {"lookup 2", "permutation 2, 1", "whole vocabulary"} <= labels


def text(tokenizer: str) -> Text:
    loaded = load_tokenizer(tokenizer, Corpus("made up", "0", {}))
    windows = window_source(TokenStream(np.zeros(64, np.uint8), np.array([0, 64])), 32)
    return Text("made up", "0", loaded.vocab_size, windows, [], loaded)


def test_items_are_spelled_with_the_tokenizers_characters():
    drawn = draw_tasks(SMOKE, text("letters"), seed=0)["lookup 2"]
    first = "".join(text("letters").tokenizer.decode(row) for row in np.asarray(drawn.tokens)[:1])
    assert [first[at] for at in (1, 3, 5, 7, 9)] == [",", ".", ",", ".", ","]
    assert len(first) == 11 and first[10] in (first[2], first[6])


def test_seeds_have_items_of_their_own():
    tokens = [np.asarray(draw_tasks(SMOKE, text("letters"), seed)["lookup 2"].tokens) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert (tokens[0] != tokens[2]).any()


def test_characters_that_the_tokenizer_folds_away_are_refused():
    config = replace(SMOKE, tasks=replace(SMOKE.tasks, arrow=">"))
    with pytest.raises(InvalidConfig, match=">"):
        draw_tasks(config, text("letters"), seed=0)
    assert draw_tasks(config, text("char"), seed=0)


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda: TasksConfig(symbols="aab"), "tasks.symbols"),
        (lambda: TasksConfig(symbols="ab,"), "tasks.symbols"),
        (lambda: TasksConfig(items=0), "tasks.items"),
        (lambda: TasksConfig(lookups=(), permutations=()), "tasks.lookups"),
        (lambda: replace(SMOKE, shares=(0.0, 0.2)), "shares"),
        (lambda: replace(SMOKE, shares=(1.0, 0.0)), "shares"),
        (lambda: replace(SMOKE, shares=(0.0, 1.0, 2.0)), "shares"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        change()
    assert error.value.field == field
