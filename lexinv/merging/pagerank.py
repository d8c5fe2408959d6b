"""Pruning by a weighted PageRank on the attention graph, after near-duplicates are gone (Zero-TPrune).

Wang, Dedhia and Jha 2024 (arXiv 2305.17328), from the method card zero-tprune, which rests on reading notes: there is no released code.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lexinv.merging.bipartite import match
from lexinv.merging.plan import Plan, check_axes, check_whole, compose, descending_rank, prune, unprotected_tokens
from lexinv.merging.ranking import prune_by_score
from lexinv.validation import require

Ranking = Callable[[Any, int, Any], Array]
"""ranking(attention [heads, tokens, tokens], iterations, start [tokens] or None) -> scores [tokens]: `importance`, or another one."""


def weighted_pagerank(
    attention: Float[Array, "heads tokens tokens"], iterations: int, start: Float[Array, " tokens"] | None = None
) -> Float[Array, "heads tokens"]:
    """s <- A^T s for each head, `iterations` times: token j votes for i with A_ji of its own importance. Mean 1 over tokens.

    attention: rows are queries and sum to 1, so that the sum of s is conserved. start: even by default; `favour_cls` for classification.
    """
    check_axes(3, attention=attention)
    check_whole(iterations=iterations)
    require(iterations >= 0, "iterations", iterations, "0 or more votes")
    heads, tokens, _ = attention.shape
    start = jnp.ones(tokens, jnp.float32) if start is None else start
    scores = jnp.broadcast_to(_mean_one(start.astype(jnp.float32)[None, :]), (heads, tokens))
    attention = jax.lax.stop_gradient(attention).astype(jnp.float32)

    def vote(_, scores: Array) -> Array:
        return _mean_one(jnp.einsum("hji,hj->hi", attention, scores, precision="highest"))

    return jax.lax.fori_loop(0, iterations, vote, scores)


def favour_cls(tokens: int) -> Float[Array, " tokens"]:
    """A start that gives token 0 (CLS) sqrt(N) times the weight of every other token (the paper's default for classification)."""
    return jnp.ones(tokens, jnp.float32).at[0].set(tokens**0.5)


def keep_heads(
    scores: Float[Array, "heads tokens"], lowest: float = 0.01, highest: float = 0.7
) -> Bool[Array, " heads"]:
    """Variance-based head filter: heads whose scores, of mean 1, have a variance over tokens from `lowest` to `highest`; all if none has.

    Scores of sum 1 would have a variance below 1/N, and no head would pass: the mean-1 scale is our reading of the thresholds.
    """
    require(0 <= lowest <= highest, "lowest, highest", (lowest, highest), "0 <= lowest <= highest")
    variance = jnp.var(_mean_one(scores), axis=1)
    kept = (variance >= lowest) & (variance <= highest)
    return kept | ~jnp.any(kept)


def root_mean_square(scores: Float[Array, "heads tokens"], heads: Bool[Array, " heads"]) -> Float[Array, " tokens"]:
    """sqrt of the mean of s^2 over the kept heads, so that one head's vital token is not outvoted (emphasising informative regions)."""
    kept = heads.astype(scores.dtype)[:, None]
    return jnp.sqrt(jnp.sum(kept * scores * scores, axis=0) / jnp.maximum(jnp.sum(kept), 1.0))


def importance(
    attention: Float[Array, "heads tokens tokens"],
    iterations: int,
    start: Float[Array, " tokens"] | None = None,
    lowest: float = 0.01,
    highest: float = 0.7,
) -> Float[Array, " tokens"]:
    """`weighted_pagerank`, `keep_heads` and `root_mean_square` in turn."""
    scores = weighted_pagerank(attention, iterations, start)
    return root_mean_square(scores, keep_heads(scores, lowest, highest))


def all_heads(
    attention: Float[Array, "heads tokens tokens"], iterations: int, start: Float[Array, " tokens"] | None = None
) -> Float[Array, " tokens"]:
    """`importance` without the head filter."""
    return importance(attention, iterations, start, 0.0, float("inf"))


def mean_importance(
    attention: Float[Array, "heads tokens tokens"], iterations: int, start: Float[Array, " tokens"] | None = None
) -> Float[Array, " tokens"]:
    """The mean over all heads in place of the root mean square of the kept ones: the ablation."""
    return jnp.mean(weighted_pagerank(attention, iterations, start), axis=0)


def votes_of_layer(layer: int, depth: int) -> int:
    """Iterations of PageRank in a layer, counted from 0: 30 in the first quarter, 1 in the last (of near rank one), 5 between."""
    if layer < depth / 4:
        return 30
    return 1 if layer >= 3 * depth / 4 else 5


def similarity_prune(
    similarity: Float[Array, "tokens tokens"],
    scores: Float[Array, " tokens"],
    num_prune: int,
    protect: int = 1,
    mask: Bool[Array, " tokens"] | None = None,
) -> Plan:
    """The S-stage: tokens of the less important half each name their most similar of the other half; the most similar pairs lose them.

    similarity: cosines of keys. They are dropped, not merged (weight 0; `assign` says whom they resemble). The kept ones stay in order.
    num_prune is clipped at half of the unprotected tokens.
    """
    check_axes(2, similarity=similarity)
    check_axes(1, scores=scores)
    check_whole(num_prune=num_prune)
    require(num_prune >= 0, "num_prune", num_prune, "0 or more tokens")
    tokens = similarity.shape[0]
    allowed = unprotected_tokens(tokens, protect)
    num_prune = min(num_prune, (tokens - protect) // 2)
    eligible = allowed if mask is None else allowed & mask
    rank = descending_rank(scores, eligible)
    upper = eligible & (rank < (jnp.sum(eligible, dtype=jnp.int32) + 1) // 2)
    return in_order(prune(match(similarity, eligible & ~upper, upper, num_prune, protect, mask)))


def in_order(plan: Plan) -> Plan:
    """The same plan with its targets sorted by their anchors, so that tokens stay in their order."""
    order = jnp.argsort(plan.anchor)
    place = jnp.argsort(order).astype(jnp.int32)
    nowhere = jnp.array([plan.anchor.shape[0]], jnp.int32)
    return Plan(jnp.concatenate([place, nowhere])[plan.assign], plan.weight, plan.anchor[order])


def zero_shot_prune(
    attention: Float[Array, "heads tokens tokens"],
    similarity: Float[Array, "tokens tokens"],
    num_similar: int,
    num_unimportant: int,
    iterations: int,
    protect: int = 1,
    ranking: Ranking = importance,
) -> Plan:
    """One pruning layer, I'-S-I: a single vote splits the tokens, S drops `num_similar` duplicates, PageRank `num_unimportant` of the rest.

    Duplicates go first since a large background votes for itself and would outrank the object. The second ranking is on the graph of
    the tokens that are left (`among`). Raises `InvalidConfig` where fewer than `num_unimportant` unprotected tokens are left.
    """
    first = similarity_prune(similarity, ranking(attention, 1, _start(attention, protect)), num_similar, protect)
    rest = among(attention, first.anchor)
    second = prune_by_score(ranking(rest, iterations, _start(rest, protect)), num_unimportant, protect)
    return compose(second, first)


def importance_first_prune(
    attention: Float[Array, "heads tokens tokens"],
    similarity: Float[Array, "tokens tokens"],
    num_similar: int,
    num_unimportant: int,
    iterations: int,
    protect: int = 1,
    ranking: Ranking = importance,
) -> Plan:
    """The order I-S, which the paper finds worse: PageRank on all tokens drops first, and its scores split the rest for the S-stage.

    Raises `InvalidConfig` for more than the unprotected tokens; num_similar is clipped at half of what I leaves.
    """
    scores = ranking(attention, iterations, _start(attention, protect))
    first = prune_by_score(scores, num_unimportant, protect)
    left = similarity[first.anchor][:, first.anchor]
    return compose(similarity_prune(left, scores[first.anchor], num_similar, protect), first)


def among(attention: Float[Array, "heads tokens tokens"], kept: Int[Array, " kept"]) -> Float[Array, "heads kept kept"]:
    """Attention on the graph of the kept tokens, its rows normalised to 1 again (ours: the notes on the paper do not say)."""
    rest = attention[:, kept][:, :, kept]
    return rest / jnp.maximum(jnp.sum(rest, axis=2, keepdims=True), 1e-12)


def _start(attention: Float[Array, "heads tokens tokens"], protect: int) -> Float[Array, " tokens"] | None:
    return favour_cls(attention.shape[1]) if protect else None


def _mean_one(scores: Float[Array, "heads tokens"]) -> Float[Array, "heads tokens"]:
    return scores / jnp.maximum(jnp.mean(scores, axis=1, keepdims=True), 1e-30)
