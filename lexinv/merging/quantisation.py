"""Uniform quantisation of what attention caches, and what tokens of outlying norm do to it.

Symmetric, to signed integers of few bits, with one scale for each group of numbers, set by the largest of them: one outlier then makes
the steps of all others coarse. Kong et al. 2026 (arXiv 2505.18227), section 5, on reduction beside quantisation; method card
token-reduction-beyond-efficiency.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lexinv.merging.plan import check_axes, check_whole, descending_rank
from lexinv.validation import require


def quantise(
    x: Float[Array, "tokens *features"],
    bits: int,
    axes: tuple[int, ...] = (0,),
    exact: Bool[Array, " tokens"] | None = None,
) -> Float[Array, "tokens *features"]:
    """x rounded to multiples of a scale, s k with whole numbers |k| <= m = 2^(bits - 1) - 1, and s = max |x| / m over `axes`.

    axes: those that share a scale; (0,), one scale for each channel, as keys have it in KIVI [recalled]; all of them, one scale for x.
    exact: tokens that stay as they are and count in no scale: kept at full precision, or gone. What lies on the grid stays as it is.
    Raises `InvalidConfig` for fewer than 2 bits, and axes that x does not have.
    """
    check_whole(bits=bits)
    require(2 <= bits <= 16, "bits", bits, "from 2 to 16")
    require(set(axes) <= set(range(x.ndim)), "axes", axes, f"some of {x.ndim} axes, from 0")
    most = float(2 ** (bits - 1) - 1)
    left = None if exact is None else exact.reshape(-1, *[1] * (x.ndim - 1))
    counted = jnp.abs(x) if left is None else jnp.where(left, 0.0, jnp.abs(x))
    scale = jnp.max(counted, axis=axes, keepdims=True) / most
    rounded = scale * jnp.clip(jnp.round(x / jnp.where(scale > 0, scale, 1.0)), -most, most)
    return rounded if left is None else jnp.where(left, x, rounded)


def largest_norms(
    norms: Float[Array, " tokens"], count: int, mask: Bool[Array, " tokens"] | None = None
) -> Bool[Array, " tokens"]:
    """Which tokens are the `count` of the largest norm, of equal ones the first; padding is none of them while there are others."""
    check_axes(1, norms=norms)
    check_whole(count=count)
    require(0 <= count <= norms.shape[0], "count", count, f"from 0 to the {norms.shape[0]} tokens")
    real = jnp.ones(norms.shape, bool) if mask is None else mask
    return (descending_rank(norms, real) < count) & real
