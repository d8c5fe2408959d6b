"""Uniform quantisation: what lies on the grid stays, errors are at most half a step, exact tokens are left out of the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.quantisation import largest_norms, quantise

quantised = jax.jit(quantise, static_argnames=("bits", "axes"))


def test_int4_by_hand():
    """Largest 7, so that the step is 1: the rest is rounded; half a step goes to the even number."""
    x = jnp.array([[7.0], [0.4], [-0.6], [2.5], [-6.9]])
    np.testing.assert_array_equal(quantised(x, 4)[:, 0], jnp.array([7.0, 0.0, -1.0, 2.0, -7.0]))


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("axes", [(0,), (0, 2), (0, 1, 2)])
def test_errors_are_at_most_half_a_step(bits, axes):
    x = jax.random.normal(jax.random.key(bits), (20, 3, 4))
    step = jnp.max(jnp.abs(x), axis=axes, keepdims=True) / (2 ** (bits - 1) - 1)
    found = quantised(x, bits, axes)
    error = jnp.abs(found - x) / step
    assert float(error.max()) <= 0.5 + 1e-4
    assert float(error.max()) > 0.3
    multiples = found / step
    np.testing.assert_allclose(multiples, jnp.round(multiples), atol=1e-4)


def test_one_outlier_coarsens_the_others_unless_it_is_exact():
    x = jnp.ones((8, 2)).at[3].set(100.0) * jnp.array([1.0, -1.0])[None]
    assert np.abs(quantised(x, 4) - x).max() == 1.0  # all the others are rounded to zero
    exact = jnp.arange(8) == 3
    np.testing.assert_allclose(quantised(x, 4, (0,), exact), x, rtol=1e-6)


def test_exact_tokens_may_be_anything():
    x = jnp.array([[1.0], [jnp.inf], [0.5]])
    found = quantised(x, 8, (0,), jnp.array([False, True, False]))
    np.testing.assert_allclose(found[:, 0], [1.0, jnp.inf, 64 / 127], rtol=1e-6)


def test_largest_norms():
    norms = jnp.array([1.0, 5.0, 3.0, 5.0, 9.0])
    assert largest_norms(norms, 2).tolist() == [False, True, False, False, True]
    mask = jnp.array([True, True, True, True, False])
    assert largest_norms(norms, 2, mask).tolist() == [False, True, False, True, False]
    assert largest_norms(norms, 5, mask).tolist() == mask.tolist()
