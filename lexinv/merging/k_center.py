"""Diversity, then relevance: prune after the encoder from a pivot on, and drop all visual tokens where the text stops looking (ToDRE).

Li, Yang and Lu 2025 (arXiv 2505.18757), method card todre. Version 2 of the paper maximises the sum of distances; version 1 speaks of
greedy k-center, whose exact rule is not verified: both are here. Attention is that of one layer; rows are queries and sum to 1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lexinv.merging.diversity import Objective, cosine_distance, greedy_dispersion, keep_tokens
from lexinv.merging.plan import Plan, check_axes, check_whole
from lexinv.validation import require


def pivot_prune(
    x: Float[Array, "tokens width"],
    scores: Float[Array, " tokens"],
    num_keep: int,
    objective: Objective = "maxsum",
    mask: Bool[Array, " tokens"] | None = None,
) -> Plan:
    """Stage 1: keep `num_keep` tokens, the one of the highest score (attention of the encoder's CLS) first, then by greedy dispersion.

    objective: "maxsum" (version 2: the least cumulative cosine to those chosen) or "maxmin" (the k-center reading: the least maximum).
    """
    check_axes(1, scores=scores)
    distance = cosine_distance(x)
    known = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
    chosen = greedy_dispersion(distance, num_keep, jnp.argmax(known).astype(jnp.int32), objective, mask)
    return keep_tokens(chosen, distance, mask)


def check_layer(layers: int) -> int:
    """The layer before which stage 2 decides, floor(7 L / 8), counted from 0."""
    check_whole(layers=layers)
    require(layers >= 1, "layers", layers, "at least 1")
    return 7 * layers // 8


def attention_share(
    attention: Float[Array, "heads tokens tokens"], queries: Bool[Array, " tokens"], keys: Bool[Array, " tokens"]
) -> Float[Array, ""]:
    """The share of the attention of `queries`, averaged over heads, that falls on `keys`: from 0 to 1; 0 for no queries.

    a_tv of the paper with text queries and visual keys. With the image before the question and a causal mask a_vt is 0 by construction.
    """
    given = jnp.sum(jnp.where(queries[:, None], jnp.mean(attention, axis=0), 0.0), axis=0)
    total = jnp.sum(given)
    return jnp.sum(jnp.where(keys, given, 0.0)) / jnp.where(total > 0, total, 1.0)


def withdraws(
    attention: Float[Array, "heads tokens tokens"],
    visual: Bool[Array, " tokens"],
    text: Bool[Array, " tokens"],
    threshold: float = 0.1,
) -> Bool[Array, ""]:
    """Whether stage 2 drops every visual token: text and image look at each other with shares below `threshold`, both ways."""
    require(0 <= threshold <= 1, "threshold", threshold, "from 0 to 1")
    to_visual, to_text = attention_share(attention, text, visual), attention_share(attention, visual, text)
    return (to_visual < threshold) & (to_text < threshold)


def withdraw(
    size: Float[Array, " tokens"], visual: Bool[Array, " tokens"], decision: Bool[Array, ""]
) -> Float[Array, " tokens"]:
    """Sizes with the visual tokens at 0 if `decision`: `lexinv.nn.attention.size_bias` then hides them from every later layer.

    Text comes out as if they were gone, positions unchanged, but nothing is saved: for speed decide outside jit, and go on with the
    other tokens alone.
    """
    return jnp.where(visual & decision, 0.0, size)
