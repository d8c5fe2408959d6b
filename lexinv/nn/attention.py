"""Scaled dot-product attention behind one function, with the implementation chosen by device."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Implementation = Literal["auto", "chunked", "dot_product"]

QUERY_CHUNK = 64


def attention(
    queries: Float[Array, "batch time heads dim"],
    keys: Float[Array, "batch time heads dim"],
    values: Float[Array, "batch time heads dim"],
    bias: Float[Array, "heads time time"] | None = None,
    causal: bool = True,
    implementation: Implementation = "auto",
) -> Float[Array, "batch time heads dim"]:
    """`softmax(Q K^T / sqrt(dim) + bias) V` per head (Vaswani et al. 2017, eq. 1); with `causal`, time t sees times <= t only.

    `chunked` takes the queries in chunks of 64 and leaves out the keys that a causal mask would hide: almost half of the work, in static
    shapes. `dot_product` is `jax.nn.dot_product_attention`. `auto` takes the first for causal attention on the CPU, the second elsewhere.
    The softmax is computed in float32 whatever the dtype of the arguments.
    """
    if implementation == "auto":
        implementation = "chunked" if causal and jax.default_backend() == "cpu" else "dot_product"
    if implementation == "dot_product":
        batched_bias = None if bias is None else bias[None]
        return jax.nn.dot_product_attention(queries, keys, values, bias=batched_bias, is_causal=causal)
    time = queries.shape[1]
    chunks = []
    for start in range(0, time, QUERY_CHUNK):
        stop = min(start + QUERY_CHUNK, time)
        seen = stop if causal else time
        chunk_bias = None if bias is None else bias[:, start:stop, :seen]
        weights = _weights(queries[:, start:stop], keys[:, :seen], chunk_bias, start if causal else None)
        chunks.append(jnp.einsum("bhqk,bkhd->bqhd", weights.astype(values.dtype), values[:, :seen]))
    return jnp.concatenate(chunks, axis=1)


def attention_weights(
    queries: Float[Array, "batch time heads dim"],
    keys: Float[Array, "batch time heads dim"],
    bias: Float[Array, "heads time time"] | None = None,
    causal: bool = True,
) -> Float[Array, "batch heads time time"]:
    """The softmax weights that `attention` applies to the values, whole: for looking at, not for training."""
    return _weights(queries, keys, bias, 0 if causal else None)


def _weights(queries, keys, bias, first_query):
    """Float32 weights [batch, heads, queries, keys]; `first_query` is the time of the first query, None without a causal mask."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, preferred_element_type=jnp.float32)
    scores = scores * jnp.float32(queries.shape[-1] ** -0.5)
    if bias is not None:
        scores = scores + bias[None].astype(jnp.float32)
    if first_query is not None:
        visible = jnp.arange(keys.shape[1])[None, :] <= first_query + jnp.arange(queries.shape[1])[:, None]
        scores = jnp.where(visible[None, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)
