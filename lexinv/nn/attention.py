"""Scaled dot-product attention behind one function, with the implementation chosen by device."""

from collections.abc import Iterator
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lexinv.validation import require

Implementation = Literal["auto", "chunked", "whole", "dot_product"]

QUERY_CHUNK = 64

UNSEEN = -1e30
"""Finite, so that a query that sees nothing is uniform and not NaN."""


def attention(
    queries: Float[Array, "batch time heads dim"],
    keys: Float[Array, "batch time heads dim"],
    values: Float[Array, "batch time heads dim"],
    bias: Float[Array, "heads time time"] | Float[Array, "batch _ _ time"] | None = None,
    causal: bool = True,
    implementation: Implementation = "auto",
    window: int = 0,
    mask: Bool[Array, "batch time"] | None = None,
) -> Float[Array, "batch time heads dim"]:
    """`softmax(Q K^T / sqrt(dim) + bias) V` per head (Vaswani et al. 2017, eq. 1); with `causal`, time t sees times <= t only.

    window: of these, only the last `window`, t itself among them; 0 for all. Raises `InvalidConfig` for a window without `causal`.
    mask: false for keys that nobody sees. bias: one number for each pair and head; or, for each example, the same, or [batch, 1, 1, time]
        for each key, such as the log sizes of merged tokens. Masks and biases of examples are not for `chunked`, which `auto` takes on the
        CPU where attention is causal.

    `chunked` takes the queries in chunks of 64, leaves out the keys that no query of a chunk sees (almost half of the work, more with a
    window, in static shapes) and has its gradient written out. `whole` is the definition in the layout that the CPU multiplies fastest,
    divided after the values are summed; `dot_product` is `jax.nn.dot_product_attention`. `auto` takes the first for causal attention on
    the CPU, the second for other attention on the CPU, the third elsewhere.
    The softmax is computed in float32 whatever the dtype of the arguments. `chunked` is for reverse mode only.
    """
    _check_window(window, causal)
    if implementation == "auto":
        on_cpu = jax.default_backend() == "cpu"
        implementation = "dot_product" if not on_cpu else "chunked" if causal else "whole"
    dense = (mask is None and (bias is None or bias.ndim == 3)) or implementation != "chunked"
    require(dense, "implementation", implementation, "not 'chunked' where a mask or a bias of each example is given")
    if implementation == "dot_product":
        seen = None if mask is None else mask[:, None, None]
        batched_bias = None if bias is None else _batched(bias)
        before = (window - 1, 0) if window else None
        with jax.numpy_dtype_promotion("standard"):  # it asks for the common type of bfloat16 and float32
            return jax.nn.dot_product_attention(
                queries, keys, values, bias=batched_bias, mask=seen, is_causal=causal, local_window_size=before
            )
    queries, keys, values = (jnp.swapaxes(x, 1, 2) for x in (_scaled(queries), keys, values))
    if implementation == "whole":
        weights, total = _unnormalised(queries, keys, bias, 0 if causal else None, window, mask)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(values.dtype), values)
        return jnp.swapaxes(mixed / total.astype(values.dtype), 1, 2)
    return jnp.swapaxes(_chunked(queries, keys, values, bias, causal, window), 1, 2)


def attention_weights(
    queries: Float[Array, "batch time heads dim"],
    keys: Float[Array, "batch time heads dim"],
    bias: Float[Array, "heads time time"] | Float[Array, "batch _ _ time"] | None = None,
    causal: bool = True,
    window: int = 0,
    mask: Bool[Array, "batch time"] | None = None,
) -> Float[Array, "batch heads time time"]:
    """The softmax weights that `attention` applies to the values, whole: for looking at, not for training."""
    _check_window(window, causal)
    queries, keys = (jnp.swapaxes(x, 1, 2) for x in (_scaled(queries), keys))
    weights, total = _unnormalised(queries, keys, bias, 0 if causal else None, window, mask)
    return weights / total


def size_bias(size: Float[Array, "*batch tokens"]) -> Float[Array, "*batch tokens"]:
    """log s_j, to be added to the attention logits of key j: a token of size s then counts as s equal ones (Bolya et al. 2023, eq. 1).

    Merging exact duplicates then changes no output. -1e30 for size 0, so that such a key is seen by nobody, unless there is no other.
    """
    there = size > 0
    return jnp.where(there, jnp.log(jnp.where(there, size, 1.0)), UNSEEN)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _chunked(queries, keys, values, bias, causal, window):
    """`softmax(Q K^T + bias) V` on [batch, heads, time, dim].

    Its gradient is written out since autodiff of the slices leaves, on the CPU, transposing copies that cost more than the products. The
    products are ordered so that the long axis of keys stays last, which is the layout of the weights.
    """
    return _chunked_forward(queries, keys, values, bias, causal, window)[0]


def _chunked_forward(queries, keys, values, bias, causal, window):
    outputs, saved = [], []
    for chunk, seen in _query_chunks(queries.shape[2], causal, window):
        chunk_bias = None if bias is None else bias[:, chunk, seen]
        first_query = chunk.start - seen.start if causal else None
        weights, total = _unnormalised(queries[:, :, chunk], keys[:, :, seen], chunk_bias, first_query, window)
        weights, total = weights.astype(values.dtype), total.astype(values.dtype)
        outputs.append(jnp.einsum("bhqk,bhkd->bhqd", weights, values[:, :, seen]) / total)
        saved.append((weights, total))
    output = jnp.concatenate(outputs, axis=2)
    return output, (queries, keys, values, bias, output, saved)


def _chunked_backward(causal, window, residuals, gradient):
    """With P = W / total and O = P V: dV = P^T dO and dS = P * (dO V^T - rowsum(dO * O)), then dQ = dS K and dK = dS^T Q."""
    queries, keys, values, bias, output, saved = residuals
    to_queries = []
    to_keys, to_values = (jnp.zeros_like(jnp.swapaxes(x, 2, 3)) for x in (keys, values))
    to_bias = None if bias is None else jnp.zeros_like(bias)
    for (chunk, seen), (weights, total) in zip(_query_chunks(queries.shape[2], causal, window), saved, strict=True):
        shared = gradient[:, :, chunk] / total
        to_weights = jnp.einsum("bhqd,bhkd->bhqk", shared, values[:, :, seen])
        to_scores = weights * (to_weights - jnp.sum(shared * output[:, :, chunk], axis=-1, keepdims=True))
        to_queries.append(jnp.einsum("bhqk,bhkd->bhqd", to_scores, keys[:, :, seen]))
        to_keys = to_keys.at[..., seen].add(jnp.einsum("bhqd,bhqk->bhdk", queries[:, :, chunk], to_scores))
        to_values = to_values.at[..., seen].add(jnp.einsum("bhqd,bhqk->bhdk", shared, weights))
        if to_bias is not None:
            to_bias = to_bias.at[:, chunk, seen].add(jnp.sum(to_scores, axis=0).astype(to_bias.dtype))
    return jnp.concatenate(to_queries, axis=2), jnp.swapaxes(to_keys, 2, 3), jnp.swapaxes(to_values, 2, 3), to_bias


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _query_chunks(time: int, causal: bool, window: int) -> Iterator[tuple[slice, slice]]:
    """Consecutive slices of the queries, each with the slice of the keys that any of them sees."""
    for start in range(0, time, QUERY_CHUNK):
        stop = min(start + QUERY_CHUNK, time)
        first = max(start - window + 1, 0) if window else 0
        yield slice(start, stop), slice(first, stop if causal else time)


def _check_window(window: int, causal: bool) -> None:
    require(window >= 0, "window", window, "0 for all times before, or a positive number of times")
    require(causal or not window, "window", window, "0, unless attention is causal")


def _batched(bias):
    return bias if bias.ndim == 4 else bias[None]


def _scaled(queries):
    return queries * jnp.asarray(queries.shape[-1] ** -0.5, queries.dtype)


def _unnormalised(queries, keys, bias, first_query, window, mask=None):
    """Float32 exp(scores - their maximum) [batch, heads, queries, keys] and its sum over keys.

    `first_query` is the time of the first query, counted from the first key; None without a causal mask.
    """
    scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + _batched(bias).astype(jnp.float32)
    if first_query is not None:
        query, key = first_query + jnp.arange(queries.shape[2])[:, None], jnp.arange(keys.shape[2])[None, :]
        visible = (key <= query) & (key > query - window) if window else key <= query
        scores = jnp.where(visible[None, None], scores, jnp.finfo(jnp.float32).min)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    return weights, jnp.sum(weights, axis=-1, keepdims=True)
