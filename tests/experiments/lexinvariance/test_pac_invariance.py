"""What a family of environments is, and that a bound is judged by predictors that can break it."""

import jax
import numpy as np
import pytest

from experiments.lexinvariance.pac_invariance import PRESETS, Config, exponents
from experiments.subjects.intervened_models import coverage, draw_family
from lexinv.lexinvariance.invariance import invariance_gap
from lexinv.precision import double_precision


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_family_has_its_sites_and_invariant_parents(kind):
    @jax.jit
    def drawn(key, count):
        family = draw_family(key, Config(), 7, count, kind)
        return family.sites, invariance_gap(family.parents, family.moments(key, 20))

    with double_precision():
        for count in (1, 2, 6):
            sites, gaps = drawn(jax.random.key(0), count)
            assert int(sites.sum()) == count
            assert not sites[7 // 2]
            assert bool(sites[7 // 2 + 1]) or count == 1
            assert gaps.max() < 1e-12


@pytest.mark.long
def test_repeated_draws_of_environments():
    """Of gaps below ε nothing can be violated; with many environments only predictors pass that are hardly ever violated."""
    with double_precision():
        found = coverage(PRESETS["smoke"], 6, (1, 64), (50, 5000), 4)
    worst, parents = np.array(found["worst"]), np.array(found["parents"])
    assert (worst[:, 1] <= worst[:, 0]).all() and worst[:, 0].max() > 0.5
    assert worst[:, 1].max() < found["allowed"][1]
    assert np.diff(parents, axis=2).min() >= 0 and (parents[:, 1, -1] > parents[:, 0, 0]).all()


def test_exponents_are_those_of_powers():
    sizes = [6, 12, 50]
    np.testing.assert_allclose(exponents({n: np.array([n**1.5, 4.0]) for n in sizes}), [1.5, 0], atol=1e-12)
