"""Attention by what accelerators have: cuDNN's and TPUs' kernels, and windows in blocks. See `lexinv.nn.attention.attention`."""

import jax
import jax.numpy as jnp

UNSEEN = -1e30
"""Finite, so that a query that sees nothing is uniform and not NaN."""

CUDNN_WIDTHS, CUDNN_CAPABILITY = (8, 128), (8, 0)
"""cuDNN's kernels take heads of a multiple of the first width, at most the second, on GPUs from this compute capability on."""

FLASH_BLOCK, FLASH_SHORTEST = 128, 1024
"""JAX's kernel for TPUs takes whole blocks of times, and heads of at most one block or of several; XLA does shorter texts as well."""

SHORTEST_BLOCK = 64
"""Times of a block of `attend_in_blocks`, unless the window is longer."""


def channels_for_keys(weighed: bool, time: int, causal: bool) -> bool:
    """Whether `attend_by_keys` adds channels: for a bias or a mask, and to hide the key by which it makes an odd length even."""
    return weighed or (time % 2 == 1 and not causal)


def attend_by_keys(queries, keys, values, bias, mask, causal, window, implementation):
    """`jax.nn.dot_product_attention` without any bias or mask: what keys have of them goes into 8 more channels of queries and keys.

    There a query has ones, and a key its bias over the scale, in as many parts as make up for the few digits of half precision.
    cuDNN's own bias would be an array of pairs, which `jax.vmap` does not batch. Lengths are made even, without which JAX refuses its
    gradient: by a last key that is hidden, and a query that is dropped.
    """
    (batch, time, heads, width), scale = queries.shape, queries.shape[-1] ** -0.5
    odd = time % 2
    if channels_for_keys(bias is not None or mask is not None, time, causal):
        most, dtype = float(jnp.finfo(keys.dtype).max) / 2, keys.dtype
        added = jnp.zeros((batch, time), jnp.float32)
        if bias is not None:
            added = added + bias[:, 0, 0].astype(jnp.float32)
        if mask is not None:
            added = jnp.where(mask, added, UNSEEN)
        added = jnp.pad(added, ((0, 0), (0, odd)), constant_values=UNSEEN)
        rest, parts = jnp.clip(added / scale, -most, most), []
        for _ in range(3):
            parts.append(rest.astype(dtype))
            rest = rest - parts[-1].astype(jnp.float32)
        more = jnp.broadcast_to(jnp.stack(parts, axis=-1)[:, :, None], (batch, time + odd, heads, 3))
        room = CUDNN_WIDTHS[0]
        queries = jnp.concatenate([_padded(queries, odd, 0), _padded(jnp.ones_like(more), 0, room - 3)], axis=-1)
        keys = jnp.concatenate([_padded(keys, odd, 0), _padded(more, 0, room - 3)], axis=-1)
        values = _padded(values, odd, room)
    elif odd:
        queries, keys, values = (_padded(x, odd, 0) for x in (queries, keys, values))
    before = (window - 1, 0) if window else None
    with jax.numpy_dtype_promotion("standard"):
        found = jax.nn.dot_product_attention(
            queries,
            keys,
            values,
            scale=scale,
            is_causal=causal,
            local_window_size=before,
            implementation=implementation,
        )
    return found[:, :time, :, :width]


def attend_in_blocks(queries, keys, values, window):
    """Causal attention within a window, of blocks of queries to their own times and those of the block before: nothing else is computed."""
    batch, time, heads, width = queries.shape
    size = max(window, SHORTEST_BLOCK)
    blocks = -(-time // size)

    def cut(x):
        return _padded(x, blocks * size - time, 0).reshape(batch, blocks, size, heads, width)

    def with_those_before(x):
        before = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))[:, :-1]
        return jnp.concatenate([before, x], axis=2).reshape(batch * blocks, 2 * size, heads, width)

    query, key = jnp.arange(size)[:, None], jnp.arange(-size, size)[None]
    seen = (key <= query) & (key > query - window)
    there = (key >= 0)[None] | (jnp.arange(blocks) > 0)[:, None, None]  # before the first block there is nothing
    mask = jnp.broadcast_to((seen[None] & there)[None, :, None], (batch, blocks, 1, size, 2 * size))
    with jax.numpy_dtype_promotion("standard"):
        found = jax.nn.dot_product_attention(
            cut(queries).reshape(-1, size, heads, width),
            with_those_before(cut(keys)),
            with_those_before(cut(values)),
            mask=mask.reshape(-1, 1, size, 2 * size),
        )
    return found.reshape(batch, blocks * size, heads, width)[:, :time]


def flash(queries, keys, values, causal):
    """JAX's flash attention for TPUs."""
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    queries, keys, values = (jnp.swapaxes(x, 1, 2) for x in (queries, keys, values))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = flash_attention(queries, keys, values, causal=causal, sm_scale=queries.shape[-1] ** -0.5)
    return jnp.swapaxes(found, 1, 2)


def _padded(x, times, channels):
    return jnp.pad(x, ((0, 0), (0, times), (0, 0), (0, channels)))
