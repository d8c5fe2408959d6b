"""Where JAX_ENABLE_X64 makes float64 the default, what is float32 stays it, and what is carried through scans fits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lexinv.lexinvariance import invariance
from lexinv.nn import vision_language
from lexinv.nn.language_model import initialize, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.linear import linear, rms_norm
from lexinv.nn.transformer import TransformerConfig
from lexinv.nn.vision_transformer import LAYERS, VisionConfig
from lexinv.precision import double_precision
from lexinv.sae.autoencoders import AutoencoderConfig
from lexinv.sae.jumprelu import jump_relu, step
from lexinv.sae.losses import LossConfig
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens
from lexinv.sae.training import OptimizerConfig, create_autoencoder_state, make_autoencoder_step, make_optimizer
from lexinv.tokenization.bayes import predictive_log_probs
from lexinv.training.state import create_state
from lexinv.training.step import make_train_step

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


@pytest.mark.parametrize("lexicon", [LexiconConfig("semi", 0.5), LexiconConfig("lexinvariant", vocab_block=4)])
def test_a_language_model_can_be_trained(lexicon):
    """Types alone: a state that does not fit is refused when the step is traced."""
    config, optimizer = TransformerConfig(depth=1, width=8, heads=1), optax.sgd(0.1)
    state = jax.eval_shape(lambda key: create_state(initialize(config, lexicon, 6, key), optimizer, key), KEY)
    batch = {"tokens": jnp.zeros((2, 1, 4), jnp.int32), "row": jnp.zeros((2, 1), jnp.int32)}
    after, _ = jax.eval_shape(make_train_step(make_loss(config, lexicon, 6), optimizer), state, batch)
    assert jax.tree.leaves(after) == jax.tree.leaves(state)


def test_sizes_of_tokens_are_float32():
    vision = VisionConfig(4, 2, 3, 5, layers=replace(LAYERS, depth=1, width=8, heads=1, mlp_width=8))
    config = vision_language.VisionLanguageConfig(vision, TransformerConfig(1, 8, 1, 8), words=3, answers=2)

    def sizes(key, images, words):
        params = vision_language.initialize(config, key)
        encoded = vision_language.encode(config, params, images)
        return vision_language.prompt(config, params, encoded.visual, words).size

    assert jax.eval_shape(sizes, KEY, jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 2), jnp.int32)).dtype == jnp.float32


@pytest.mark.parametrize("drawn", [{}, {"correlation": 0.5, "orthogonal": True, "width": 128}])
def test_activations_that_autoencoders_are_trained_on_are_float32(drawn):
    config = SyntheticConfig(**drawn)
    tokens = jax.eval_shape(lambda key: sample_tokens(config, make_dictionary(config, key), 4, key), KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(tokens)} == {np.dtype("float32")}


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
