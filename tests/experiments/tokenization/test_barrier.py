"""The claims on results made up to satisfy all of them, then spoilt one by one; the arms, the floors and what is kept of curves."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from experiments.subjects.markov_models import PopulationConfig
from experiments.subjects.markov_sources import SourceConfig
from experiments.tokenization.barrier import (
    K2,
    MODEL,
    PRESETS,
    TaskConfig,
    arms,
    claims,
    figure,
    plateau,
    steps_to_threshold,
    summarise,
)
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
SINGLE, RATE, BUDGET = 0.6931, 0.5004, 1000
STEPS = [0, 200, 400, 600, 800, 1000]


def arm(kind: str, reached: list, parameters: int, **changes) -> dict:
    """Three seeds at two learning rates, of which the second is the best; on the plateau up to step 400."""
    curve = [1.2, SINGLE - 0.001, SINGLE - 0.001, 0.6, 0.51, 0.505]
    return {
        "input": kind,
        "depth": 1,
        "width": 16,
        "time": 128 if kind == "characters" else 32,
        "parameters": parameters,
        "characters_per_step": 2000.0,
        "uniform_guess": 0.69 if kind == "characters" else 0.57,
        "floor": 0.503,
        "steps": STEPS,
        "reached": [[None] * 3, reached],
        "best": 1,
        "loss": [curve] * 3,
        "final_loss": [[0.6] * 3, [0.505] * 3],
        "below_floor": 1.5,
        **changes,
    }


def source(order: int) -> dict:
    return {
        "order": order,
        "entropy_rate": RATE,
        "stationary_entropy": SINGLE,
        "dictionary": 16,
        "arms": {
            "characters": arm("characters", [700, 800, None], 5000),
            "characters-T64": arm("characters", [300, 400, 500], 4000, time=64),
            "characters-width8": arm("characters", [None] * 3, 2000),
            "tokens": arm("tokens", [100, 80, 120], 4000),
            "tokens-width8": arm("tokens", [200, 160, 240], 1500),
            "windowed": arm("characters", [60, 80, 60], 5000),
            "deep": arm("characters", [400, 400, 500], 30000),
        },
    }


def made_up() -> dict:
    first = source(1)
    del first["arms"]["windowed"], first["arms"]["deep"]
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "learning_rates": [2e-3, 6e-3],
        "budget": BUDGET,
        "sources": {"k1": first, "k2": source(2), "k4": source(4)},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


def test_one_seed_cannot_tell():
    results = made_up() | {"seeds": [0]}
    assert {name for name, holds in verdicts(results).items() if holds is not None} == {"never_below_entropy_rate"}


@pytest.mark.parametrize(
    "name, change, broken",
    [
        ("characters", {"loss": [[1.2, 0.690, 0.690, 0.6, 0.6, 0.5]] * 3}, {"plateau_at_stationary_entropy"}),
        ("characters", {"loss": [[1.2, 0.6, 0.6, 0.6, 0.6, 0.5]] * 3}, {"plateau_at_stationary_entropy"}),
        (
            "characters",
            {"reached": [[None] * 3, [200, 250, 300]]},
            {"tokens_remove_plateau", "tokens_save_parameters_times_steps"},
        ),
        ("characters", {"reached": [[None] * 3, [700, 800, 110]]}, {"tokens_remove_plateau"}),
        ("tokens", {"reached": [[None] * 3, [100, 80, None]]}, {"tokens_remove_plateau"}),
        ("windowed", {"reached": [[None] * 3, [60, 80, None]]}, {"window_removes_plateau"}),
        ("windowed", {"reached": [[None] * 3, [60, 900, 60]]}, {"window_removes_plateau"}),
        ("deep", {"reached": [[None] * 3, [400, None, 500]]}, {"two_layers_escape"}),
        (
            "characters-width8",  # 8 (128 + 2) numbers are tables: 360 are left, of tokens 1500 - 8 (32 + 16)
            {"parameters": 1400, "reached": [[None] * 3, [2300, 2300, 2300]]},
            {"tokens_need_fewer_parameters", "tokens_save_parameters_times_steps"},
        ),
        ("tokens", {"below_floor": -3.5}, {"never_below_entropy_rate"}),
    ],
)
def test_each_claim_can_fail(name, change, broken):
    results = copy.deepcopy(made_up())
    results["sources"]["k4"]["arms"][name].update(change)
    assert {name for name, holds in verdicts(results).items() if not holds} == broken


def test_the_first_order_is_no_barrier():
    """Its steps are reported and not judged."""
    results = copy.deepcopy(made_up())
    results["sources"]["k1"]["arms"]["characters"]["reached"] = [[None] * 3, [100, 100, 100]]
    assert set(verdicts(results).values()) == {True}
    measured = next(claim for claim in claims(results) if claim.name == "tokens_remove_plateau").measured
    assert measured["k1"]["median"] == pytest.approx(1.0)
    assert measured["k2"]["censored"] == {"characters": 1, "tokens": 0}


def test_a_run_that_does_not_get_there_counts_as_the_budget():
    np.testing.assert_array_equal(
        steps_to_threshold(made_up()["sources"]["k2"]["arms"]["characters"], BUDGET), [700, 800, 1000]
    )


def test_plateau_is_the_median_between_coming_near_and_leaving():
    near = SINGLE - 0.005
    assert plateau([1.2, 0.7, near, SINGLE, 0.68, SINGLE], SINGLE) == pytest.approx(SINGLE)
    assert plateau([1.2, near], SINGLE) == pytest.approx(near)
    assert plateau([1.2, 0.6, 0.5], SINGLE) is None


def test_summary_takes_the_rate_with_the_fewest_median_steps_and_no_censored_run_wins():
    training = PopulationConfig(steps=40, seeds=(0, 1, 2), learning_rates=(1e-3, 2e-3), evaluate_every=20)
    # The first rate gets one seed there at once and leaves two behind; the second gets all of them there at the end.
    excess = np.array(
        [[0.5, 0.0, 0.0], [0.5, 0.5, 0.4], [0.5, 0.5, 0.4], [0.5, 0.3, 0.0099], [0.5, 0.3, 0.0098], [0.5, 0.3, 0.0]]
    )
    curves = {"steps": [0, 20, 40], "loss": RATE + excess, "excess": excess, "error": np.full_like(excess, 0.01)}
    found = summarise(curves, floor=RATE, single=RATE + 0.2, training=training)
    assert found["reached"] == [[20, None, None], [40, 40, 40]]
    assert found["best"] == 1
    np.testing.assert_allclose(found["loss"], RATE + excess[3:], atol=1e-9)
    assert found["below_floor"] == 0.0


def test_arms_differ_in_what_they_say_and_nothing_else():
    config = replace(PRESETS["cpu"], tasks=(TaskConfig(K2, 16, times=(64,), widths=(8,)),))
    found = {arm.name: arm for arm in arms(config.tasks[0], config)}
    assert set(found) == {
        "characters",
        "characters-T64",
        "tokens",
        "characters-width8",
        "tokens-width8",
        "windowed",
        "deep",
    }
    assert found["windowed"].model == replace(found["characters"].model, window=2)
    assert found["tokens"].model == replace(found["characters"].model, max_length=32)
    assert found["tokens-width8"].model.width == found["characters-width8"].model.width == 8
    assert (found["deep"].model.depth, found["deep"].model.heads) == (2, 2)


def test_figure_is_drawn_from_results_alone_and_names_every_arm():
    drawn = figure(made_up())
    labels = [text.get_text() for text in drawn.axes[1].get_legend().get_texts()]
    assert [label.split(" (")[0] for label in labels][:4] == [
        "characters",
        "characters, window k",
        "characters, deeper",
        "tokens",
    ]
    drawn.canvas.draw()


@pytest.mark.parametrize(
    "change, field",
    [
        ({"tasks": ()}, "tasks"),
        ({"tasks": (TaskConfig(K2, 4), TaskConfig(K2, 8))}, "tasks"),
        ({"tasks": (TaskConfig(K2, 2),)}, "dictionary"),
        ({"tasks": (TaskConfig(K2, 4, times=(32,)),)}, "times"),
        ({"tasks": (TaskConfig(K2, 4, times=(300,)),)}, "time"),
        ({"tasks": (TaskConfig(K2, 4, widths=(8,)),)}, "widths"),
        ({"tasks": (TaskConfig(SourceConfig(8, 0.8, 0.8), 4),), "time": 8}, "time"),
        ({"token_time": 1}, "token_time"),
        ({"model": replace(MODEL, window=2)}, "model.window"),
        ({"tasks": (TaskConfig(K2, 4),), "deep": (2, 3, 32)}, "model.heads"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
