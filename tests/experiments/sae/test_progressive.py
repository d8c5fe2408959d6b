"""Errors of codes of which only the largest entries are kept, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sae.progressive import squared_error, total_variance


def test_error_with_the_largest_entries_only():
    params = {"decoder": jnp.eye(3), "decoder_bias": jnp.zeros(3)}
    codes = jnp.array([[3.0, 2.0, 1.0], [0.0, 5.0, 0.0]])
    errors = [float(squared_error(params, codes, codes, jnp.int32(k))) for k in (1, 2, 3)]
    assert errors == pytest.approx([2.5, 0.5, 0.0])
    assert total_variance(codes) == pytest.approx(
        float(np.square(np.asarray(codes) - np.mean(np.asarray(codes), axis=0)).sum() / 2)
    )
