"""Spectrum-preserving merging: an energy says how large a cluster each token sits in, and isolated tokens are protected (PiToMe).

Tran et al. 2024 (arXiv 2405.16148), section 3; method card token-merging. Paper and code differ in the energy: `kind` names which.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lexinv.merging.bipartite import match
from lexinv.merging.plan import Plan, check_axes, check_whole, descending_rank, real_share, unprotected_tokens
from lexinv.validation import choose, require

Kind = Literal["elu", "paper", "gauss"]
Mode = Literal["protect", "ordered", "halves"]


def energies(
    similarity: Float[Array, "tokens tokens"],
    margin: float,
    alpha: float = 1.0,
    kind: Kind = "elu",
    mask: Bool[Array, " tokens"] | None = None,
    protect: int = 0,
) -> Float[Array, " tokens"]:
    """E_i = 1/N sum_j f(cos_ij), j = i among them: high in a large tight cluster, low for an isolated token.

    kind: "paper" is f(x) = x for x >= margin, alpha (e^(x - margin) - 1) below, with a jump at the margin (eq. 4); "elu" is the released
    code's ELU_alpha(x - margin), without jump and lower by the margin; "gauss", for text, the mean of
    exp(-((1 - x) / sigma)^2 / 2) / (sigma sqrt(2 pi)) with sigma = 1 - margin.
    mask: padding is in no sum. protect: nor are the first tokens, such as CLS, which PiToMe takes out beforehand.
    """
    choose("kind", kind, ("elu", "paper", "gauss"))
    check_axes(2, similarity=similarity)
    require(kind != "gauss" or margin < 1, "margin", margin, "below 1: sigma = 1 - margin is a width")
    over = similarity - margin
    if kind == "gauss":
        sigma = 1 - margin
        values = jnp.exp(-(((1 - similarity) / sigma) ** 2) / 2) / (sigma * (2 * jnp.pi) ** 0.5)
    else:
        below = alpha * jnp.expm1(jnp.minimum(over, 0.0))
        values = jnp.where(over >= 0, similarity if kind == "paper" else over, below)
    counted = unprotected_tokens(similarity.shape[0], protect)
    real = (counted if mask is None else counted & mask).astype(values.dtype)
    return values @ real / jnp.maximum(jnp.sum(real), 1.0)


def energy_matching(
    similarity: Float[Array, "tokens tokens"],
    scores: Float[Array, " tokens"],
    num_merge: int,
    mode: Mode = "protect",
    protect: int = 1,
    mask: Bool[Array, " tokens"] | None = None,
) -> Plan:
    """PiToMe: the 2 num_merge tokens of the highest score alternate as sources and destinations, and every source is merged.

    scores: `energies`; minus those for the inverted control, or any other ranking (CLS attention).
    mode: "protect" is that, with all other tokens protected; "ordered" alternates over all tokens in order of score and merges the most
    similar pairs (`pitome_bsm` of the code: no protection); "halves" merges the first num_merge tokens into the next ones, as for text.
    protect: the first tokens, left alone. num_merge is clipped at half of the others. mask: padding ranks last.

    Each source must go somewhere: where clusters have been merged to equal size, "protect" merges across them (card, finding 3).
    """
    choose("mode", mode, ("protect", "ordered", "halves"))
    check_axes(2, similarity=similarity)
    check_axes(1, scores=scores)
    check_whole(num_merge=num_merge)
    require(num_merge >= 0, "num_merge", num_merge, "0 or more tokens")
    tokens = similarity.shape[0]
    allowed = unprotected_tokens(tokens, protect)
    num_merge = min(num_merge, (tokens - protect) // 2)
    eligible = allowed if mask is None else allowed & mask
    rank = descending_rank(scores, eligible)
    pairs = num_merge if mask is None else real_share(num_merge, mask, protect)
    first = rank < pairs if mode == "halves" else rank % 2 == 0
    mergeable = eligible if mode == "ordered" else eligible & (rank < 2 * pairs)
    return match(similarity, mergeable & first, mergeable & ~first, num_merge, protect, mask)


def margin_of_layer(layer: int, depth: int, start: float = 0.9, fall: float = 0.9) -> float:
    """start - fall l / L: 0.9 - 0.9 l/L in the paper; the code has 0.75 (1 - l/L) for DeiT and 0.9 - 0.25 l/L for text."""
    check_whole(layer=layer, depth=depth)
    require(0 <= layer < depth, "layer", layer, f"from 0 to {depth - 1}")
    return start - fall * layer / depth
