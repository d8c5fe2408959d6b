"""Entries against dense codes: the same loss, the same statistics and the same gradients, of the selected and of the auxiliary entries."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.autoencoders import initialize
from lexinv.sae.losses import LossConfig, loss, start_statistics
from lexinv.sae.methods import AutoencoderConfig
from lexinv.sae.sparse import decode_entries, firings, largest, with_encoder_gradient

WIDTH, FEATURES, TOKENS, K = 6, 24, 50, 3
X = jnp.asarray(np.random.default_rng(0).normal(size=(TOKENS, WIDTH)) + 1.5, jnp.float32)
CONFIG = AutoencoderConfig(WIDTH, FEATURES, "topk", most_active=5)


def autoencoder():
    """Half of the features are seldom positive, and dead but for them."""
    params = initialize(CONFIG, X, jax.random.key(0))
    params["encoder_bias"] = jnp.where(jnp.arange(FEATURES) % 2 == 0, -1.0, 0.1)
    params["decoder_bias"] = 0.3 * params["decoder_bias"]
    statistics = start_statistics(CONFIG, float(K), 0.0)
    since = jnp.where(jnp.arange(FEATURES) % 2 == 0, 10_000, 0)
    return params, statistics._replace(tokens_since_fired=since, batches=jnp.int32(3))


def evaluate(config, terms, x=X):
    params, statistics = autoencoder()
    function = jax.jit(jax.value_and_grad(lambda p, x: loss(config, terms, p, statistics, x), (0, 1), has_aux=True))
    return function(params, x)


@pytest.fixture(scope="module", params=["none", "dead", "zipf"])
def both(request):
    """By auxiliary term: dense codes and entries, evaluated."""
    terms = LossConfig(auxiliary=request.param, auxiliary_k=4, auxiliary_coefficient=1.0, dead_after=500)
    return request.param, *(evaluate(replace(CONFIG, most_active=most), terms) for most in (0, 5))


def test_entries_give_what_dense_codes_give(both):
    auxiliary, dense, sparse = both
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), sparse, dense)
    assert auxiliary == "none" or float(dense[0][0]) > float(dense[0][1][0]["fvu"])


def test_largest_by_hand():
    values, indices = largest(jnp.array([[0.5, -1.0, 2.0, 0.5], [-1.0, -2.0, -3.0, -4.0]]), 3)
    np.testing.assert_array_equal(values, [[2.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(indices[0], [2, 0, 3])
    np.testing.assert_array_equal(firings(values, indices, 4), [1, 0, 1, 1])


def test_one_feature_may_be_there_twice():
    """Sums and gradients by hand: z = [[2, 0, 3 + 1]]."""
    decoder = jnp.array([[1.0, 0.0], [5.0, 5.0], [0.0, 1.0]])
    values, indices = jnp.array([[2.0, 3.0, 1.0]]), jnp.array([[0, 2, 2]])
    np.testing.assert_array_equal(decode_entries(values, indices, decoder), [[2.0, 4.0]])
    along, rows = jax.grad(lambda v, d: jnp.sum(decode_entries(v, indices, d)), (0, 1))(values, decoder)
    np.testing.assert_array_equal(along, [[1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(rows, [[2.0, 2.0], [0.0, 0.0], [4.0, 4.0]])


def test_values_that_relu_made_zero_have_no_gradient():
    x, encoder, bias = X[:2], jnp.ones((WIDTH, FEATURES)), jnp.zeros(FEATURES)
    values, indices = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([[3, 4], [5, 6]])

    def total(bias):
        return jnp.sum(with_encoder_gradient(values, indices, x, encoder, bias, jnp.zeros(WIDTH)))

    np.testing.assert_array_equal(jax.grad(total)(bias), np.eye(FEATURES)[3])


@pytest.mark.parametrize("population", ["map", "vmap"])
def test_members_of_a_population_may_differ_in_k(population):
    params, statistics = autoencoder()
    terms = LossConfig(auxiliary="dead", auxiliary_k=4, dead_after=500)

    def fvu(k, config=CONFIG):
        return jax.grad(lambda p: loss(config, terms, p, statistics._replace(k=k), X)[0])(params)["encoder"]

    ks = jnp.array([1.0, 3.0, 5.0])
    together = jax.jit(jax.vmap(fvu) if population == "vmap" else lambda ks: jax.lax.map(fvu, ks))(ks)
    dense = jax.jit(lambda k: fvu(k, replace(CONFIG, most_active=0)))
    for k, found in zip(ks, together, strict=True):
        np.testing.assert_allclose(found, dense(k), rtol=2e-5, atol=2e-6)


def test_no_array_of_codes_is_kept_for_the_backward_pass():
    """The pre-activations and nothing else is [tokens, features]: the temporaries of the gradient stay below two of them."""
    tokens, width, features = 512, 16, 4096
    config = AutoencoderConfig(width, features, "topk", most_active=8)
    params = jax.eval_shape(lambda: initialize(config, jnp.ones((4, width)), jax.random.key(0)))
    terms = LossConfig(auxiliary="dead", auxiliary_k=8)

    def temporaries(config):
        statistics = jax.eval_shape(lambda: start_statistics(config, 8.0, 0.0))
        gradient = jax.jit(jax.grad(lambda p, s, x: loss(config, terms, p, s, x)[0]))
        compiled = gradient.lower(params, statistics, jax.ShapeDtypeStruct((tokens, width), jnp.float32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * tokens * features)

    assert temporaries(config) < 2.5 < temporaries(replace(config, most_active=0))
