"""What is done with scores beside dropping the lowest: one package token for all that is dropped.

A strategy P of the common form X' = P(X, E(X)) of Kong et al. 2026 (arXiv 2505.18227), appendix A; method card
token-reduction-beyond-efficiency. Hard pruning is `ranking.prune_by_score`, merging is every matching of this family.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lexinv.merging.plan import Plan, build, check_axes, check_whole, descending_rank, unprotected_tokens
from lexinv.validation import require


def package(scores: Float[Array, " tokens"], budget: int, protect: int = 1) -> Plan:
    """Soft pruning: the tokens that do not fit the budget become one package token, their size-weighted mean (`plan.merge`).

    The `budget` - 1 best tokens, protected ones among them, keep their order; the package stands last, at the place of the best of those
    it holds. A budget of all tokens is the identity. Raises `InvalidConfig` where no place is left for the package.
    """
    check_axes(1, scores=scores)
    check_whole(budget=budget)
    tokens = scores.shape[0]
    require(protect < budget <= tokens, "budget", budget, f"from {protect + 1} to the {tokens} tokens")
    rank = descending_rank(scores, unprotected_tokens(tokens, protect))
    best = budget - 1 - protect
    packed = unprotected_tokens(tokens, protect) & (rank >= best)
    anchor = jnp.argmax(packed & (rank == best)).astype(jnp.int32)
    places = jnp.arange(tokens, dtype=jnp.int32)
    if budget == tokens:  # the package would hold one token, and only its place would change
        packed = jnp.zeros(tokens, bool)
    removed = packed & (places != anchor)
    section = jnp.where(packed, 1, 0).astype(jnp.int32)
    return build(removed, jnp.full(tokens, 1, jnp.int32) * anchor, jnp.ones(tokens, jnp.float32), section, budget)
