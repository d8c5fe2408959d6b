"""Transcoders and crosscoders: planted features are found at both sites, equal sites are one, and other sites are refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.activation_streams import ComputedActivations, side_by_side
from lexinv.sae.autoencoders import encode
from lexinv.sae.inference import encode_alone, make_reconstruct
from lexinv.sae.losses import LossConfig, loss, start_statistics
from lexinv.sae.methods import AutoencoderConfig
from lexinv.sae.metrics import recovery
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens
from lexinv.sae.training import (
    OptimizerConfig,
    _tangent,
    create_autoencoder_state,
    make_autoencoder_step,
    make_optimizer,
)
from lexinv.validation import InvalidConfig

WIDTH, OTHER, TOKENS, STEPS = 16, 24, 64, 300
DATA = SyntheticConfig(width=WIDTH, features=WIDTH, l0=2.0, alpha=0.0, difficulty=0.0, orthogonal=True, spread=1.0)


@pytest.fixture(scope="module")
def planted():
    """Directions at one site, the linear map to another, and tokens: both sites side by side."""
    dictionary = make_dictionary(DATA, jax.random.key(0))
    mapped = jax.random.normal(jax.random.key(1), (WIDTH, OTHER)) / OTHER**0.5
    x = sample_tokens(DATA, dictionary, STEPS * TOKENS, jax.random.key(2)).activations
    both = jnp.concatenate([x, x @ mapped], axis=1).reshape(STEPS, TOKENS, WIDTH + OTHER)
    return np.asarray(dictionary), np.asarray(dictionary @ mapped), both


def mcc(decoder, directions) -> float:
    return recovery(np.asarray(decoder), directions, np.ones((1, len(decoder))), np.ones((1, len(directions)))).mcc


@pytest.mark.parametrize("sites", ["transcoder", "crosscoder"])
def test_planted_features_are_recovered_through_a_linear_map(sites, planted):
    read, written, both = planted
    crossed = sites == "crosscoder"
    shape = {"width": WIDTH + OTHER, "sites": (WIDTH, OTHER)} if crossed else {"width": WIDTH, "output": OTHER}
    config = AutoencoderConfig(features=32, kind="topk", **shape)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=2e-2, warmup_steps=10), config, STEPS)
    state = create_autoencoder_state(config, optimizer, both[0], 2.0, 0.0, jax.random.key(3))
    terms = LossConfig(auxiliary="dead", auxiliary_k=4, dead_after=500, auxiliary_coefficient=0.25)
    state, metrics = make_autoencoder_step(config, terms, optimizer)(state, {"activations": both})
    decoder = state.params["decoder"]
    assert mcc(decoder[:, -OTHER:], written) > 0.99
    if crossed:
        assert mcc(decoder[:, :WIDTH], read) > 0.99
        return
    rebuilt = make_reconstruct(config, 2)((state.params, None), both[-1, :, :WIDTH].reshape(8, 8, WIDTH))
    assert rebuilt.shape == (8, 8, OTHER)
    error = np.square(rebuilt.reshape(TOKENS, OTHER) - both[-1, :, WIDTH:]).sum() / np.square(both[-1, :, WIDTH:]).sum()
    assert error == pytest.approx(float(metrics["fvu"][-1]), rel=0.5) and error < 0.3


ROOT = np.float32(2**0.5)
HALVES = {
    "encoder": lambda leaf: jnp.concatenate([leaf, leaf]) / ROOT,
    "decoder": lambda leaf: jnp.concatenate([leaf, leaf], axis=1) / ROOT,
    "decoder_bias": lambda leaf: jnp.concatenate([leaf, leaf]),
    "log_magnitude": lambda leaf: leaf,
}
"""The crosscoder of two equal sites with the codes of the autoencoder, root of 2 times as large; biases and thresholds are as well."""


@pytest.mark.parametrize("kind", ["relu", "free", "gated", "jumprelu", "topk", "mutual", "pursuit"])
def test_the_crosscoder_of_two_equal_sites_is_the_autoencoder(kind, autoencoder):
    """The same loss, and gradients that are the same step in the parameters of the autoencoder."""
    config, params, _, _, x = autoencoder(kind)
    shape = {name: getattr(config, name) for name in ("features", "kind", "free_norms", "most_active")}
    twice = AutoencoderConfig(width=12, sites=(6, 6), **shape)
    doubled = {name: HALVES.get(name, lambda leaf: leaf * ROOT)(leaf) for name, leaf in params.items()}
    terms = LossConfig(auxiliary="dead", auxiliary_k=3, dead_after=1)

    def judged(config, params, x):
        statistics = start_statistics(config, 2.0, 0.3)._replace(tokens_since_fired=jnp.arange(9) % 3)
        return jax.value_and_grad(lambda p: loss(config, terms, p, statistics, x), has_aux=True)(params)

    (total, (metrics, _)), gradient = jax.jit(lambda: judged(config, params, x))()
    (crossed, (others, _)), found = jax.jit(lambda: judged(twice, doubled, jnp.concatenate([x, x], axis=1)))()
    np.testing.assert_allclose([crossed, others["l0"]], [total, metrics["l0"]], rtol=1e-5)
    if config.unit_norm:  # what is along a row is taken from a gradient before the step
        gradient, found = _tangent(gradient, params), _tangent(found, doubled)
    for name, leaf in gradient.items():
        # Of a sum over what moves together: the halves' gradients, each over the factor with which it moves.
        half = found[name][tuple(slice(size) for size in leaf.shape)]
        factor = {"decoder_bias": 2.0, "log_magnitude": 1.0}.get(name, ROOT)
        np.testing.assert_allclose(half * factor, leaf, rtol=1e-3, atol=1e-5, err_msg=name)


def test_sites_of_another_model_are_refused_by_name():
    rows = np.zeros((5, 3), np.float32)
    first, second = (ComputedActivations(3, np.array(blocks), lambda index: rows) for blocks in ([5, 5], [5, 4]))
    joined = side_by_side({"layer 3": first, "layer 9": first})
    assert joined.width == 6 and joined.block(1).shape == (5, 6)
    with pytest.raises(InvalidConfig, match="sources.layer 9 = "):
        side_by_side({"layer 3": first, "layer 9": second})
    config = AutoencoderConfig(4, 8, "topk")
    params = {"decoder": jnp.zeros((8, 4)), "decoder_bias": jnp.zeros(4)}
    with pytest.raises(InvalidConfig, match=r"x = \(5, 3\).*of the model"):
        encode_alone(config, params, jnp.asarray(rows), k=2)


@pytest.mark.parametrize(
    "field, shape",
    [
        ("output", {"kind": "pursuit", "most_active": 2, "output": 3}),
        ("sites", {"sites": (2, 3)}),
        ("sites", {"output": 3, "sites": (2, 2)}),
        ("sites", {"sites": (0, 4)}),
    ],
)
def test_sites_that_do_not_fit_are_refused(field, shape):
    with pytest.raises(InvalidConfig, match=rf"^{field} = "):
        AutoencoderConfig(4, 8, **shape)


def test_a_step_of_half_precision_is_refused(autoencoder):
    """Small updates would be lost; inference takes such parameters, as if they were float32."""
    config, params, *_, x = autoencoder("relu")
    halves = {name: leaf.astype(jnp.bfloat16) for name, leaf in params.items()}
    with pytest.raises(InvalidConfig, match="params = "):
        jax.eval_shape(lambda: loss(config, LossConfig(), halves, start_statistics(config, 2.0, 0.1), x))
    whole = {name: leaf.astype(jnp.float32) for name, leaf in halves.items()}
    np.testing.assert_array_equal(encode_alone(config, halves, x), encode(config, whole, x).activations)
