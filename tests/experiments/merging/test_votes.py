"""Pairs in order, and the two groups of tokens whose importance is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.merging.votes import ARMS, MajorityConfig, majority, ranks_above


def test_pairs_in_order():
    """By hand: of 2 x 3 pairs, glyph 3 is above all, glyph 1 above one, level with one and below one."""
    scores = jnp.array([3.0, 1, 0, 1, 2, 9])
    first, second = jnp.array([1, 1, 0, 0, 0, 0]) == 1, jnp.array([0, 0, 1, 1, 1, 0]) == 1
    assert float(ranks_above(scores, first, second)) == pytest.approx(4.5 / 6)
    assert float(ranks_above(jnp.zeros(6), first, second)) == 0.5


@pytest.mark.parametrize("arm", ARMS)
def test_votes_find_what_the_chain_predicts(arm):
    found = majority(MajorityConfig(tokens=40, shares=(0.5, 0.9), noise=0.01), arm, 0)
    np.testing.assert_allclose(found["ratio"], found["predicted"], rtol=0.01)
