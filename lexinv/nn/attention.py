"""Scaled dot-product attention behind one function, with the implementation chosen by device."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lexinv.nn.kernels import (
    CUDNN_CAPABILITY,
    CUDNN_WIDTHS,
    FLASH_BLOCK,
    FLASH_SHORTEST,
    SHORTEST_BLOCK,
    UNSEEN,
    attend_by_keys,
    attend_in_blocks,
    channels_for_keys,
    flash,
)
from lexinv.nn.reweighting import Kind, attend_by_rows, by_rows, of_kind, row_weights, seen_counts
from lexinv.nn.sharding import on_mesh
from lexinv.validation import require

Implementation = Literal["auto", "chunked", "whole", "dot_product", "cudnn", "flash"]

QUERY_CHUNK = 64


class Device(NamedTuple):
    """backend: cpu, gpu or tpu. capability: of NVIDIA's GPUs, (9, 0) for Hopper; None for all else."""

    backend: str
    capability: tuple[int, int] | None


def device_here() -> Device:
    """The default device of this process, on which it computes unless told otherwise. Starts the backend."""
    device: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(device, jax.Device):
        device = jax.devices(device)[0]
    found = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    return Device(device.platform, (int(found[1]), int(found[2])) if found else None)


def implementation_on(
    device: Device,
    dtype: Any,
    head_width: int,
    time: int,
    causal: bool,
    bias: Literal["none", "keys", "pairs"] = "none",
    masked: bool = False,
    window: bool = False,
    divided: bool = False,
) -> Implementation:
    """Which implementation `auto` takes for `attention` of such arguments: a pure function, for whoever wants to know or to tell.

    bias: "keys", one number for each key of each example, [batch, 1, 1, time]; "pairs", every other. masked, window: whether there is one.
    divided: whether the arguments lie on a mesh (`lexinv.nn.sharding`).

    On the CPU `chunked` where attention is causal and nothing differs by example, otherwise `whole`. On NVIDIA's GPUs `cudnn` for bfloat16
    and float16 where its kernels take heads of this width, with 8 channels more if keys are hidden or weighed, and without a bias of pairs.
    On TPUs `flash` for long texts of whole blocks, all of which is seen, on one device. `dot_product`, which is XLA's own, elsewhere.
    """
    if device.backend == "cpu":
        return "chunked" if causal and not masked and bias != "keys" else "whole"
    if device.backend == "tpu":
        whole = time >= FLASH_SHORTEST and time % FLASH_BLOCK == 0
        heads = head_width <= FLASH_BLOCK or head_width % FLASH_BLOCK == 0
        plain = bias == "none" and not (masked or window or divided)
        return "flash" if whole and heads and plain else "dot_product"
    step, most = CUDNN_WIDTHS
    width = head_width + (step if channels_for_keys(bias != "none" or masked, time, causal) else 0)
    half = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    able = device.capability is not None and device.capability >= CUDNN_CAPABILITY
    fits = width % step == 0 and width <= most and bias != "pairs"
    return "cudnn" if able and half and fits else "dot_product"


def attention(
    queries: Float[Array, "batch time heads dim"],
    keys: Float[Array, "batch time key_heads dim"],
    values: Float[Array, "batch time key_heads dim"],
    bias: Float[Array, "heads time time"] | Float[Array, "batch _ _ time"] | None = None,
    causal: bool = True,
    implementation: Implementation = "auto",
    window: int = 0,
    mask: Bool[Array, "batch time"] | None = None,
    kind: Kind = "softmax",
    sharpness: float | Float[Array, ""] = 0.0,
) -> Float[Array, "batch time heads dim"]:
    """`softmax(Q K^T / sqrt(dim) + bias) V` per head (Vaswani et al. 2017, eq. 1); with `causal`, time t sees times <= t only.

    Where there are fewer heads of keys and values, each is read by consecutive heads of queries (Ainslie et al. 2023).
    window: of these, only the last `window`, t itself among them; 0 for all. Raises `InvalidConfig` for a window without `causal`.
    mask: false for keys that nobody sees. bias: one number for each pair and head; or, for each example, the same, or [batch, 1, 1, time]
        for each key, such as the log sizes of merged tokens. Masks and biases of examples are not for `chunked`.
    kind, sharpness: weights other than this softmax, see `lexinv.nn.reweighting.row_weights`. Softplus and what is sharpened are computed
        by blocks of queries, so that memory is linear in the keys, by no other implementation, and without a bias.

    `chunked` takes the queries in chunks of 64, leaves out the keys that no query of a chunk sees (almost half of the work, more with a
    window, in static shapes) and has its gradient written out. `whole` is the definition in the layout that the CPU multiplies fastest,
    divided after the values are summed; `dot_product` is `jax.nn.dot_product_attention`, which computes a window by blocks where there is
    no bias and no mask; `cudnn` is the same with cuDNN's kernel, and `flash` JAX's kernel for TPUs, which hold no weights of pairs. `auto`
    takes what `implementation_on` says of the device here.
    The softmax is computed in float32 whatever the dtype of the arguments. `chunked` and `flash` are for reverse mode only.
    """
    _check_window(window, causal)
    keys, values = (_for_each_query(x, queries.shape[2]) for x in (keys, values))
    queries, keys, counts = _of_kind(queries, keys, causal, window, mask, kind)
    if by_rows(kind, sharpness):
        alone = bias is None and implementation == "auto"
        require(alone, "implementation", implementation, "'auto', and no bias, for softplus and sharpened weights")
        queries, keys, values = (jnp.swapaxes(x, 1, 2) for x in (queries, keys, values))
        mixed = attend_by_rows(queries, keys, values, counts, causal, window, mask, kind, sharpness)
        return jnp.swapaxes(mixed, 1, 2)
    of_keys = bias is not None and bias.shape[1:3] == (1, 1) and bias.ndim == 4
    if implementation == "auto":
        biased = "none" if bias is None else "keys" if of_keys else "pairs"
        same_type = queries.dtype == keys.dtype == values.dtype
        dtype = queries.dtype if same_type else jnp.float32
        time, width = queries.shape[1], queries.shape[-1]
        asked = dtype, width, time, causal, biased, mask is not None, window > 0, on_mesh(queries)
        implementation = implementation_on(device_here(), *asked)
    dense = (mask is None and (bias is None or bias.ndim == 3)) or implementation != "chunked"
    require(dense, "implementation", implementation, "not 'chunked' where a mask or a bias of each example is given")
    if implementation == "cudnn":
        require(bias is None or of_keys, "implementation", implementation, "another, for a bias of pairs")
        return attend_by_keys(queries, keys, values, bias, mask, causal, window, "cudnn")
    if implementation == "flash":
        plain = bias is None and mask is None and not window
        require(plain, "implementation", implementation, "another, for a bias, a mask or a window")
        return flash(queries, keys, values, causal)
    if implementation == "dot_product":
        if window and bias is None and mask is None and 2 * max(window, SHORTEST_BLOCK) < queries.shape[1]:
            return attend_in_blocks(queries, keys, values, window)
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
    keys: Float[Array, "batch time key_heads dim"],
    bias: Float[Array, "heads time time"] | Float[Array, "batch _ _ time"] | None = None,
    causal: bool = True,
    window: int = 0,
    mask: Bool[Array, "batch time"] | None = None,
    kind: Kind = "softmax",
    sharpness: float | Float[Array, ""] = 0.0,
) -> Float[Array, "batch heads time time"]:
    """The weights that `attention` applies to the values, whole: for looking at, not for training."""
    _check_window(window, causal)
    keys = _for_each_query(keys, queries.shape[2])
    queries, keys, counts = _of_kind(queries, keys, causal, window, mask, kind)
    queries, keys = (jnp.swapaxes(x, 1, 2) for x in (_scaled(queries), keys))
    if by_rows(kind, sharpness):
        require(bias is None, "kind", kind, "a softmax, where there is a bias")
        scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32)
        ago = jnp.arange(scores.shape[2])[:, None] - jnp.arange(scores.shape[3])[None]
        seen = ((ago >= 0) & (ago < (window or len(ago))) if causal else jnp.full(ago.shape, True))[None, None]
        seen = seen if mask is None else seen & mask[:, None, None]
        return row_weights(scores, seen, counts[:, None, :, None], kind, sharpness)
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


def _of_kind(queries, keys, causal, window, mask, kind):
    """Queries and keys as `of_kind` says, and how many keys each query sees."""
    counts = seen_counts(jnp.ones((1, keys.shape[1]), bool) if mask is None else mask, causal, window)
    return *of_kind(queries, keys, counts, kind), counts


def _for_each_query(x, heads):
    """Heads of keys or values [batch, time, key heads, dim], repeated for each head of queries."""
    return x if x.shape[2] == heads else jnp.repeat(x, heads // x.shape[2], axis=2)


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
