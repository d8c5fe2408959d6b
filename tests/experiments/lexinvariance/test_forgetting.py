"""The claims on results made up to satisfy all of them, then spoilt one by one; and what a configuration may not be."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from experiments.harness.workspace import Workspace, plain
from experiments.lexinvariance import forgetting
from experiments.lexinvariance.forgetting import (
    CONTROLS,
    FOLLOWED,
    PRESETS,
    STRUCTURAL,
    claims,
    draw_sets,
    figure,
    kinds,
)
from lexinv.lexinvariance.part_of_speech import PosTask
from lexinv.training.retention import CheckpointConfig
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
SPREAD = np.array([0.0, 0.005, 0.01])[:, None]
TASK = PosTask(vocab=40, holdout=8, bins=2, head=4)


def arm(structural: tuple, head_switch: tuple, tail_switch: float = 0.8, val: float = 0.98) -> dict:
    """Three evaluations of three seeds; every control of the held-out tokens alike."""
    rows = {kind: np.full((3, 3), val) for kind in FOLLOWED}
    rows["head_switch"] = np.array(head_switch) - SPREAD
    rows["tail_switch"] = tail_switch - SPREAD * np.ones(3)
    rows |= {kind: np.array(structural) - SPREAD for kind in CONTROLS}
    return {
        "accuracy": {kind: values.tolist() for kind, values in rows.items()},
        "by_bin": {kind: [0.5, 0.5, 0.5] for kind in kinds(TASK)[len(FOLLOWED) :]},
    }


def made_up() -> dict:
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "steps": [0, 1000, 2000],
        "temporary_until": 1000,
        "bins": 2,
        "arms": {
            "vanilla": arm((0.0, 0.9, 0.4), (0.0, 0.5, 0.1)),
            "active": arm((0.0, 0.97, 0.97), (0.0, 0.9, 0.9)),
            "temporary": arm((0.0, 0.95, 0.92), (0.0, 0.9, 0.3)),
            "probabilistic": arm((0.0, 0.9, 0.9), (0.0, 0.9, 0.8)),
            "lexinvariant": arm((0.0, 0.98, 0.98), (0.0, 0.98, 0.98)),
            "active, all moments": arm((0.0, 0.96, 0.96), (0.0, 0.9, 0.9)),
            "vanilla, output bias": arm((0.0, 0.8, 0.1), (0.0, 0.5, 0.1)),
        },
    }


FALLS = {"structural_rises_and_falls", "fall_survives_fitted_vectors", "fall_survives_context_scoring"}


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "changed, value, broken",
    [
        ("vanilla", arm((0.0, 0.6, 0.4), (0.0, 0.5, 0.1)), FALLS),
        (
            "vanilla",
            arm((0.0, 0.9, 0.4), (0.0, 0.9, 0.9)),
            {"active_removes_in_weights", "rare_tokens_in_context_frequent_in_weights"},
        ),
        (
            "active",
            arm((0.0, 0.97, 0.88), (0.0, 0.9, 0.9)),
            {"active_keeps_structural", "survives_fitted_gaussian"},
        ),
        ("temporary", arm((0.0, 0.95, 0.92), (0.0, 0.4, 0.3)), {"temporary_is_dual"}),
        ("temporary", arm((0.0, 0.95, 0.7), (0.0, 0.9, 0.3)), {"temporary_is_dual", "survives_fitted_gaussian"}),
        (
            "temporary",
            arm((0.0, 0.95, 0.92), (0.0, 0.9, 0.3), tail_switch=0.4),
            {"rare_tokens_in_context_frequent_in_weights"},
        ),
        ("lexinvariant", arm((0.0, 0.9, 0.9), (0.0, 0.98, 0.98)), {"lexinvariant_treats_all_tokens_alike"}),
        ("active, all moments", arm((0.0, 0.5, 0.5), (0.0, 0.9, 0.9)), {"moment_reset_does_not_matter"}),
        ("vanilla, output bias", arm((0.0, 0.8, 0.5), (0.0, 0.5, 0.1)), {"output_bias_hurts_held_out"}),
    ],
)
def test_each_claim_can_fail(changed, value, broken):
    results = copy.deepcopy(made_up())
    results["arms"][changed] = value
    assert {name for name, holds in verdicts(results).items() if not holds} == broken


@pytest.mark.parametrize(
    "kind, broken",
    [
        (STRUCTURAL, "structural_rises_and_falls"),
        ("holdout fitted", "fall_survives_fitted_vectors"),
        (f"{STRUCTURAL} in context", "fall_survives_context_scoring"),
    ],
)
def test_every_fall_is_judged_on_its_own(kind, broken):
    results = made_up()
    results["arms"]["vanilla"]["accuracy"][kind] = (np.array((0.0, 0.5, 0.4)) - SPREAD).tolist()
    assert {name for name, holds in verdicts(results).items() if not holds} == {broken}


def test_fitted_gaussian_is_judged_on_its_own():
    results = made_up()
    results["arms"]["active"]["accuracy"]["holdout fitted"] = np.zeros((3, 3)).tolist()
    assert {name for name, holds in verdicts(results).items() if not holds} == {"survives_fitted_gaussian"}


def test_figure_names_the_ways_to_forget_and_the_controls():
    drawn = figure(made_up())
    labels = {text.get_text() for axes in drawn.axes if axes.get_legend() for text in axes.get_legend().get_texts()}
    assert {"vanilla", "lexinvariant", "fitted, among the context"} <= labels


def test_seeds_and_sets_have_sequences_of_their_own():
    sets, held_out = draw_sets(SMOKE)
    assert sets.tokens.shape == (3, len(kinds(SMOKE.task)), SMOKE.sequences, 7)
    assert held_out.labels.shape == (3, SMOKE.sequences, 3)
    assert (sets.tokens[0] != sets.tokens[1]).any()
    assert int(sets.tokens.max()) < SMOKE.task.vocab <= int(held_out.tokens.max())


def test_structural_is_judged_on_initial_vectors_among_the_whole_vocabulary():
    assert STRUCTURAL in CONTROLS


def test_an_interrupted_arm_continues_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    config, shown = replace(SMOKE, seeds=(0,), evaluate_every=10), []
    sets = draw_sets(config)

    def interrupted_at(stop: int | None):
        @contextmanager
        def bar(*_):
            def show(done: int, loss: float) -> None:
                shown.append(done)
                if done == stop:
                    raise KeyboardInterrupt

            yield show

        return bar

    def measured(folder: str, stop: int | None) -> dict:
        monkeypatch.setattr(forgetting, "progress_bar", interrupted_at(stop))
        workspace = Workspace(tmp_path / folder, "hash", False, CheckpointConfig(seconds=0.0))
        return forgetting.measure("active", config.arms["active"], sets, config, workspace)

    undisturbed = measured("undisturbed", None)
    with pytest.raises(KeyboardInterrupt):
        measured("stopped", 20)
    shown.clear()
    assert plain(measured("stopped", None)) == plain(undisturbed)
    assert shown == [30, 40]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"seeds": (0, 0)}, "seeds"),
        ({"evaluate_every": 30}, "evaluate_every"),
        ({"temporary_until": 40}, "temporary_until"),
        ({"model": replace(SMOKE.model, causal=True)}, "model.causal"),
        ({"p_random": 2.0}, "forgetting.p_random"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
