"""Rankings of tokens: prune the last ones, merge those before them (DiffRate, pruning by CLS attention and at random).

Chen et al. 2023 (DiffRate, arXiv 2305.17997); method card token-merging. How many are pruned and merged is given here; `rates` learns it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from lexinv.merging.plan import (
    Plan,
    build,
    check_axes,
    check_whole,
    descending_rank,
    fill_with_padding,
    real_share,
    unprotected_tokens,
)
from lexinv.validation import require


def cls_attention(attention: Float[Array, "heads tokens tokens"]) -> Float[Array, " tokens"]:
    """What token 0 (CLS) gives to every token, averaged over heads: the score of DiffRate and of most pruning."""
    check_axes(3, attention=attention)
    return jnp.mean(attention[:, 0], axis=0)


def received_attention(attention: Float[Array, "heads tokens tokens"]) -> Float[Array, " tokens"]:
    """What a token receives from all, averaged over heads and queries: 1/N for each where attention is even."""
    check_axes(3, attention=attention)
    return jnp.mean(attention, axis=(0, 1))


def prune_by_score(
    scores: Float[Array, " tokens"], num_prune: int, protect: int = 1, mask: Bool[Array, " tokens"] | None = None
) -> Plan:
    """Drop the `num_prune` tokens of the lowest score, of equal ones the last; the others keep their order.

    Raises `InvalidConfig` for more than the unprotected tokens. A pruned token goes nowhere. mask: padding is dropped in its share.
    """
    check_axes(1, scores=scores)
    check_whole(num_prune=num_prune, protect=protect)
    there = scores.shape[0] - protect
    require(0 <= num_prune <= there, "num_prune", num_prune, f"from 0 to the {there} unprotected tokens")
    return _ranked_plan(None, scores, num_prune, 0, protect, mask)


def prune_at_random(
    key: Key[Array, ""], tokens: int, num_prune: int, protect: int = 1, mask: Bool[Array, " tokens"] | None = None
) -> Plan:
    """Drop `num_prune` unprotected tokens drawn without replacement: the control of every method."""
    return prune_by_score(jax.random.uniform(key, (tokens,), jnp.float32), num_prune, protect, mask)


def rank_matching(
    similarity: Float[Array, "tokens tokens"],
    scores: Float[Array, " tokens"],
    num_prune: int,
    num_merge: int,
    protect: int = 1,
    mask: Bool[Array, " tokens"] | None = None,
) -> Plan:
    """DiffRate: drop the `num_prune` lowest scores, and merge the `num_merge` next ones into their most similar of the tokens above.

    A merged token's weight is its similarity to where it goes, not below 0. The first `protect` tokens are no destination.
    Raises `InvalidConfig` where no destination would be left.
    """
    check_axes(2, similarity=similarity)
    check_axes(1, scores=scores)
    check_whole(num_prune=num_prune, num_merge=num_merge, protect=protect)
    there = similarity.shape[0] - protect
    require(num_prune >= 0, "num_prune", num_prune, "0 or more tokens")
    left = there - num_prune - (num_merge > 0)
    require(0 <= num_merge <= left, "num_merge", num_merge, f"from 0 to {max(left, 0)}, so that a destination is left")
    return _ranked_plan(similarity, scores, num_prune, num_merge, protect, mask)


def _ranked_plan(similarity, scores, num_prune, num_merge, protect, mask) -> Plan:
    tokens, count = scores.shape[0], num_prune + num_merge
    allowed = unprotected_tokens(tokens, protect)
    eligible = allowed if mask is None else allowed & mask
    rank = descending_rank(scores, eligible)
    real = jnp.sum(eligible, dtype=jnp.int32)
    removed_count = count if mask is None else real_share(count, mask, protect)
    merged_count = num_merge if mask is None else real_share(num_merge, mask, protect)
    stays = rank < real - removed_count
    merged = eligible & ~stays & (rank < real - removed_count + merged_count)
    removed = eligible & ~stays
    weight = jnp.ones(tokens, jnp.float32) if mask is None else mask.astype(jnp.float32)
    nearest = jnp.full(tokens, tokens, jnp.int32)
    if num_merge:
        among = jnp.where((eligible & stays)[None, :], similarity, -jnp.inf)
        nearest = jnp.where(merged, jnp.argmax(among, axis=1).astype(jnp.int32), tokens)
        weight = jnp.where(merged, jnp.maximum(jnp.max(among, axis=1), 0.0), weight)
    if mask is not None:
        removed = fill_with_padding(removed, count, mask, protect)
    return build(removed, nearest, weight, jnp.zeros(tokens, jnp.int32), tokens - count)
