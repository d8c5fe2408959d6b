"""The claims on results made up to satisfy all of them, then spoilt one by one; the fixed schedule; refused configurations."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from experiments.merging.reduced_vision import cost
from experiments.merging.retrained import PRESETS, claims, figure, fixed_schedule
from experiments.subjects.glyph_classifiers import GLYPHS
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.validation import InvalidConfig

SPREAD = 0.001 * np.arange(3)


def pair(before: float, after: float) -> dict:
    return {"before": (before + SPREAD).tolist(), "after": (after + SPREAD).tolist()}


def made_up() -> dict:
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "ratio": 0.8,
        "schedules": {"ratio": {"tokens": [65, 20], "flops": 0.54}, "fixed": {"tokens": [65, 10], "flops": 0.543}},
        "unreduced": pair(0.97, 0.98),
        "methods": {"tome": pair(0.9, 0.97), "pitome": pair(0.93, 0.975), "prune_random": pair(0.5, 0.6)},
        "fixed": {"tome": pair(0.8, 0.96), "pitome": pair(0.85, 0.96)},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "change, broken",
    [
        (lambda r: r["methods"].update(prune_random=pair(0.5, 0.505)), {"gap_shrinks"}),  # the control gained more
        (lambda r: r["methods"].update(prune_random=pair(0.961, 0.971)), set()),  # there is no gap to close
        (lambda r: r["methods"].update(pitome=pair(0.93, 0.968)), {"pitome_recovers"}),
        (lambda r: r["methods"].update(tome=pair(0.9, 0.985)), {"pitome_retrained_not_below_tome"}),
        (lambda r: r["fixed"].update(tome=pair(0.91, 0.96)), {"ratio_beats_fixed"}),
        (lambda r: r["fixed"].update(pitome=pair(0.8, 0.98)), {"ratio_beats_fixed_retrained"}),
        (
            lambda r: r["schedules"]["fixed"].update(flops=0.5),
            {"ratio_beats_fixed", "ratio_beats_fixed_retrained"},
        ),
    ],
)
def test_each_claim_can_break(change, broken):
    results = made_up()
    change(results)
    assert {name for name, holds in verdicts(results).items() if holds is False} == broken


def test_one_seed_cannot_tell():
    results = made_up()
    for runs in (results["unreduced"], *results["methods"].values(), *results["fixed"].values()):
        runs |= {when: values[:1] for when, values in runs.items()}
    assert set(verdicts(results).values()) == {None}


def test_the_fixed_schedule_is_even_and_costs_the_same():
    model = GLYPHS.model
    goal = cost(model, ratio_schedule(65, 6, 0.8))
    schedule = fixed_schedule(model, goal)
    assert token_counts(65, schedule) == (65, 56, 47, 38, 29, 19, 10)
    assert cost(model, schedule) == pytest.approx(goal, rel=0.01)
    assert fixed_schedule(model, 1.0) == (0,) * 6


def test_figure_leaves_results_alone():
    results = made_up()
    before = copy.deepcopy(results)
    drawn = figure(results)
    assert len(drawn.axes) == 2
    assert results == before


@pytest.mark.parametrize(
    "field, change",
    [
        ("methods", {"methods": ("tome", "best")}),
        ("methods", {"methods": ("tome",)}),
        ("scheduled", {"scheduled": ()}),
        ("scheduled", {"scheduled": ("mctf",)}),
        ("ratio", {"ratio": 1.0}),
        ("finetuning.seeds", {"finetuning": replace(PRESETS["cpu"].finetuning, seeds=(7,))}),
        ("images", {"images": 100}),
    ],
)
def test_impossible_configurations_are_refused(field, change):
    with pytest.raises(InvalidConfig, match=field):
        replace(PRESETS["cpu"], **change)
