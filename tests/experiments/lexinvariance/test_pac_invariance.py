"""How many environments are needed, and what a family of them is."""

import jax
import numpy as np
import pytest

from experiments.lexinvariance.pac_invariance import Config, beyond_rank, exponents, needed
from experiments.subjects.intervened_models import causal_predictor, draw_family
from lexinv.lexinvariance.invariance import invariance_gap
from lexinv.lexinvariance.structural_equations import moments
from lexinv.precision import double_precision


def test_needed_environments_come_after_the_last_violation():
    stage = {"share": [[0.9, 0.0, 0.5, 0.0], [0.0] * 4, [0.1] * 4]}
    np.testing.assert_array_equal(needed(stage, [1, 2, 4, 8]), [8, 1, 16])


@pytest.mark.parametrize("sites, count", [("one", 1), ("two", 2), ("all", 6)])
def test_a_family_has_its_sites_and_an_invariant_causal_predictor(sites, count):
    @jax.jit
    def drawn(key):
        family = draw_family(key, Config(), 7, sites)
        seen = moments(family.second_moments(key, 20), family.target)
        return family.sites, invariance_gap(causal_predictor(family), seen)

    with double_precision():
        chosen, gaps = drawn(jax.random.key(0))
        assert int(chosen.sum()) == count
        assert not chosen[7 // 2]
        assert gaps.max() < 1e-12


def test_only_gaps_from_the_rank_on_count_as_transfer():
    stage = {"rank": [4, 9], "gap": [[0.9, 1e-3, 1e-9], [0.9, 0.8, 0.7]]}
    np.testing.assert_array_equal(beyond_rank(stage, [2, 4, 8]), [1e-3, 0])


def test_exponents_are_those_of_powers():
    sizes = [6, 12, 50]
    np.testing.assert_allclose(exponents(sizes, [np.array([n**1.5, 4.0]) for n in sizes]), [1.5, 0], atol=1e-12)
