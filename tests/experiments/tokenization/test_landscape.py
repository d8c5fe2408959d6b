"""The excess of a model that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.subjects.first_order_models import LEXICON, evaluate, windows_of
from experiments.tokenization.landscape import PRESETS, variants
from lexinv.data.markov import switching_kernel
from lexinv.nn.language_model import initialize


def test_the_excess_of_a_model_is_its_loss_above_the_kernels():
    """A model of zeros is the uniform one, which is pi of this source: excess log 2 - H_inf, at pi, everywhere 0.5."""
    kernel, model = switching_kernel(1, 0.8, 0.8), variants(PRESETS["smoke"])["tied"]
    windows = windows_of(kernel, jax.random.key(0), 400, 16).gather(np.arange(400))
    assert windows.shape == (400, 16)
    shapes = jax.eval_shape(lambda key: initialize(model, LEXICON, 2, key), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    found = evaluate(model, [params], kernel, windows)
    assert found["excess"][0] == pytest.approx(0.6931 - 0.5004, abs=4 * found["error"][0])
    assert found["state"] == ["stationary"]
    np.testing.assert_allclose(found["map"], 0.5, atol=1e-4)
