"""Attention, positions, convolutions and the written-out gradients, against definitions."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.attention import Device, attention, attention_weights, device_here, implementation_on, size_bias
from lexinv.nn.initialization import suffix_taps
from lexinv.nn.kernels import attend_by_keys, flash
from lexinv.nn.linear import linear, rms_norm
from lexinv.nn.mixing import causal_convolution, shift
from lexinv.nn.positions import relative_bias, relative_buckets, rotate
from lexinv.validation import InvalidConfig

KEY = jax.random.key(0)


def definition(q, k, v, bias, seen):
    """Outputs and weights, where `seen` says which keys each query sees."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.float32(np.sqrt(q.shape[-1]))
    scores = scores if bias is None else scores + bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v), weights


@pytest.mark.parametrize(
    "time, causal, biased, window",
    [
        *product([1, 64, 150], [True, False], [True, False], [0]),
        *product([150], [True], [True, False], [1, 9, 70, 200]),
    ],
)
def test_all_implementations_and_their_gradients_are_the_definition(time, causal, biased, window):
    q, k, v, cotangent = jax.random.normal(KEY, (4, 2, time, 3, 8))
    bias = jax.random.normal(jax.random.key(1), (3, time, time)) if biased else None
    ago = np.arange(time)[:, None] - np.arange(time)[None, :]
    seen = ((ago >= 0) & (ago < (window or time)))[None, None] if causal else True
    want, gradient = jax.vjp(lambda *args: definition(*args, seen)[0], q, k, v, bias)
    weights = definition(q, k, v, bias, seen)[1]
    np.testing.assert_allclose(attention_weights(q, k, bias, causal, window), weights, atol=2e-5)
    for implementation in ("chunked", "whole", "dot_product"):
        function = partial(attention, causal=causal, implementation=implementation, window=window)
        got, found = jax.vjp(function, q, k, v, bias)
        np.testing.assert_allclose(got, want, atol=2e-5)
        for one, other in zip(*map(jax.tree.leaves, (gradient(cotangent), found(cotangent))), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4, err_msg=implementation)


def test_a_window_is_cut_and_not_only_masked():
    """Of 640 times a query of a block of 64 meets 128: a fifth of the products, in the gradient as well."""
    x = jax.random.normal(KEY, (1, 640, 2, 8))

    def flops(window):
        def loss(x):
            return jnp.sum(attention(x, x, x, implementation="dot_product", window=window))

        return jax.jit(jax.grad(loss)).lower(x).compile().cost_analysis()["flops"]

    assert flops(9) < 0.25 * flops(0)


@pytest.mark.long
def test_flash_attention_for_tpus_is_the_definition():
    """Interpreted, where there is no TPU."""
    from jax.experimental.pallas import tpu

    q, k, v, cotangent = jax.random.normal(KEY, (4, 1, 256, 1, 8))
    seen = np.tri(256, dtype=bool)[None, None]
    want, gradient = jax.vjp(lambda *args: definition(*args, None, seen)[0], q, k, v)
    with tpu.force_tpu_interpret_mode():
        got, found = jax.vjp(partial(flash, causal=True), q, k, v)
        np.testing.assert_allclose(got, want, atol=2e-5)
        for one, other in zip(found(cotangent), gradient(cotangent), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("implementation", ["whole", "dot_product"])
@pytest.mark.parametrize("causal", [True, False])
def test_masks_and_biases_of_keys_are_the_definition(causal, implementation):
    q, k, v = jax.random.normal(KEY, (3, 2, 9, 3, 8))
    bias = jax.random.normal(jax.random.key(1), (2, 1, 1, 9))
    mask = jnp.ones((2, 9), bool).at[0, 3:6].set(False).at[1, 8].set(False)
    seen = mask[:, None, None] & jnp.asarray(np.tri(9, dtype=bool) if causal else np.ones((9, 9), bool))[None, None]
    want, weights = definition(q, k, v, bias, seen)
    found = attention(q, k, v, bias, causal, implementation, mask=mask)
    np.testing.assert_allclose(found, want, atol=2e-5)
    np.testing.assert_allclose(attention_weights(q, k, bias, causal, mask=mask), weights, atol=2e-5)
    # A key of no size is one that is masked.
    hidden = size_bias(mask.astype(jnp.float32))[:, None, None] + jnp.where(mask[:, None, None], bias, 0.0)
    np.testing.assert_allclose(attention(q, k, v, hidden, causal, implementation), found, atol=2e-5)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 0.02), ("float16", 3e-3)])
@pytest.mark.parametrize("causal, time", [(True, 9), (False, 9), (False, 8)])
def test_biases_of_keys_as_further_channels_are_the_definition(causal, time, dtype, tolerance):
    """What cuDNN is given, where there is no GPU: the same arguments to XLA. Log sizes need more digits than half precision has."""
    q, k, v = (x.astype(dtype) for x in jax.random.normal(KEY, (3, 2, time, 3, 8)))
    size = jnp.asarray(np.random.default_rng(0).integers(0, 200, (2, time)), jnp.float32).at[:, 0].set(1.0)
    mask, sizes = jnp.ones((2, time), bool).at[0, 3:6].set(False), size_bias(size)[:, None, None]
    for bias, seen in ((sizes, mask), (None, mask), (sizes, None), (None, None)):
        found = attend_by_keys(q, k, v, bias, seen, causal, 0, "xla")
        expected = attention(*(x.astype(jnp.float32) for x in (q, k, v)), bias, causal, "whole", mask=seen)
        assert found.dtype == jnp.dtype(dtype)
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=tolerance)


@pytest.mark.parametrize("time", [8, 9])
def test_further_channels_have_the_gradient_of_the_definition(time):
    q, k, v, cotangent = jax.random.normal(KEY, (4, 2, time, 3, 8))
    bias, mask = jax.random.normal(jax.random.key(1), (2, 1, 1, time)), jnp.ones((2, time), bool).at[0, 3:6].set(False)

    def further(q, k, v, bias):
        return attend_by_keys(q, k, v, bias, mask, False, 0, "xla")

    def whole(q, k, v, bias):
        return attention(q, k, v, bias, False, "whole", mask=mask)

    got, want = (
        jax.jit(lambda *args, function=function: jax.vjp(function, *args)[1](cotangent))(q, k, v, bias)
        for function in (further, whole)
    )
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4), got, want)


TPU = Device("tpu", None)
HOPPER, AMPERE, TURING = (Device("gpu", capability) for capability in ((9, 0), (8, 0), (7, 5)))


@pytest.mark.parametrize(
    "device, dtype, width, time, causal, bias, masked, expected",
    [
        (HOPPER, jnp.bfloat16, 64, 197, True, "none", False, "cudnn"),
        (AMPERE, jnp.float16, 128, 196, False, "none", False, "cudnn"),
        (AMPERE, jnp.bfloat16, 64, 197, False, "keys", False, "cudnn"),
        (AMPERE, jnp.bfloat16, 64, 197, False, "none", True, "cudnn"),
        (HOPPER, jnp.bfloat16, 128, 196, False, "keys", False, "dot_product"),  # 136 channels
        (HOPPER, jnp.bfloat16, 128, 197, False, "none", False, "dot_product"),  # for a hidden key
        (HOPPER, jnp.bfloat16, 64, 196, True, "pairs", False, "dot_product"),
        (HOPPER, jnp.float32, 64, 196, True, "none", False, "dot_product"),
        (HOPPER, jnp.bfloat16, 60, 196, True, "none", False, "dot_product"),
        (HOPPER, jnp.bfloat16, 136, 196, True, "none", False, "dot_product"),
        (TURING, jnp.float16, 64, 196, True, "none", False, "dot_product"),
        (Device("gpu", None), jnp.bfloat16, 64, 196, True, "none", False, "dot_product"),  # of another maker
        (TPU, jnp.bfloat16, 64, 1024, True, "none", False, "flash"),
        (TPU, jnp.float32, 256, 2048, False, "none", False, "flash"),
        (TPU, jnp.bfloat16, 64, 512, True, "none", False, "dot_product"),  # XLA does it as well
        (TPU, jnp.bfloat16, 64, 1100, True, "none", False, "dot_product"),  # no whole blocks
        (TPU, jnp.bfloat16, 192, 1024, True, "none", False, "dot_product"),
        (TPU, jnp.bfloat16, 64, 1024, True, "keys", False, "dot_product"),
        (TPU, jnp.bfloat16, 64, 1024, True, "none", True, "dot_product"),
        (Device("cpu", None), jnp.bfloat16, 64, 196, True, "pairs", False, "chunked"),
        (Device("cpu", None), jnp.float32, 64, 196, True, "none", True, "whole"),
        (Device("cpu", None), jnp.float32, 64, 196, True, "keys", False, "whole"),
        (Device("cpu", None), jnp.float32, 64, 196, False, "none", False, "whole"),
    ],
)
def test_auto_takes_the_kernel_that_the_device_has(device, dtype, width, time, causal, bias, masked, expected):
    assert implementation_on(device, dtype, width, time, causal, bias, masked) == expected


@pytest.mark.parametrize("further", [{"window": True}, {"divided": True}])
def test_the_kernel_for_tpus_takes_neither_windows_nor_meshes(further):
    asked = jnp.bfloat16, 64, 1024, True
    assert implementation_on(TPU, *asked, **further) == "dot_product"
    assert implementation_on(HOPPER, *asked, **further) == "cudnn"  # which cuts windows, and XLA divides it


def test_auto_does_what_it_says(monkeypatch):
    """The function that tells is the one that decides."""
    assert device_here() == Device("cpu", None)
    x, taken = jnp.zeros((2, 4, 3, 8), jnp.bfloat16), []
    by_keys, pairs = jnp.zeros((2, 1, 1, 4)), jnp.zeros((3, 4, 4))
    monkeypatch.setattr("lexinv.nn.attention.device_here", lambda: HOPPER)
    monkeypatch.setattr("jax.nn.dot_product_attention", lambda q, k, v, **given: taken.append(given) or q)
    for arguments in ({}, {"bias": by_keys}, {"mask": jnp.ones((2, 4), bool)}, {"bias": pairs}):
        attention(x, x, x, **arguments)
    attention(x, x.astype(jnp.float32), x)
    assert [given.get("implementation") for given in taken] == ["cudnn"] * 3 + [None] * 2
    assert [given.get("bias") is None for given in taken] == [True, True, True, False, True]
    for implementation in ("cudnn", "flash"):
        with pytest.raises(InvalidConfig, match=f"implementation = '{implementation}'"):
            attention(x, x, x, pairs, implementation=implementation)


@pytest.mark.parametrize("implementation", ["chunked", "dot_product"])
def test_half_precision_is_kept_and_close(implementation):
    """Also under strict promotion, in which JAX's own attention asks for a type that it does not give."""
    x = jax.random.normal(KEY, (1, 70, 2, 8), jnp.bfloat16)

    def run(x):
        return attention(x, x, x, implementation=implementation)

    found = jax.jit(run)(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), run(x.astype(jnp.float32)), atol=0.03)
    with jax.numpy_dtype_promotion("standard"):  # the gradient that JAX derives asks for it as well
        gradient = jax.grad(lambda x: run(x).astype(jnp.float32).sum())(x)
    assert gradient.dtype == jnp.bfloat16 and np.all(np.isfinite(gradient.astype(jnp.float32)))


def test_written_out_gradients_are_those_of_autodiff():
    x, kernel = jax.random.normal(KEY, (2, 3, 5)), jax.random.normal(jax.random.key(1), (5, 4))
    gain = jax.random.normal(jax.random.key(2), (5,))

    def plain_linear(x, kernel):
        return jnp.einsum("btn,nm->btm", x, kernel)

    def plain_norm(x, gain):
        return gain[None, None] * x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)

    for plain, written_out, arguments in ((plain_linear, linear, (x, kernel)), (plain_norm, rms_norm, (x, gain))):
        cotangent = jax.random.normal(jax.random.key(3), plain(*arguments).shape)
        want, got = (jax.vjp(function, *arguments)[1](cotangent) for function in (plain, written_out))
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), got, want)


def test_relative_buckets_are_exact_near_and_logarithmic_far():
    causal = relative_buckets(300, 32, causal=True)
    assert [causal[20, 20 - distance] for distance in range(16)] == list(range(16))
    assert causal[299, 0] == 31
    assert (np.diff(causal[299, ::-1]) >= 0).all()
    both = relative_buckets(300, 32, causal=False)
    assert set(both[np.triu_indices(300, 1)]) & set(both[np.tril_indices(300)]) == set()
    table = jax.random.normal(KEY, (32, 2))
    np.testing.assert_array_equal(relative_bias(table, 5, True)[1, 4, 2], table[2, 1])


def test_a_depthwise_causal_convolution_is_its_sum():
    x, taps = jax.random.normal(KEY, (2, 9, 4)), jax.random.normal(jax.random.key(1), (5, 4))
    want = np.zeros((2, 9, 4))
    for t in range(9):
        for s in range(min(5, t + 1)):
            want[:, t] += np.asarray(taps[s])[None] * np.asarray(x[:, t - s])
    np.testing.assert_allclose(causal_convolution(x, taps), want, atol=1e-5)
    np.testing.assert_array_equal(shift(x, 3)[:, 3:], x[:, :-3])
    assert not shift(x, 20).any()


def test_suffix_taps_weigh_the_equal_symbols_of_two_suffixes():
    """With one-hot symbols repeated in every group the score of (t, j) is the agreement of the suffixes ending at t and j-1."""
    symbols, groups = 3, 4
    sharper = np.sqrt(
        64 / (symbols * groups)
    )  # which makes up for attention's 1 / sqrt(channels) of a sum over channels
    query_taps, key_taps = suffix_taps(5, heads=1, head_dim=symbols * groups)
    tokens = np.array([0, 1, 2, 0, 1, 2, 1, 0, 1, 2])
    x = jnp.tile(jax.nn.one_hot(jnp.asarray(tokens), symbols), (1, groups))[None]
    scores = np.asarray(causal_convolution(x, query_taps)[0] @ causal_convolution(x, key_taps)[0].T)
    for t in range(groups, len(tokens)):
        for j in range(groups + 1, t + 1):
            want = sum(1.5 * sharper * np.exp(-0.4 * g) * (tokens[t - g] == tokens[j - 1 - g]) for g in range(groups))
            np.testing.assert_allclose(scores[t, j], want, rtol=1e-5)


def test_rotation_by_given_positions_is_that_of_longer_sequences_at_these_places():
    x = jax.random.normal(KEY, (2, 12, 3, 8))
    places = jnp.array([[0, 4, 11], [2, 3, 9]])
    chosen = jnp.take_along_axis(x, places[:, :, None, None], axis=1)
    for share in (None, 4):
        expected = jnp.take_along_axis(rotate(x, share=share), places[:, :, None, None], axis=1)
        np.testing.assert_allclose(rotate(chosen, share=share, positions=places), expected, atol=1e-6)
