"""Claim C13 on made-up times; break-even by hand; every method really leaves half of the tokens."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.merging.overhead import METHODS, OverheadConfig, break_even, break_evens, draw, forward, judge
from lexinv.nn.transformer import Block
from lexinv.validation import InvalidConfig

LENGTHS = [16, 256, 2048]
SPREAD = np.array([1.0, 1.01, 0.99])


def made_up() -> dict:
    """ToMe takes twice the time at 16 tokens, as much at 256, half at 2048; random pruning is faster by a fifth."""
    ratios = np.array([2.0, 1.0, 0.5])[:, None] * SPREAD[None]
    cell = {"lengths": LENGTHS, "seconds": np.ones((3, 3)).tolist()}
    cell |= {name: (ratios * (0.8 if name == "random" else 1.0)).tolist() for name in METHODS}
    return {"batches": [1, 64], "cells": [cell, cell]}


def verdicts(measured: dict) -> dict:
    return {claim.name: claim.holds for claim in judge(measured)}


def test_all_claims_hold_on_results_that_satisfy_them():
    names = ("overhead_exceeds_gain_when_short", "overhead_exceeds_gain_when_merged_once", "reduction_pays_when_long")
    assert verdicts(made_up()) == dict.fromkeys(names, True)


@pytest.mark.parametrize(
    "method, row, ratio, broken, verdict",
    [
        ("tome", 0, 0.9, "overhead_exceeds_gain_when_short", False),  # never slower
        ("tome", 0, 1.7, "overhead_exceeds_gain_when_short", None),  # about as random's, below
        ("random", 0, 2.1, "overhead_exceeds_gain_when_short", False),  # it is not the scoring
        ("tome_once", 0, 0.9, "overhead_exceeds_gain_when_merged_once", False),
        ("tome", 2, 1.2, "reduction_pays_when_long", False),
    ],
)
def test_one_time_is_enough_to_break_a_claim(method, row, ratio, broken, verdict):
    measured = made_up()
    if verdict is None:
        measured["cells"][0]["random"][0] = [1.6, 1.9, 1.4]
    measured["cells"][0][method][row] = (ratio * SPREAD).tolist()
    found = verdicts(measured)
    assert found[broken] is verdict
    assert all(holds for name, holds in found.items() if name != broken)


def test_one_seed_cannot_tell():
    measured = made_up()
    for name in METHODS:
        measured["cells"][0][name] = [row[:1] for row in measured["cells"][0][name]]
    assert set(verdicts(measured).values()) == {None}


def test_break_even_by_hand():
    assert break_even([16, 64], [0.9, 0.5]) == 16
    assert break_even([16, 64], [2.0, 1.0]) is None
    assert break_even([16, 64, 256], [2.0, 1.5, 0.5]) == pytest.approx(128)  # half of the way in logarithms
    assert break_even([16, 64, 256], [0.9, 1.5, 0.5]) == pytest.approx(128)  # the last time, not the first
    assert break_evens(made_up())["tome"] == {"batch 1": 256, "batch 64": 256}


def test_panel_names_all_methods():
    axes = Figure().subplots()
    draw(made_up(), axes)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [*(label for label, _ in METHODS.values()), "all tokens"]


@pytest.mark.parametrize("name", ["full", *METHODS])
def test_methods_leave_half(name):
    config = OverheadConfig(depth=2, width=8, heads=2).layers
    key = jax.random.key(0)
    start = jax.vmap(lambda k: Block(config, False).init(k, jnp.zeros((1, 1, 8)), None)["params"])
    x = jax.random.normal(key, (2, 8, 8))
    left = forward(config, name, start(jax.random.split(key, 2)), x, key)
    assert left.shape == (2, 8 if name == "full" else 4, 8) and bool(jnp.isfinite(left).all())


def test_long_sequences_only_in_small_batches():
    config = OverheadConfig(lengths=(16, 64), batches=(1, 4), most_pairs=64**2)
    assert config.lengths_of(1) == [16, 64] and config.lengths_of(4) == [16]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"lengths": (64, 16)}, "lengths"),
        ({"lengths": ()}, "lengths"),
        ({"lengths": (15, 16)}, "lengths"),
        ({"batches": (4, 4)}, "batches"),
        ({"batches": (0, 4)}, "batches"),
        ({"most_pairs": 100}, "most_pairs"),
        ({"rounds": 0}, "rounds"),
        ({"turn_seconds": 0.0}, "turn_seconds"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(OverheadConfig(), **change)
    assert error.value.field == f"overhead.{field}"
