"""Visual tokens of crops under the command of a thumbnail: how many each crop keeps, and which (GlobalCom^2).

Liu et al. 2025 (arXiv 2501.05179), method card globalcom2. An image is encoded once as a whole, small, and once in crops at full
resolution, row by row. Where CLS looks in the thumbnail decides how many tokens a crop keeps; that and where CLS looks in the crop itself
decide which. Functions take one image; `jax.vmap` makes batches. The released code sums attention logits, not probabilities, and cuts
every crop's number down to an integer, which loses up to a token each: `crop_counts` hits the total exactly.
"""

from math import isqrt

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from lexinv.merging.plan import Plan, build, check_axes, check_whole, descending_rank
from lexinv.validation import require


def region_scores(scores: Float[Array, "side side"], rows: int, columns: int) -> Float[Array, " crops"]:
    """The sum of a thumbnail's scores over what each of `rows` by `columns` crops covers, crops row by row.

    A region is floor(side / rows) by floor(side / columns) cells; what is left over goes to the last row and column, as in the released
    code: with scores that have no zero point of their own, such as logits, only equal regions can be compared.
    Raises `InvalidConfig` for more crops than cells along a side, and for scores that are NaN.
    """
    _check_scores(scores=scores)
    check_axes(2, scores=scores)
    down, across = (_cells(name, parts, scores.shape[0]) for name, parts in (("rows", rows), ("columns", columns)))
    return jnp.einsum("ri,ij,cj->rc", down, scores, across, precision="highest").reshape(-1)


def _cells(name: str, parts: int, side: int) -> Float[Array, "parts side"]:
    """1 for the cells along a side that each part covers."""
    check_whole(**{name: parts})
    require(1 <= parts <= side, name, parts, f"from 1 to the thumbnail's {side} cells along a side")
    part = np.minimum(np.arange(side) // (side // parts), parts - 1)
    return jnp.asarray(part[None, :] == np.arange(parts)[:, None], jnp.float32)


def crop_ratios(scores: Float[Array, " crops"], ratio: float, temperature: float) -> Float[Array, " crops"]:
    """r_j = min(1, R (1 + sigma_j - 1/n)), sigma = softmax(scores / temperature): the share of its tokens that each crop keeps.

    Without clipping their mean is R. The temperature is in units of the scores: the paper's 10 is for sums of logits over 144 cells.
    Raises `InvalidConfig` for a ratio outside of (0, 1], a temperature that is not positive, and scores that are NaN.
    """
    _check_scores(scores=scores)
    require(0 < ratio <= 1, "ratio", ratio, "above 0, at most 1")
    require(temperature > 0, "temperature", temperature, "above 0")
    return jnp.minimum(1.0, ratio * (1 + jax.nn.softmax(scores / temperature) - 1 / scores.shape[0]))


def crop_counts(ratios: Float[Array, " crops"], sizes: Int[Array, " crops"], total: int) -> Int[Array, " crops"]:
    """How many tokens each crop keeps: `total` in all, in proportion to ratio times size, never more than the crop has.

    sizes: un-padded tokens of each crop. What a full crop cannot take goes to the others in their proportion, to those of ratio 0 last.
    Fractions are rounded by the largest remainder, of equal ones the first up. Raises `InvalidConfig` for a total that is not there.
    """
    check_whole(total=total)
    check_axes(1, ratios=ratios, sizes=sizes)
    _check_scores(ratios=ratios)
    if not isinstance(sizes, Tracer):
        there = int(np.sum(sizes))
        require(0 <= total <= there, "total", total, f"from 0 to the {there} tokens that are no padding")
    room = sizes.astype(jnp.float32)
    wanted = (ratios.astype(jnp.float32) + 1e-6) * room
    quota = jnp.zeros_like(room)
    for _ in range(len(ratios)):  # each round fills a crop or all that is left
        left = jnp.maximum(total - jnp.sum(quota), 0.0)
        open_ = jnp.where(quota < room, wanted, 0.0)
        quota = jnp.minimum(room, quota + left * open_ / jnp.maximum(jnp.sum(open_), 1e-30))
    whole = jnp.floor(quota)
    order = descending_rank(quota - whole, whole < room)
    counts = whole.astype(jnp.int32)
    return counts + (order < total - jnp.sum(counts)).astype(jnp.int32)


def guided_scores(
    thumbnail: Float[Array, "side side"], local: Float[Array, "crops tokens"], grid: tuple[int, int], share: float
) -> Float[Array, "crops tokens"]:
    """share g_j / |g_j| + (1 - share) l_j / |l_j| in every crop j: g is the thumbnail's score at its place, l the crop's own.

    The thumbnail is stretched over all crops, bilinearly with half-pixel centres, and cut up. Norms are over a crop, as in the code. grid:
    rows and columns of crops. Raises `InvalidConfig` for another number of crops, crops that are no squares, and scores that are NaN.
    """
    _check_scores(thumbnail=thumbnail, local=local)
    check_axes(2, thumbnail=thumbnail, local=local)
    (rows, columns), (crops, tokens) = grid, local.shape
    side = isqrt(tokens)
    require(rows * columns == crops, "grid", grid, f"rows and columns of {crops} crops")
    require(side**2 == tokens, "local", local.shape, "crops of a square of tokens")
    require(0 <= share <= 1, "share", share, "from 0 to 1")
    whole = jax.image.resize(thumbnail, (rows * side, columns * side), "bilinear", antialias=False)
    parts = whole.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(crops, tokens)
    return share * _normalised(parts) + (1 - share) * _normalised(local)


def _normalised(scores: Float[Array, "crops tokens"]) -> Float[Array, "crops tokens"]:
    return scores / jnp.maximum(jnp.linalg.norm(scores, axis=1, keepdims=True), 1e-12)


def crop_plan(scores: Float[Array, "crops tokens"], counts: Int[Array, " crops"], total: int) -> Plan:
    """The plan that keeps the `counts[j]` highest scores of crop j, of equal ones the first, and lets all others go nowhere.

    Tokens are those of all crops, one crop after another, and stay in that order. counts: `total` in all, which is static.
    Raises `InvalidConfig` for other counts, where they are known, and for scores that are NaN.
    """
    check_axes(2, scores=scores)
    check_whole(total=total)
    _check_scores(scores=scores)
    crops, tokens = scores.shape
    require(0 <= total <= crops * tokens, "total", total, f"from 0 to {crops * tokens} tokens")
    if not isinstance(counts, Tracer):
        fits = np.sum(counts) == total and np.min(counts) >= 0 and np.max(counts) <= tokens
        require(bool(fits), "counts", np.asarray(counts).tolist(), f"from 0 to {tokens} each, {total} in all")
    every = jnp.ones(tokens, bool)
    rank = jax.vmap(descending_rank, (0, None))(scores, every)
    removed = (rank >= counts[:, None]).reshape(-1)
    nowhere = jnp.full(crops * tokens, crops * tokens, jnp.int32)
    return build(removed, nowhere, jnp.ones(crops * tokens), jnp.zeros(crops * tokens, jnp.int32), total)


def _check_scores(**arrays: Array) -> None:
    """Raise `InvalidConfig`, by name, for NaN, where values are known: not under jit."""
    for name, array in arrays.items():
        known = not isinstance(array, Tracer)
        require(not known or not bool(jnp.isnan(array).any()), name, "NaN", "scores that are numbers")
