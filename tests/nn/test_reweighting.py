"""Softplus attention and re-weighting against ten lines of NumPy, their limits, and contexts in which the plain power overflows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.attention import attention, attention_weights
from lexinv.nn.positions import linear_bias
from lexinv.nn.reweighting import row_weights, seen_counts, sharpen
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

KEY = jax.random.key(0)
KINDS = [("softplus", 0.0), ("softplus", 15.0), ("softplus", 2.5), ("scaled_softmax", 0.0), ("softmax", 3.0)]


def definition(q, k, seen, kind, p):
    """Weights [batch, heads, time, time], in double precision."""
    q, k = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k))
    n = seen.sum(-1, keepdims=True)
    if kind == "softmax":
        scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    else:
        q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
        scores = np.log(q.shape[-1]) * np.log(n) * (q @ k.swapaxes(2, 3))
    weights = (np.log1p(np.exp(scores)) if kind == "softplus" else np.exp(scores)) * seen
    weights = weights / weights.sum(-1, keepdims=True)
    if not p:
        return weights
    above = np.maximum(n * weights - (n > 3), 0) ** p
    return above / above.sum(-1, keepdims=True)


def causal(time, window=0):
    ago = np.arange(time)[:, None] - np.arange(time)[None]
    return ((ago >= 0) & (ago < (window or time)))[None, None]


@pytest.mark.parametrize("kind, p", KINDS)
@pytest.mark.parametrize("window", [0, 9])
def test_attention_is_the_definition(kind, p, window):
    """Also with fewer heads of keys, and by its weights."""
    q, k, v = (
        jax.random.normal(key, (2, 70, heads, 8))
        for key, heads in zip(jax.random.split(KEY, 3), (4, 2, 2), strict=True)
    )
    repeated = jnp.repeat(k, 2, axis=2)
    want = definition(q, repeated, causal(70, window), kind, p)
    np.testing.assert_allclose(attention_weights(q, k, window=window, kind=kind, sharpness=p), want, atol=2e-5)
    mixed = np.einsum("bhqk,bkhd->bqhd", want, np.repeat(v, 2, axis=2))
    np.testing.assert_allclose(attention(q, k, v, window=window, kind=kind, sharpness=p), mixed, atol=1e-4)


def test_blocks_and_their_gradient_are_those_of_whole_rows():
    """640 queries: five parts of two blocks each, of which the weights of one exist at a time."""
    q, k, v, cotangent = jax.random.normal(KEY, (4, 1, 640, 1, 8))

    def whole(q, k, v):
        weights = attention_weights(q, k, kind="softplus", sharpness=15.0)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    blocks = partial(attention, kind="softplus", sharpness=15.0)
    (want, back), (found, found_back) = jax.vjp(whole, q, k, v), jax.vjp(blocks, q, k, v)
    np.testing.assert_allclose(found, want, atol=1e-5)
    for one, other in zip(found_back(cotangent), back(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3 * float(jnp.abs(other).max()))


def test_memory_is_linear_in_the_keys():
    """A gradient of four times the queries and keys: sixteen times the weights, which never exist together."""

    def planned(time):
        x = jax.ShapeDtypeStruct((1, time, 1, 8), jnp.float32)

        def loss(q, k, v):
            return jnp.sum(attention(q, k, v, kind="softplus", sharpness=15.0))

        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert planned(4096) < 6 * planned(1024)


@pytest.mark.parametrize("time", [1, 2, 3, 4, 17])
@pytest.mark.parametrize("p", [0.0, 15.0])
def test_rows_sum_to_one_and_see_nothing_later(time, p):
    weights = attention_weights(*jax.random.normal(KEY, (2, 1, time, 2, 8)), kind="softplus", sharpness=p)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(weights * np.triu(np.ones((time, time), np.float32), 1)[None, None], 0)
    np.testing.assert_array_equal(weights[:, :, 0, 0], 1)


def test_exponentials_alone_are_a_softmax():
    scores, seen = 30 * jax.random.normal(KEY, (5, 9)), jnp.ones((5, 9), bool)
    found = row_weights(scores, seen, jnp.full((5, 1), 9.0), "softmax")
    np.testing.assert_allclose(found, jax.nn.softmax(scores), atol=1e-6)


def test_limits_of_sharpening():
    """Few keys and p = 1 change nothing, p = 200 leaves the largest; an array p gives what a number gives; order is kept."""
    weights = jax.nn.softmax(jax.random.normal(KEY, (6, 50)))
    few = weights[:, :3] / weights[:, :3].sum(-1, keepdims=True)
    np.testing.assert_allclose(sharpen(few, jnp.full((6, 1), 3.0), 1), few, atol=1e-6)
    np.testing.assert_allclose(
        sharpen(7 * few, jnp.full((6, 1), 3.0), 2), sharpen(few, jnp.full((6, 1), 3.0), 2), rtol=1e-5
    )
    counts = jnp.full((6, 1), 50.0)
    np.testing.assert_array_equal(jnp.argmax(sharpen(weights, counts, 200), -1), jnp.argmax(weights, -1))
    assert float(sharpen(weights.at[:, 0].set(0.5), counts, 200)[:, 0].min()) > 0.999
    sharp = sharpen(weights, counts, 15)
    np.testing.assert_allclose(jax.jit(sharpen)(weights, counts, jnp.float32(15)), sharp, rtol=1e-4, atol=1e-7)
    kept = np.asarray(sharpen(weights, counts, 2) > 0)
    np.testing.assert_array_equal(kept, weights * counts > 1)
    assert not np.asarray(sharp)[~kept].any()
    for row, before, there in zip(sharp, weights, kept, strict=True):
        assert (np.diff(np.asarray(row)[there][np.argsort(np.asarray(before)[there])]) >= 0).all()


def test_nothing_overflows_in_long_rows():
    """One key has nearly all of 8192: the plain power is infinite."""
    scores = jnp.zeros((1, 8192)).at[0, 5].set(9.0)
    counts = jnp.full((1, 1), 8192.0)

    def weigh(scores):
        return row_weights(1e3 * scores - 500, jnp.ones((1, 1), bool), counts, "softplus", 15.0)

    found, back = jax.vjp(weigh, scores)
    plain = np.asarray(row_weights(1e3 * scores - 500, jnp.ones((1, 1), bool), counts, "softplus"))
    with np.errstate(over="ignore"):
        assert np.isinf((8192 * plain - 1).max() ** np.float32(15))
    assert float(found[0, 5]) == 1.0 and np.isfinite(back(jnp.ones_like(found))[0]).all()


def test_equal_keys_and_zero_vectors_give_the_mean_of_values():
    q, k, v = jax.random.normal(KEY, (3, 1, 40, 1, 8))
    means = jnp.cumsum(v, axis=1) / jnp.arange(1.0, 41.0)[None, :, None, None]
    attend = partial(attention, kind="softplus", sharpness=15.0)
    for keys in (jnp.broadcast_to(k[:, :1], k.shape), jnp.zeros_like(k)):
        np.testing.assert_allclose(attend(q, keys, v), means, atol=1e-4)
        assert all(np.isfinite(x).all() for x in jax.grad(lambda *x: attend(*x).sum(), (0, 1, 2))(q, keys, v))


def test_lengths_and_common_rotations_of_queries_and_keys_do_not_matter():
    q, k = jax.random.normal(KEY, (2, 1, 20, 2, 8))
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0], jnp.float32)
    weigh = partial(attention_weights, kind="softplus", sharpness=15.0)
    want = weigh(q, k)
    np.testing.assert_allclose(weigh(3 * q, 0.1 * k), want, atol=1e-5)
    np.testing.assert_allclose(weigh(q @ turn, k @ turn), want, atol=1e-4)


@pytest.mark.parametrize("causally", [True, False])
def test_keys_that_nobody_sees_change_nothing(causally):
    q, k, v = jax.random.normal(KEY, (3, 1, 12, 2, 8))
    there = jnp.arange(12)[None] < 9
    attend = partial(attention, causal=causally, kind="softplus", sharpness=15.0)
    alone = attend(q[:, :9], k[:, :9], v[:, :9])
    np.testing.assert_allclose(attend(q, k, v, mask=there)[:, :9], alone, atol=1e-5)
    np.testing.assert_array_equal(seen_counts(there, True, 4)[0], [1, 2, 3, 4, 4, 4, 4, 4, 4, 3, 2, 1])


def test_linear_biases_are_those_of_alibi():
    """The paper's slopes of eight heads: a half, a quarter, and so on."""
    found = linear_bias(8, 5)
    np.testing.assert_allclose(found[:, 4, 1], -3 * 0.5 ** np.arange(1, 9), rtol=1e-6)
    assert not np.diagonal(found, axis1=1, axis2=2).any()


def test_what_cannot_be_meant_is_refused():
    x = jnp.zeros((1, 4, 2, 8))
    with pytest.raises(InvalidConfig, match="implementation = 'auto'.*no bias"):
        attention(x, x, x, jnp.zeros((2, 4, 4)), kind="softplus")
    with pytest.raises(InvalidConfig, match="implementation = 'whole'"):
        attention(x, x, x, implementation="whole", sharpness=15.0)
    with pytest.raises(InvalidConfig, match="model.sharpness = 0.5"):
        TransformerConfig(sharpness=0.5)
    for positions in ("alibi", "relative"):
        with pytest.raises(InvalidConfig, match="model.attention_kind = 'softplus'"):
            TransformerConfig(attention_kind="softplus", positions=positions)
