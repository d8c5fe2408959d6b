"""The claims on results made up to satisfy all of them, then spoilt one by one."""

import copy
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.tokenization.landscape import (
    ARMS,
    LEXICON,
    PRESETS,
    claims,
    evaluate,
    figure,
    state,
    steps_to_half,
    variants,
    windows_of,
)
from lexinv.nn.language_model import initialize
from lexinv.tokenization.sources import switching_kernel
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
SLOW, FAST = "p=0.2+q=0.2", "p=0.8+q=0.8"
LEVELS = {"entropy": 0.6931, "entropy_rate": 0.5004}


def arm(share: float, half: int) -> dict:
    """Three seeds that end at a share of the gap, after a loss that falls at the step `half`."""
    spread = np.array([0.0, 0.01, 0.02])
    excess = (share + spread) * (LEVELS["entropy"] - LEVELS["entropy_rate"])
    loss = np.where(np.arange(1, 61) * 10 < half, LEVELS["entropy"], LEVELS["entropy_rate"])
    return {
        "training_loss": [np.roll(loss, shift).tolist() for shift in (0, 1, 2)],
        "excess": excess.tolist(),
        "error": [0.001] * 3,
        "state": ["stationary" if share > 0.9 else "kernel"] * 3,
        "map": np.full((3, 2, 16), 0.5).tolist(),
    }


def made_up() -> dict:
    stuck, done = arm(0.97, 900), arm(0.0, 50)
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "steps": 600,
        "width": 8,
        "narrow": 4,
        "sources": {SLOW: {"p": 0.2, "q": 0.2, **LEVELS}, FAST: {"p": 0.8, "q": 0.8, **LEVELS}},
        "arms": {
            SLOW: {name: copy.deepcopy(done) for name in ARMS},
            FAST: {name: copy.deepcopy(stuck if name in ("tied", "tied_narrow") else done) for name in ARMS},
        },
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "source, name, change, broken",
    [
        (FAST, "tied", {"excess": [0.0, 0.2, 0.2]}, "tied_above_one_stays_at_stationary"),
        (FAST, "untied", {"excess": [0.0, 0.2, 0.2]}, "untied_escapes"),
        (SLOW, "tied", {"excess": [0.0, 0.2, 0.2]}, "tied_below_one_finds_kernel"),
        (FAST, "tied", {"training_loss": arm(0.0, 40)["training_loss"]}, "tied_above_one_is_slower"),
        (FAST, "untied_narrow", {"state": ["kernel", "stationary", "kernel"]}, "only_tied_models_ever_stay"),
        (FAST, "tied_unit", {"excess": [0.0, 0.2, 0.2]}, "unit_scale_escapes"),
        (SLOW, "untied", {"excess": [0.0, -0.004, 0.0]}, "never_below_entropy_rate"),
    ],
)
def test_each_claim_can_fail(source, name, change, broken):
    results = made_up()
    results["arms"][source][name].update(change)
    assert {claim for claim, holds in verdicts(results).items() if not holds} == {broken}


def test_one_seed_cannot_tell():
    results = made_up()
    results["seeds"] = [0]
    for arms in results["arms"].values():
        for found in arms.values():
            found.update({name: rows[:1] for name, rows in found.items()})
    assert {name for name, holds in verdicts(results).items() if holds is not None} == {"never_below_entropy_rate"}


def test_a_run_that_never_gets_there_counts_all_its_steps():
    results = made_up()
    np.testing.assert_array_equal(steps_to_half(results, FAST, "tied"), [600] * 3)
    np.testing.assert_array_equal(steps_to_half(results, FAST, "untied"), [50, 10, 10])


@pytest.mark.parametrize("predicted, expected", [(0.5, "stationary"), (0.4, "between"), (None, "kernel")])
def test_states_are_told_by_the_prediction(predicted, expected):
    truth = np.array([[0.8, 0.2, 0.2], [0.8, 0.8, 0.2]])
    assert state(truth + 0.03 if predicted is None else np.full((2, 3), predicted), truth, 0.5) == expected


def test_the_excess_of_a_model_is_its_loss_above_the_kernels():
    """A model whose tables are zero is the uniform one, which is pi of this source: excess log 2 - H_inf, at pi, everywhere 0.5."""
    kernel, config = switching_kernel(1, 0.8, 0.8), replace(SMOKE, windows=400)
    windows = windows_of(kernel, config, "test", 400).gather(np.arange(400))
    params = initialize(variants(config)["tied"], LEXICON, 2, jax.random.key(0))
    params["table"] = 0 * params["table"]
    found = evaluate(variants(config)["tied"], [params], kernel, windows)
    assert found["excess"][0] == pytest.approx(0.6931 - 0.5004, abs=4 * found["error"][0])
    assert found["state"] == ["stationary"]
    np.testing.assert_allclose(found["map"], 0.5, atol=1e-4)


def test_figure_says_how_many_runs_stay():
    drawn = figure(made_up())
    labels = [label.get_text() for label in drawn.axes[3].get_yticklabels()]
    assert labels[0] == "tied\n3 of 3 at pi"
    assert labels[1] == "untied\n0 of 3 at pi"


@pytest.mark.parametrize(
    "change, field",
    [
        ({"sources": ((0.2, 0.2),)}, "sources"),
        ({"sources": ((0.5, 0.5), (0.8, 0.8), (0.2, 0.2))}, "sources"),
        ({"sources": ((1.0, 0.5), (0.2, 0.2))}, "p"),
        ({"narrow": 8}, "narrow"),
        ({"windows": 1}, "windows"),
        ({"context": 2000}, "context"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
