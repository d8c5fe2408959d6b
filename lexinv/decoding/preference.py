"""Tuning a language model to what is wanted: imitation of good texts, and direct preference optimisation from pairs (DPO)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lexinv.validation import require


def supervised_loss(
    log_probs: Float[Array, "batch time"], answer: Bool[Array, "batch time"] | None = None
) -> Float[Array, ""]:
    """Nats per token of wanted texts. answer: the tokens that count, by default all; prompts do not have to be learnt."""
    if answer is None:
        return -jnp.mean(log_probs)
    return -jnp.sum(jnp.where(answer, log_probs, 0.0)) / jnp.maximum(jnp.sum(answer), 1).astype(log_probs.dtype)


def dpo_loss(
    chosen: Float[Array, " pairs"],
    rejected: Float[Array, " pairs"],
    reference_chosen: Float[Array, " pairs"],
    reference_rejected: Float[Array, " pairs"],
    beta: float,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Rafailov et al. 2023 (arXiv 2305.18290), equation 7, of log probabilities of whole texts in nats, under the model and the reference.

    -log sigmoid(beta [(log pi(y_w) - log ref(y_w)) - (log pi(y_l) - log ref(y_l))]), the mean over pairs: log 2 where the model is the
    reference. Beside it the share of pairs in which the model prefers the chosen text more than the reference does. Raises `InvalidConfig`
    for a beta that is not positive.
    """
    require(beta > 0, "beta", beta, "a positive number")
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return jnp.mean(jax.nn.softplus(-beta * margin)), {"preferred": jnp.mean((margin > 0).astype(margin.dtype))}


def by_preference(
    texts: Float[Array, "pairs two *text"] | Array, scores: Float[Array, "pairs two"]
) -> tuple[Array, Array]:
    """(chosen, rejected): of each pair the text with the higher score first."""
    order = jnp.argsort(-scores, axis=1)
    ordered = jnp.take_along_axis(texts, order.reshape(*order.shape, *(1,) * (texts.ndim - 2)), axis=1)
    return ordered[:, 0], ordered[:, 1]
