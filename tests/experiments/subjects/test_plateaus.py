"""The level of a plateau, and runs that do not get to the threshold."""

import numpy as np
import pytest

from experiments.subjects.markov_models import PopulationConfig
from experiments.subjects.plateaus import plateau, summarise

SINGLE, RATE = 0.6931, 0.5004


def test_plateau_is_the_median_between_coming_near_and_leaving():
    near = SINGLE - 0.005
    assert plateau([1.2, 0.7, near, SINGLE, 0.68, SINGLE], SINGLE) == pytest.approx(SINGLE)
    assert plateau([1.2, near], SINGLE) == pytest.approx(near)


def test_without_a_plateau_the_nearest_evaluation_is_off_by_more_than_counts_as_near():
    assert plateau([1.2, 0.6, 0.5], SINGLE) == 0.6


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
