"""New rows of a table as combinations of few of its rows: the ways to fill them that have been published, under one contract."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.transfer.vocabularies import Match
from lexinv.validation import require


class Combination(NamedTuple):
    """Row i is the sum of `weights[i]` times the rows `rows[i]` of any table that has them: a method is fitted once, and serves input and
    output tables, and those of a fine-tuned model."""

    rows: Int[Array, "new k"]
    weights: Float[Array, "new k"]


def apply(combination: Combination, table: Float[Array, "vocab width"]) -> Float[Array, "new width"]:
    """The new rows."""
    return jnp.einsum("nk,nkd->nd", combination.weights, table[combination.rows])


def transplant(
    table: Float[Array, "vocab width"], match: Match, rows: Float[Array, "new width"]
) -> Float[Array, "target width"]:
    """The table of the target: shared rows are copied bit for bit, new ones put between them. Raises `InvalidConfig` for another number."""
    require(len(rows) == len(match.new), "rows", len(rows), f"one for each of the {len(match.new)} new tokens")
    size = len(match.shared) + len(match.new)
    made = jnp.zeros((size, table.shape[1]), table.dtype).at[match.shared[:, 1]].set(table[match.shared[:, 0]])
    return made.at[match.new].set(rows.astype(table.dtype))


def zero(new: int) -> Combination:
    """Rows of zeros: what is left of a model when it does not know a token."""
    return Combination(jnp.zeros((new, 1), jnp.int32), jnp.zeros((new, 1)))


def drawn(key: Key[Array, ""], table: Float[Array, "vocab width"], new: int) -> Float[Array, "new width"]:
    """Rows from a normal distribution with the mean and deviation of each dimension of the table (a baseline of Minixhofer et al.)."""
    noise = jax.random.normal(key, (new, table.shape[1]))
    return table.mean(0)[None] + table.std(0)[None] * noise


def means_of_pieces(ids: Int[Array, "new length"], mask: Bool[Array, "new length"]) -> Combination:
    """The mean of the rows of the tokens that spell it (FVT, Gee et al. 2022; ReTok, Gu et al. 2024). Without any, a row of zeros."""
    there = jnp.asarray(mask, jnp.float32)
    return Combination(jnp.asarray(ids), there / jnp.maximum(there.sum(1, keepdims=True), 1.0))


def local(
    ids: Int[Array, "new length"],
    mask: Bool[Array, "new length"],
    similarity: Float[Array, "new length"] | None,
    share: Float[Array, "new length"],
    temperature: float,
) -> Combination:
    """TokenAdapt's local estimate (Sharthak et al. 2025, section 3): pieces weigh more that mean the same and are long.

    similarity: cosine of the new token's and each piece's vectors by some encoder of texts; None leaves the term out. share: characters of
    each piece over those of the new token. Weights are softmax((softmax(similarity) + share) / 2 / temperature).
    """
    require(temperature > 0, "temperature", temperature, "above 0")
    meaning = 0.0 if similarity is None else jax.nn.softmax(jnp.where(mask, similarity, -jnp.inf), axis=1)
    score = jnp.where(mask, (meaning + share) / 2 / temperature, -jnp.inf)
    weights = jax.nn.softmax(jnp.where(mask.any(1, keepdims=True), score, 0.0), axis=1)
    return Combination(jnp.asarray(ids), jnp.where(mask, weights, 0.0))


def nearest(
    new: Float[Array, "new features"], known: Float[Array, "known features"], count: int, temperature: float
) -> Combination:
    """TokenAdapt's global estimate: the `count` known tokens of the highest cosine, softmax(cosine / temperature). Rows index `known`.

    Vectors have length 1. Raises `InvalidConfig` for more than there are.
    """
    require(1 <= count <= len(known), "count", count, f"1 to the {len(known)} known tokens")
    found, rows = jax.lax.top_k(new @ known.T, count)
    return Combination(rows.astype(jnp.int32), jax.nn.softmax(found / temperature, axis=1))


def sparsemax(scores: Float[Array, "new known"]) -> Float[Array, "new known"]:
    """The nearest point of the simplex to each row of scores, which fall from left to right (Martins and Astudillo 2016, algorithm 1)."""
    total, rank = jnp.cumsum(scores, axis=1), jnp.arange(1.0, scores.shape[1] + 1)[None]
    support = jnp.sum(1 + rank * scores > total, axis=1, keepdims=True)
    threshold = (jnp.take_along_axis(total, support - 1, axis=1) - 1) / support.astype(jnp.float32)
    return jnp.maximum(scores - threshold, 0.0)


def focus(new: Float[Array, "new features"], known: Float[Array, "known features"], count: int) -> Combination:
    """FOCUS (Dobler and de Melo 2023): known tokens by the sparsemax of their cosines in an auxiliary space. Rows index `known`.

    Vectors have length 1. No more than the `count` nearest are looked at: the same as all where fewer get a weight.
    """
    found, rows = jax.lax.top_k(new @ known.T, min(count, len(known)))
    return Combination(rows.astype(jnp.int32), sparsemax(found))


def blend(first: Combination, second: Combination, share: float) -> Combination:
    """(1 - share) of the first and `share` of the second; all of the second where the first has no weight."""
    require(0 <= share <= 1, "share", share, "from 0 to 1")
    there = jnp.abs(first.weights).sum(1, keepdims=True) > 0
    second_share = jnp.where(there, share, 1.0)
    rows = jnp.concatenate([first.rows, second.rows], axis=1)
    weights = jnp.concatenate([(1 - second_share) * first.weights, second_share * second.weights], axis=1)
    return Combination(rows, weights)


def ridge(
    donor: Float[Array, "shared donor_width"], base: Float[Array, "shared width"], strength: float
) -> Float[Array, "donor_width width"]:
    """The linear map W of least ||donor W - base||^2 + s ||W||^2, with s = `strength` times the mean squared length of a donor's column:
    new rows are `donor_rows @ W`. Not published for this use; the dense rival of sparse combinations. Raises `InvalidConfig` below 0."""
    require(strength >= 0, "strength", strength, "zero or more")
    gram = donor.T @ donor
    scale = strength * jnp.trace(gram) / len(gram)
    return jnp.linalg.solve(gram + scale * jnp.eye(len(gram)), donor.T @ base)
