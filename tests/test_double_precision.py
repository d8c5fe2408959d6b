"""Where JAX_ENABLE_X64 makes float64 the default, what is float32 stays it, and what is carried through scans fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.lexinvariance import invariance
from lexinv.nn.linear import linear, rms_norm
from lexinv.precision import double_precision
from lexinv.sae.autoencoders import AutoencoderConfig
from lexinv.sae.jumprelu import jump_relu, step
from lexinv.sae.losses import LossConfig
from lexinv.sae.training import OptimizerConfig, create_autoencoder_state, make_autoencoder_step, make_optimizer
from lexinv.tokenization.bayes import predictive_log_probs

KEY = jax.random.key(0)
MOMENTS = invariance.Moments(
    *(np.asarray(part, np.float32) for part in (np.stack([np.eye(2), 2 * np.eye(2)]), np.ones((2, 2)), np.ones(2)))
)


@pytest.fixture(autouse=True)
def x64():
    with double_precision(), jax.numpy_dtype_promotion("standard"):
        yield


def test_predictors_have_the_type_of_their_moments():
    found = jax.eval_shape(lambda moments: invariance.invariant_subset(moments, 1e-3), MOMENTS)
    assert {leaf.dtype for leaf in found} == {np.dtype("float32")}


def test_the_bayes_predictor_is_the_same_in_float32():
    found = predictive_log_probs(jnp.array([[1, 1, 0, 1]], jnp.int32), 1, 2)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(found[0, :, 1]), [1 / 2, 1 / 2, 2 / 3, 1 / 2], rtol=1e-6)


@pytest.mark.parametrize("kind", ["mutual", "jumprelu"])
def test_autoencoders_are_trained_on_activations_of_numpy(kind):
    config = AutoencoderConfig(8, 16, kind)
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=1), config, 10)
    state = jax.eval_shape(
        lambda key: create_autoencoder_state(config, optimizer, jnp.ones((4, 8)), 2.0, 0.1, key), KEY
    )
    batches = {"activations": jnp.ones((2, 4, 8))}
    assert batches["activations"].dtype == jnp.float64
    after, _ = jax.eval_shape(make_autoencoder_step(config, LossConfig(), optimizer), state, batches)
    assert jax.tree.leaves(after) == jax.tree.leaves(state)


@pytest.mark.parametrize(
    "function, shapes",
    [
        (linear, [(2, 3), (3, 4)]),
        (rms_norm, [(2, 3), (3,)]),
        (lambda x, threshold: jump_relu(x, threshold, 0.1), [(2, 3), (3,)]),
        (lambda x, threshold: step(x, threshold, 0.1), [(2, 3), (3,)]),
    ],
    ids=["linear", "rms_norm", "jump_relu", "step"],
)
@pytest.mark.parametrize("types", [("float32", "float64"), ("float64", "float32")])
def test_gradients_that_are_written_out_have_the_type_of_what_they_are_of(function, shapes, types):
    inputs = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(shapes, types, strict=True)]
    found = jax.eval_shape(jax.grad(lambda *of: jnp.sum(function(*of)), (0, 1)), *inputs)
    assert [str(leaf.dtype) for leaf in found] == list(types)
