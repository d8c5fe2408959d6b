"""Fewer tokens in the loss: which positions of a sequence are learned from (Rho-1's excess loss, forking tokens, at random).

Lin et al. 2024 (Rho-1, arXiv 2404.07965) train on the tokens whose loss is furthest above a reference model's; method card
token-reduction-beyond-efficiency, claims C3 and C5. Weights are 0 or 1 and go with the losses of `lexinv.nn.language_model.make_nll`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lexinv.merging.plan import check_whole
from lexinv.validation import require


def selective_cross_entropy(
    losses: Float[Array, "*batch time"], weights: Float[Array, "*batch time"]
) -> Float[Array, ""]:
    """The mean of the tokens' losses under their weights, sum w l / sum w, in the losses' unit; 0 where all weights are.

    With weights of one it is the mean cross entropy. No gradient goes to the weights, and none to a loss of weight 0, whatever it is.
    """
    weights = jax.lax.stop_gradient(weights)
    total = jnp.sum(weights)
    weighted = jnp.where(weights > 0, weights * losses, 0.0)
    return jnp.where(total > 0, jnp.sum(weighted) / jnp.where(total > 0, total, 1.0), 0.0)


def excess_loss(
    losses: Float[Array, "*batch time"], reference: Float[Array, "*batch time"]
) -> Float[Array, "*batch time"]:
    """How much worse than the reference model a token is predicted, in their unit, without gradient (Lin et al. 2024)."""
    return jax.lax.stop_gradient(losses - reference)


def kept_count(rate: float, count: int) -> int:
    """k = round(rate count), at least 1. Raises `InvalidConfig` for a rate outside (0, 1]."""
    check_whole(count=count)
    require(count >= 1, "count", count, "at least 1")
    require(0.0 < rate <= 1.0, "rate", rate, "above 0, at most 1")
    return max(1, round(rate * count))


def top_share(
    scores: Float[Array, "*batch time"], rate: float, mask: Bool[Array, "*batch time"] | None = None
) -> Float[Array, "*batch time"]:
    """Weight 1 for the `kept_count(rate, tokens)` highest scores of the whole batch, 0 for the others; of equal ones the first are taken.

    A score that is NaN comes last. mask: padding is never taken, and counts in the number of tokens: where fewer than k are real, all are.
    """
    flat = jnp.where(jnp.isnan(scores), -jnp.inf, scores).reshape(-1)
    count = kept_count(rate, flat.size)
    if mask is None:
        return jnp.zeros(flat.shape, jnp.float32).at[jax.lax.top_k(flat, count)[1]].set(1.0).reshape(scores.shape)
    there = mask.reshape(-1)
    order = jnp.lexsort((-flat, ~there))  # not by -inf for padding, which a real score may be, too
    chosen = jnp.zeros(flat.shape, jnp.float32).at[order[:count]].set(1.0)
    return jnp.where(there, chosen, 0.0).reshape(scores.shape)
