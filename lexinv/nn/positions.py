"""Position information inside attention: rotary embeddings and the T5 relative bias."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def rotate(
    x: Float[Array, "batch time heads dim"],
    base: float = 10_000.0,
    share: int | None = None,
    positions: Int[Array, "batch time"] | None = None,
    divisors: Sequence[float] = (),
    most: int | None = None,
) -> Float[Array, "batch time heads dim"]:
    """Rotary position embedding (Su et al. 2021, eq. 34), halves of the head as the two coordinates of each plane.

    share: how many channels are rotated, the first ones; the others stay as they are (GPT-NeoX). positions: 0, 1, 2, ... by default.
    divisors: by plane what its frequency is divided by, for contexts beyond those of training; none for 1.
    most: what all positions are below, if that is known: they are then looked up, to the last digit as they are by default.
    """
    if share is not None and share < x.shape[-1]:
        turned = rotate(x[..., :share], base, None, positions, divisors, most)
        return jnp.concatenate([turned, x[..., share:]], axis=-1)
    half = x.shape[-1] // 2
    frequencies = base ** (-np.arange(half) / half) / (np.asarray(divisors) if divisors else 1.0)
    if positions is None or most is not None:
        angles = np.arange(x.shape[1] if most is None else most)[:, None] * frequencies[None, :]
        tables = (jnp.asarray(part(angles), x.dtype) for part in (np.cos, np.sin))
        cosine, sine = ((z[None] if positions is None else z[positions])[:, :, None, :] for z in tables)
    else:
        turned = positions[:, :, None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)[None, None, :]
        cosine, sine = (part(turned).astype(x.dtype)[:, :, None, :] for part in (jnp.cos, jnp.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def relative_bias(table: Float[Array, "buckets heads"], time: int, causal: bool) -> Float[Array, "heads time time"]:
    """One learned number per head and bucket of distances, added to the attention scores (Raffel et al. 2020, section 2.1)."""
    buckets = relative_buckets(time, table.shape[0], causal)
    return jnp.moveaxis(table[buckets], -1, 0)


def linear_bias(heads: int, time: int) -> Float[Array, "heads time time"]:
    """-2^(-8 h / heads) for each time between query and key, h from 1 to `heads` (ALiBi, Press et al. 2022), for any number of heads."""
    distance = np.abs(np.arange(time)[:, None] - np.arange(time)[None, :])
    slopes = 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)
    return jnp.asarray(slopes, jnp.float32)[:, None, None] * -jnp.asarray(distance, jnp.float32)[None]


def relative_buckets(time: int, buckets: int, causal: bool, max_distance: int = 128) -> np.ndarray:
    """Bucket of the distance from query i to key j, int[time, time]: half of the buckets exact, the rest logarithmic up to `max_distance`.

    Bidirectional attention gives half of the buckets to keys after the query.
    """
    distance = np.arange(time)[:, None] - np.arange(time)[None, :]
    offset = np.zeros_like(distance)
    if causal:
        distance = np.maximum(distance, 0)
    else:
        buckets //= 2
        offset = np.where(distance < 0, buckets, 0)
        distance = np.abs(distance)
    exact = buckets // 2
    logarithmic = exact + (
        np.log(np.maximum(distance, 1) / exact) / np.log(max_distance / exact) * (buckets - exact)
    ).astype(int)
    return offset + np.where(distance < exact, distance, np.minimum(logarithmic, buckets - 1))
