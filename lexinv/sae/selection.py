"""Which token-feature matches are kept: exact selection of the largest by bisection on the bits of floats.

TopK, Mutual Choice (BatchTopK) and Feature Choice (Ayonrinde 2024, arXiv 2411.02124) keep the largest affinities under a budget per token,
for the whole batch, or per feature. All of them are one function of an axis and a budget.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lexinv.validation import require

Per = Literal["token", "batch", "feature"]
AXES: dict[Per, tuple[int, ...]] = {"token": (1,), "batch": (0, 1), "feature": (0,)}


def select(
    affinities: Float[Array, "tokens features"], budget: int | Int[Array, "..."], per: Per
) -> Bool[Array, "tokens features"]:
    """The `budget` largest positive affinities of every token, of the whole batch, or of every feature.

    budget: an integer, or an array of them: one for each token, one, or one for each feature (m_j of Feature Choice). It may be traced.
    Where fewer affinities are positive, all of those are kept, and nothing else. Of equal affinities at the threshold those with the
    smallest index are kept, token first, so that a budget is never exceeded.

    Affinities are float32, not NaN. The work is 31 passes of counting, without sorting or index arrays; on a mesh every count is a sum over
    devices. The mask has no gradient. For a static k of every token `lexinv.sae.sparse.largest` takes a third of the time up to k about
    F / 32, but gathers the features of a mesh; it pays where its indices are used, as there.
    """
    require(
        affinities.ndim == 2, "affinities", affinities.shape, "[tokens, features]: flatten the axes before the last"
    )
    axes = AXES[per]
    bits = _ordered_bits(jax.lax.stop_gradient(affinities))
    counts = jnp.asarray(budget, jnp.int32)
    counts = counts.reshape({"token": (-1, 1), "batch": (1, 1), "feature": (1, -1)}[per])
    threshold = _threshold_bits(bits, counts, axes)
    above, equal = bits > threshold, (bits == threshold) & (threshold > 0)
    left = counts - jnp.sum(above, axis=axes, keepdims=True, dtype=jnp.int32)

    def first_of_the_equal() -> Bool[Array, "tokens features"]:
        if per == "batch":
            rank = jnp.cumsum(equal.reshape(-1).astype(jnp.int32)).reshape(equal.shape)
        else:
            rank = jnp.cumsum(equal.astype(jnp.int32), axis=axes[0])
        return above | (equal & (rank <= left))

    too_many = jnp.any(jnp.sum(equal, axis=axes, keepdims=True, dtype=jnp.int32) > left)
    return jax.lax.cond(too_many, first_of_the_equal, lambda: above | equal)


def smallest_kept(
    affinities: Float[Array, "tokens features"], mask: Bool[Array, "tokens features"], per: Per
) -> Float[Array, "..."]:
    """The threshold of the selection: the smallest kept affinity of every token, of the batch, or of every feature; infinite for none."""
    return jnp.min(jnp.where(mask, affinities, jnp.inf), axis=AXES[per])


def _threshold_bits(
    bits: Int[Array, "tokens features"], counts: Int[Array, "#n #m"], axes: tuple[int, ...]
) -> Int[Array, "n m"]:
    """The largest t with at least `counts` bits >= t along `axes`: the bits of the count-th largest. 0 where there are not so many."""

    def refine(step: Array, threshold: Array) -> Array:
        candidate = threshold | (jnp.int32(1) << (jnp.int32(30) - step.astype(jnp.int32)))
        enough = _reaches(bits >= candidate, counts, axes)
        return jnp.where(enough, candidate, threshold)

    start = jnp.zeros(jnp.broadcast_shapes(counts.shape, bits[:1, :1].shape), jnp.int32)
    start = jnp.broadcast_to(start, tuple(1 if axis in axes else size for axis, size in enumerate(bits.shape)))
    threshold = jax.lax.fori_loop(0, 31, refine, start)
    return jnp.where(counts > 0, threshold, jnp.iinfo(jnp.int32).max)


DIGIT = 12
"""Counts over a batch are kept as two digits of this many bits and the rest: tokens times features may be more than an int32 holds."""


def _reaches(
    there: Bool[Array, "tokens features"], counts: Int[Array, "#n #m"], axes: tuple[int, ...]
) -> Bool[Array, "n m"]:
    """Whether so many are true along `axes`."""
    if len(axes) == 1:
        return jnp.sum(there, axis=axes, keepdims=True, dtype=jnp.int32) >= counts
    return sum_reaches(jnp.sum(there, axis=1, keepdims=True, dtype=jnp.int32), counts)


def sum_reaches(rows: Int[Array, "tokens one"], counts: Int[Array, "one one"]) -> Bool[Array, "one one"]:
    """Whether the sum of `rows` is at least `counts`; exact for up to 2^(31 - DIGIT) rows, also where the sum is above 2^31."""
    low = jnp.sum(rows & (2**DIGIT - 1), axis=0, keepdims=True, dtype=jnp.int32)
    high = jnp.sum(rows >> DIGIT, axis=0, keepdims=True, dtype=jnp.int32) + (low >> DIGIT)
    low, wanted = low & (2**DIGIT - 1), counts >> DIGIT
    return (high > wanted) | ((high == wanted) & (low >= (counts & (2**DIGIT - 1))))


def _ordered_bits(values: Float[Array, "tokens features"]) -> Int[Array, "tokens features"]:
    """Integers in the order of the positive values; 0 for all that are not positive."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    return jnp.maximum(bits, 0)
