"""How many next tokens a model chooses between while it writes: the branching factor, the exponential of an entropy rate.

Yang et al. 2025 (arXiv 2506.17871); method card branching-factor. Everything is in nats and of the distributions that tokens were drawn
from, truncated and renormalised, as `lexinv.nn.generation.generate` gives them.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from lexinv.validation import choose, require

LIMIT = 50
"""Tokens up to which the released code takes the entropies, and the likelihood of longer texts."""
FEW = 3
"""So few texts that go on are too few in the released code."""
LENGTH = 0.95
"""The quantile of lengths at which it stops."""

Estimator = Literal["entropy", "likelihood", "published"]


def branching_factor(
    entropy: Float[Array, "texts time"],
    log_probs: Float[Array, "texts time"],
    alive: Bool[Array, "texts time"],
    estimator: Estimator = "published",
) -> Float[Array, ""]:
    """exp of the nats per token of texts after one prompt, from 1 to the size of the vocabulary.

    entropy: the mean over positions of the mean entropy of the texts that are still alive there; no text is drawn for the last step
    (Rao-Blackwell). likelihood: the mean over texts of -log p(text) / length, which comes to the same as texts grow. published: the first
    up to `LIMIT` tokens, then the second. Factors of several prompts are averaged as they are. Raises `InvalidConfig` where no text
    is alive at the start.
    """
    choose("estimator", estimator, ("entropy", "likelihood", "published"))
    mean, kept = _of_positions(entropy, alive)
    if estimator == "entropy" or (estimator == "published" and entropy.shape[1] <= LIMIT):
        return jnp.exp(_mean(mean, kept))
    lengths = jnp.sum(alive, axis=1).astype(entropy.dtype)
    rate = -jnp.sum(jnp.where(alive, log_probs, 0.0), axis=1) / jnp.maximum(lengths, 1.0)
    return jnp.exp(_mean(rate, lengths > 0))


def local_branching(
    entropy: Float[Array, "texts time"], alive: Bool[Array, "texts time"], window: int
) -> Float[Array, " windows"]:
    """The factor of each `window` tokens, the last of which may be fewer; NaN where too few texts are left."""
    require(window >= 1, "window", window, "at least 1")
    mean, kept = _of_positions(entropy, alive)
    spare = -len(mean) % window
    mean, kept = (jnp.pad(row, (0, spare)).reshape(-1, window) for row in (jnp.where(kept, mean, 0.0), kept))
    return jnp.exp(jnp.sum(mean, axis=1) / jnp.sum(kept, axis=1).astype(mean.dtype))


def cumulative_branching(
    entropy: Float[Array, "texts time"], alive: Bool[Array, "texts time"]
) -> Float[Array, " time"]:
    """The factor up to each token, the paper's curves. One surprising first token fades in it as slowly as 1 / t."""
    mean, kept = _of_positions(entropy, alive)
    return jnp.exp(jnp.cumsum(jnp.where(kept, mean, 0.0)) / jnp.cumsum(kept).astype(mean.dtype))


def branching_per_unit(
    entropy: Float[Array, "texts time"], alive: Bool[Array, "texts time"], units: Int[Array, "texts time"]
) -> Float[Array, ""]:
    """exp of the nats per unit, such as the bytes of each token: what models of unlike tokenizers have in common."""
    nats, count = (jnp.sum(jnp.where(alive, row, jnp.zeros_like(row))) for row in (entropy, units))
    return jnp.exp(nats / count.astype(nats.dtype))


def halved(
    log_probs: Float[Array, "*batch vocab"], tokens: Int[Array, "*batch"]
) -> tuple[Float[Array, "*batch halves"], Float[Array, "*batch halves"]]:
    """(entropies, log probabilities of `tokens`) where each token is written as two, its quotient by ceil(sqrt(vocab)) and the remainder.

    The same texts with the same probabilities: the sum of both log probabilities is the token's own.
    """
    vocab = log_probs.shape[-1]
    size = int(np.ceil(np.sqrt(vocab)))
    filled = [(0, 0)] * (log_probs.ndim - 1) + [(0, size * size - vocab)]
    probs = jnp.pad(jnp.exp(log_probs), filled).reshape(*log_probs.shape[:-1], size, size)
    first = jnp.sum(probs, axis=-1)
    of_first = jnp.take_along_axis(probs, (tokens // size)[..., None, None], axis=-2)[..., 0, :]
    second = of_first / jnp.sum(of_first, axis=-1, keepdims=True)
    places = jnp.stack([tokens // size, tokens % size], axis=-1)
    both = jnp.stack([first, second], axis=-2)
    logs = jnp.log(jnp.where(both > 0, both, 1.0))
    chosen = jnp.take_along_axis(logs, places[..., None], axis=-1)[..., 0]
    return -jnp.sum(both * logs, axis=-1), chosen


def _of_positions(entropy: Array, alive: Array) -> tuple[Float[Array, " time"], Bool[Array, " time"]]:
    """(mean over those alive, whether this position counts)."""
    if not isinstance(alive, Tracer):
        require(bool(np.asarray(alive)[:, 0].any()), "alive", "none", "a text that is alive at the start")
    count = jnp.sum(alive, axis=0)
    mean = jnp.sum(jnp.where(alive, entropy, 0.0), axis=0) / jnp.maximum(count, 1).astype(entropy.dtype)
    longest = jnp.sort(jnp.sum(alive, axis=1))[int(np.ceil(LENGTH * (len(entropy) - 1)))]
    return mean, (count > min(FEW, len(entropy) - 1)) & (jnp.arange(entropy.shape[1]) < longest)


def _mean(values: Array, kept: Array) -> Float[Array, ""]:
    return jnp.sum(jnp.where(kept, values, 0.0)) / jnp.sum(kept).astype(values.dtype)
