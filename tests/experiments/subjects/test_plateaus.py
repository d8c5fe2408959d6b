"""What is kept of curves, runs that do not get to the threshold, the level of a plateau, and arms that differ in one thing."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.subjects.markov_models import MODEL, PopulationConfig
from experiments.subjects.markov_sources import SourceConfig
from experiments.subjects.plateaus import TaskConfig, arms, ln_ratio, plateau, size_ratio, summarise

SINGLE, RATE = 0.6931, 0.5004


def arm(reached: list, parameters: int = 0, kind: str = "characters", time: int = 128, width: int = 16) -> dict:
    reached = [[None] * len(reached), reached]
    return {"reached": reached, "best": 1, "parameters": parameters, "input": kind, "time": time, "width": width}


def test_a_slow_run_that_does_not_get_there_counts_as_the_budget_and_a_fast_one_as_endless():
    slow, fast = arm([200, 400, None]), arm([100, None, 100])
    np.testing.assert_allclose(ln_ratio(slow, fast, 1000), [np.log(2), -np.inf, np.log(10)])


def test_plateau_is_the_median_between_coming_near_and_leaving():
    near = SINGLE - 0.005
    assert plateau([1.2, 0.7, near, SINGLE, 0.68, SINGLE], SINGLE) == pytest.approx(SINGLE)
    assert plateau([1.2, near], SINGLE) == pytest.approx(near)


def test_without_a_plateau_the_nearest_evaluation_is_off_by_more_than_counts_as_near():
    assert plateau([1.2, 0.6, 0.5], SINGLE) == 0.6


def test_sizes_are_compared_without_tables_and_at_one_length_of_windows():
    trained = {
        "characters": arm([100, 200, None], 5000),
        "characters-T64": arm([10, 10, 10], 1500, time=64),
        "characters-width8": arm([300, None, None], 2000, width=8),
        "windowed": arm([10, 10, 10], 1500),
        "tokens": arm([100, 80, 120], 4000, "tokens", 32),
        "tokens-width8": arm([200, 160, 240], 1500, "tokens", 32, 8),
    }
    found = {"dictionary": 16, "arms": trained}
    # Median seeds: width 8 does not get there on characters. Tables: (128 + 2) 16 numbers of 5000, and (32 + 16) 8 of 1500.
    assert size_ratio(found) == pytest.approx((5000 - 16 * 130) / (1500 - 8 * 48))
    trained["characters"] = arm([None, None, None], 5000)
    assert size_ratio(found) == pytest.approx((5000 - 16 * 130) / (1500 - 8 * 48)), "the largest, as a lower bound"
    trained |= {name: trained[name] | {"reached": [[None]] * 2} for name in ("tokens", "tokens-width8")}
    assert size_ratio(found) == 0


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
    task = TaskConfig(SourceConfig(2, 0.8, 0.8), 16, times=(64,), widths=(8,))
    found = {arm.name: arm for arm in arms(task, MODEL, 128, 32, (2, 2, 32))}
    names = "characters characters-T64 tokens characters-width8 tokens-width8 windowed deep"
    assert list(found) == names.split()
    assert found["windowed"].model == replace(found["characters"].model, window=2)
    assert found["tokens"].model == replace(found["characters"].model, max_length=32)
    assert found["tokens-width8"].model.width == found["characters-width8"].model.width == 8
    assert (found["deep"].model.depth, found["deep"].model.heads) == (2, 2)
