"""The cosine transform against scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import dct, idct

from lexinv.merging.fourier import dct_matrix, dct_reduce

X = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)


@pytest.mark.parametrize("kept", [1, 4, 9, 10])
def test_scipy_transforms_the_same(kept):
    expected = idct(dct(X[1:].astype(np.float64), axis=0, norm="ortho")[:kept], axis=0, norm="ortho")
    found = np.asarray(dct_reduce(jnp.asarray(X), kept))
    np.testing.assert_allclose(found[1:], expected * np.sqrt(kept / 10), atol=1e-5)
    np.testing.assert_array_equal(found[0], X[0])


def test_all_coefficients_are_the_tokens_and_constants_stay():
    np.testing.assert_allclose(dct_reduce(jnp.asarray(X), 11, protect=0), X, atol=1e-5)
    np.testing.assert_allclose(dct_reduce(jnp.full((9, 2), 3.0), 4), 3.0, rtol=1e-5)
    np.testing.assert_allclose(dct_matrix(7) @ dct_matrix(7).T, np.eye(7), atol=1e-12)
    assert dct_reduce(jnp.ones((5, 2), jnp.bfloat16), 2).dtype == jnp.bfloat16
