"""What is done with scores: the strategies P of the common form X' = P(X, E(X)) that `ranking` and `plan` do not have yet.

Kong et al. 2026 (arXiv 2505.18227), appendix A; method card token-reduction-beyond-efficiency. Hard pruning is `ranking.prune_by_score`,
merging is every matching of this family. Here are the package token, pooling, unshuffling and distillation into learned queries. The
first two are plans, so that merging, undoing and tracking come from `plan`; the last two mix features and are no plan.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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


def pool(tokens: int, width: int) -> Plan:
    """Average pooling: each run of `width` neighbours becomes one token. Raises `InvalidConfig` unless width divides tokens."""
    check_whole(tokens=tokens, width=width)
    require(width >= 1 and tokens % width == 0, "width", width, f"a divisor of the {tokens} tokens")
    places = jnp.arange(tokens, dtype=jnp.int32)
    return Plan(places // width, jnp.ones(tokens, jnp.float32), places[::width])


def unshuffle(x: Float[Array, "tokens width"], factor: int) -> Float[Array, "targets wide"]:
    """Each run of `factor` neighbours as one token, their features side by side: fewer tokens, no information lost.

    Raises `InvalidConfig` unless factor divides tokens. For a grid, order the tokens of each block one after another first.
    """
    check_axes(2, x=x)
    check_whole(factor=factor)
    tokens, width = x.shape
    require(factor >= 1 and tokens % factor == 0, "factor", factor, f"a divisor of the {tokens} tokens")
    return x.reshape(tokens // factor, factor * width)


def distil(
    x: Float[Array, "tokens width"],
    queries: Float[Array, "targets dim"],
    key_matrix: Float[Array, "width dim"],
    value_matrix: Float[Array, "width out"],
    mask: Bool[Array, " tokens"] | None = None,
) -> Float[Array, "targets out"]:
    """softmax(Q (X W_k)^T / sqrt(dim)) X W_v: M learned queries read all tokens, and their answers replace them (appendix A).

    The softmax is in float32. mask: nobody reads padding.
    """
    scores = jnp.einsum("md,td->mt", queries, x @ key_matrix, preferred_element_type=jnp.float32)
    scores = scores * queries.shape[1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[None, :], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1).astype(x.dtype) @ (x @ value_matrix)
