"""Bipartite soft matching: half of the tokens each name their most similar one of the other half, and the best pairs merge (ToMe).

Bolya et al. 2023 (arXiv 2210.09461), section 3; on a grid as for Stable Diffusion (arXiv 2303.17604). Method card token-merging, from
which all of this is written. Everything takes the similarities of one example's tokens, [tokens, tokens], which `cosine_similarity`
gives for the keys of a layer averaged over heads, or for the tokens themselves. Where it is known before compiling which tokens are
destinations, `Cosines` in their place compute those across the two sets alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from lexinv.merging.plan import (
    Plan,
    build,
    check_axes,
    check_whole,
    descending_rank,
    fill_with_padding,
    identity,
    real_share,
    unprotected_tokens,
)
from lexinv.validation import require


class Cosines(NamedTuple):
    """The cosines of tokens that are not computed yet. unit: of length 1; zero for a zero vector; NaN for one that is not finite."""

    unit: Float[Array, "tokens width"]

    def between(
        self, rows: Integer[np.ndarray, " rows"], columns: Integer[np.ndarray, " columns"]
    ) -> Float[Array, "rows columns"]:
        """Those of chosen tokens with chosen others."""
        return _cosines(_take(self.unit, rows, 0), _take(self.unit, columns, 0))

    def all(self) -> Float[Array, "tokens tokens"]:
        """Those of every token with every one."""
        return _cosines(self.unit, self.unit)


def cosines(metric: Float[Array, "tokens width"], eps: float = 1e-6) -> Cosines:
    """cos(x_i, x_j) in float32 whatever the dtype of `metric`, since rounded similarities reorder the pairs; without gradient.

    A norm below `eps` counts as eps: a zero vector has cosine 0 to all. A token that is not finite has -1 to all.
    """
    check_axes(2, metric=metric)
    metric = jax.lax.stop_gradient(metric).astype(jnp.float32)
    return Cosines(metric / jnp.maximum(jnp.linalg.norm(metric, axis=1, keepdims=True), eps))


def cosine_similarity(metric: Float[Array, "tokens width"], eps: float = 1e-6) -> Float[Array, "tokens tokens"]:
    """All of `cosines(metric, eps)`."""
    return cosines(metric, eps).all()


def _cosines(x: Float[Array, "rows width"], y: Float[Array, "columns width"]) -> Float[Array, "rows columns"]:
    found = jnp.einsum("id,jd->ij", x, y, precision="highest")
    return jnp.where(jnp.isnan(found), -1.0, jnp.clip(found, -1.0, 1.0))


def most_similar(
    similarity: Float[Array, "tokens others"], eligible: Bool[Array, " others"] | None = None
) -> tuple[Float[Array, " tokens"], Int[Array, " tokens"]]:
    """(largest similarity of each token to an eligible other, the first other that has it); (-inf, their number) without one.

    As max and argmax; but the argmax is a minimum over indices, which the CPU computes many at a time, and argmax one by one.
    """
    if eligible is not None:
        similarity = jnp.where(eligible[None, :], similarity, -jnp.inf)
    best = jnp.max(similarity, axis=1)
    largest = ~(similarity < best[:, None])  # and of a row with NaN, whose maximum is NaN, all
    if eligible is not None:
        largest = largest & eligible[None, :]
    others = similarity.shape[1]
    return best, jnp.min(jnp.where(largest, jnp.arange(others, dtype=jnp.int32)[None, :], others), axis=1)


def match(
    similarity: Float[Array, "tokens tokens"],
    source: Bool[Array, " tokens"],
    destination: Bool[Array, " tokens"],
    num_merge: int,
    protect: int = 0,
    mask: Bool[Array, " tokens"] | None = None,
) -> Plan:
    """Each source names its most similar destination; the `num_merge` most similar pairs are merged, the source into the destination.

    num_merge: at most the number of sources. Targets: tokens that are neither, then sources that stay, then destinations, each by index.
    mask: padding names nothing and is not named; see `lexinv.merging.plan` for the number of real pairs.
    """
    check_axes(2, similarity=similarity)
    check_whole(num_merge=num_merge)
    tokens = similarity.shape[0]
    require(0 <= num_merge <= tokens, "num_merge", num_merge, f"from 0 to the {tokens} tokens")
    if num_merge == 0:
        return identity(tokens) if mask is None else identity(tokens)._replace(weight=mask.astype(jnp.float32))
    weight = jnp.ones(tokens, jnp.float32) if mask is None else mask.astype(jnp.float32)
    section = jnp.where(source, 1, jnp.where(destination, 2, 0)).astype(jnp.int32)
    if mask is not None:
        source, destination = source & mask, destination & mask
    best, nearest = most_similar(similarity, destination)
    if mask is None:
        _, chosen = jax.lax.top_k(jnp.where(source, best, -jnp.inf), num_merge)
        removed = jnp.zeros(tokens, bool).at[chosen].set(True)
    else:
        source = source & (best > -jnp.inf)
        first = descending_rank(best, source) < real_share(num_merge, mask, protect)
        removed = fill_with_padding(source & first, num_merge, mask, protect)
        nearest = jnp.where(mask, nearest, tokens)
    return build(removed, nearest, weight, section, tokens - num_merge)


def match_known(
    similarity: Float[Array, "tokens tokens"] | Cosines,
    source: Bool[np.ndarray, " tokens"],
    destination: Bool[np.ndarray, " tokens"],
    num_merge: int,
) -> Plan:
    """`match` of all tokens where it is known before compiling which are sources: only the similarities across the sets are looked at."""
    tokens, most = len(source), int(np.sum(source))
    check_whole(num_merge=num_merge)
    require(0 <= num_merge <= most, "num_merge", num_merge, f"from 0 to the {most} sources")
    if num_merge == 0:
        return identity(tokens)
    parts = [np.flatnonzero(part).astype(np.int32) for part in (~(source | destination), source, destination)]
    neither, sources, destinations = parts
    if isinstance(similarity, Cosines):
        across = similarity.between(sources, destinations)
    else:
        across = _take(_take(similarity, sources, 0), destinations, 1)
    best, nearest = most_similar(across)
    _, chosen = jax.lax.top_k(best, num_merge)
    # By comparing: scatters and running sums take the compiler longer than the rest of this.
    places = np.arange(len(sources), dtype=np.int32)
    gone = jnp.any(chosen[:, None] == places[None, :], axis=0)
    gone_before = jnp.sum(chosen[:, None] < places[None, :], axis=0, dtype=jnp.int32)
    stay = len(sources) - num_merge
    staying = jnp.sort(jnp.where(gone, tokens, sources))[:stay]
    first = len(neither) + stay  # of the targets that are destinations
    ends = jnp.where(gone, first + nearest, len(neither) + places - gone_before)
    kept = [
        np.arange(start, start + len(part), dtype=np.int32) for start, part in ((0, neither), (first, destinations))
    ]
    assign = jnp.concatenate([kept[0], ends, kept[1]])[np.argsort(np.concatenate(parts))]
    return Plan(assign, jnp.ones(tokens, jnp.float32), jnp.concatenate([neither, staying, destinations]))


def _take(x: Array, places: Integer[np.ndarray, " kept"], axis: int) -> Array:
    """These places along an axis; evenly spaced ones as a slice, which the compiler fuses with what is done to them."""
    steps = np.diff(places)
    if len(places) < 2 or (steps != steps[0]).any():
        return jnp.take(x, places, axis=axis)
    return jax.lax.slice_in_dim(x, int(places[0]), int(places[-1]) + 1, int(steps[0]), axis=axis)


def bipartite_matching(
    similarity: Float[Array, "tokens tokens"] | Cosines,
    num_merge: int,
    every: int = 2,
    protect: int = 1,
    mask: Bool[Array, " tokens"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Plan:
    """ToMe: tokens of even index are sources and those of odd index destinations, whatever is protected, as in the released code.

    So with CLS, which is protected, the first token behind it is a destination, and without it the first token is a source. every: above 2
    (ours) the first unprotected token, and every `every`-th after it, is a destination, the others are sources. key: draws the order in
    which unprotected tokens are counted off (random matching); by index without one. protect: the first tokens, left alone. mask: padding
    is not counted. num_merge is clipped at floor(N / 2) of N unprotected tokens for every = 2, and above at the number of sources.
    Raises `InvalidConfig` for a negative num_merge and `every` below 2.
    """
    tokens = _tokens(similarity)
    check_whole(num_merge=num_merge, every=every)
    require(every >= 2, "every", every, "at least 2")
    allowed = unprotected_tokens(tokens, protect)
    there = tokens - protect
    num_merge = _clip(num_merge, there - -(-there // every))
    first = (protect + 1) % 2 if every == 2 else 0  # destination, counted from the first unprotected token
    if key is None and mask is None:
        place = np.arange(tokens) - protect
        named = place % every == first
        return match_known(similarity, (place >= 0) & ~named, (place >= 0) & named, num_merge)
    eligible = allowed if mask is None else allowed & mask
    scores = -jnp.arange(tokens, dtype=jnp.float32) if key is None else jax.random.uniform(key, (tokens,), jnp.float32)
    place = descending_rank(scores, eligible)
    named = place % every == first
    return match(_all(similarity), allowed & ~named, allowed & named, num_merge, protect, mask)


def grid_matching(
    similarity: Float[Array, "tokens tokens"] | Cosines,
    num_merge: int,
    height: int,
    width: int,
    cell: tuple[int, int] = (2, 2),
    protect: int = 0,
    key: Key[Array, ""] | None = None,
) -> Plan:
    """ToMe for Stable Diffusion: the tokens are a grid, row by row; one token of each whole cell is a destination, all others sources.

    key: draws that token; the first of its cell without one. num_merge is clipped at the number of sources. Raises `InvalidConfig` for a
    grid that is not the tokens, or has no whole cell.
    """
    tokens, (rows, columns) = _tokens(similarity), cell
    check_whole(height=height, width=width, rows=rows, columns=columns, protect=protect)
    require(height * width == tokens - protect, "height, width", (height, width), f"a grid of {tokens - protect}")
    require(min(cell) >= 1, "cell", cell, "at least 1 token each way")
    down, across = height // rows, width // columns
    require(down * across >= 1, "cell", cell, f"at most the grid of {height} by {width}")
    num_merge = _clip(num_merge, height * width - down * across)
    first = protect + np.arange(down)[:, None] * rows * width + np.arange(across)[None, :] * columns
    if key is None:
        known = np.isin(np.arange(tokens), first)
        return match_known(similarity, (np.arange(tokens) >= protect) & ~known, known, num_merge)
    if num_merge == 0:
        return identity(tokens)
    inside = jax.random.randint(key, (down, across), 0, rows * columns)
    places = (first + inside // columns * width + inside % columns).reshape(-1)
    named = jnp.zeros(tokens, bool).at[places].set(True)
    # With the destinations last it is known which they are, and only the similarities across the sets are made.
    order = jnp.argsort(named, stable=True)
    moved = Cosines(similarity.unit[order]) if isinstance(similarity, Cosines) else similarity[order][:, order]
    known = np.arange(tokens) >= tokens - down * across
    plan = match_known(moved, (np.arange(tokens) >= protect) & ~known, known, num_merge)
    assign = jnp.zeros(tokens, jnp.int32).at[order].set(plan.assign)
    return Plan(assign, plan.weight, order[plan.anchor].astype(jnp.int32))


def _tokens(similarity: Array | Cosines) -> int:
    found = similarity.unit if isinstance(similarity, Cosines) else similarity
    check_axes(2, similarity=found)
    return found.shape[0]


def _all(similarity: Array | Cosines) -> Array:
    return similarity.all() if isinstance(similarity, Cosines) else similarity


def complete_graph_matching(
    similarity: Float[Array, "tokens tokens"], importance: Float[Array, " tokens"], num_merge: int, protect: int = 1
) -> Plan:
    """CrossGET's complete graph: the tokens most similar to any more important one merge, each into the most similar that stays.

    The card has one line on it; a destination that is itself removed is ruled out here by choosing the sources first.
    num_merge is clipped at all unprotected tokens but one.
    """
    check_axes(1, importance=importance)
    tokens = _tokens(similarity)
    allowed = unprotected_tokens(tokens, protect)
    num_merge = _clip(num_merge, max(tokens - protect - 1, 0))
    rank = descending_rank(importance, allowed)
    above = (rank[None, :] < rank[:, None]) & allowed[None, :] & allowed[:, None]
    best = jnp.max(jnp.where(above, similarity, -jnp.inf), axis=1)
    source = allowed & (descending_rank(best, allowed & (rank > 0)) < num_merge)
    return match(similarity, source, allowed & ~source, num_merge, protect)


def weigh_by_importance(
    similarity: Float[Array, "tokens tokens"], attention: Float[Array, " tokens"], size: Float[Array, " tokens"]
) -> Float[Array, "tokens tokens"]:
    """MCTF's further criteria: similarity over the attention that source and destination receive and over their sizes.

    Cosines are first moved to [0, 1], so that dividing by more always makes a pair less eligible.
    """
    cost = attention * size
    return (similarity + 1) / 2 / jnp.maximum(cost[:, None] * cost[None, :], 1e-12)


def _clip(num_merge: int, most: int) -> int:
    check_whole(num_merge=num_merge)
    require(num_merge >= 0, "num_merge", num_merge, "0 or more tokens")
    return min(num_merge, max(most, 0))
