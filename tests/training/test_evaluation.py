"""Evaluation by position: the values, the rows, and independence of the batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.training.evaluation import evaluate_by_position


def nll(params, batch, key):
    """Something that shows which token, row and key it came from."""
    noise = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))(batch["row"])
    return params * batch["tokens"].astype(jnp.float32) + noise[:, None]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_every_window_once_whatever_the_batch_size(batch_size):
    windows, key = np.arange(28, dtype=np.int32).reshape(7, 4), jax.random.key(3)
    noise = [float(jax.random.uniform(jax.random.fold_in(key, row))) for row in range(7)]
    values = evaluate_by_position(nll, jnp.float32(2.0), windows, key, batch_size)
    np.testing.assert_allclose(values, 2.0 * windows + np.asarray(noise, np.float32)[:, None], rtol=1e-6)
    assert values.dtype == np.float32
