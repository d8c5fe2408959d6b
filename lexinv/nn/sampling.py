"""Drawing the next token: truncated distributions, and noise that belongs to a place in a sequence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lexinv.randomness import threefry
from lexinv.validation import require


class Sampling(NamedTuple):
    """What `truncate` does to a distribution, all of it by default kept."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def check(self) -> None:
        """Raise `InvalidConfig` for values that leave nothing. Those that a program computes are not looked at."""
        ranges = {
            "temperature": (lambda t: 0 <= t < float("inf"), "0, for the most likely token, or a positive number"),
            "top_k": (lambda k: k >= 1, "None for all, or a positive integer"),
            "top_p": (lambda p: 0 < p <= 1, "None, or above 0 and at most 1"),
            "min_p": (lambda p: 0 <= p <= 1, "None, or from 0 to 1"),
        }
        for field, (fits, allowed) in ranges.items():
            value = getattr(self, field)
            require(not isinstance(value, int | float) or fits(value), f"sampling.{field}", value, allowed)


def truncate(
    logits: Float[Array, "*batch vocab"],
    temperature: float | Array = 1.0,
    top_k: int | Array | None = None,
    top_p: float | Array | None = None,
    min_p: float | Array | None = None,
) -> Float[Array, "*batch vocab"]:
    """Log probabilities in nats of softmax(logits / temperature) on the tokens that all of these keep, -inf for the others.

    temperature: 0 puts everything on the most likely token, the first of several. top_k: keeps the k most likely (Fan et al. 2018).
    top_p: of those that top_k keeps, renormalised, the fewest that sum to p, and at least one (Holtzman et al. 2020). min_p: those of at
    least this share of the highest probability (Nguyen et al. 2025). Tokens as likely as the last one kept are kept as well.
    Raises `InvalidConfig` for numbers outside of their range (`Sampling`).
    """
    Sampling(temperature, top_k, top_p, min_p).check()  # pyright: ignore[reportArgumentType]
    logits = logits.astype(jnp.float32)
    vocab, warm = logits.shape[-1], jnp.asarray(temperature, jnp.float32) > 0
    log_probs = jax.nn.log_softmax(logits / jnp.where(warm, temperature, 1.0).astype(jnp.float32))
    least = jnp.full_like(log_probs[..., :1], -jnp.inf)
    if top_k is not None or top_p is not None:
        ordered, place = -jnp.sort(-log_probs), jnp.arange(vocab).reshape((1,) * (logits.ndim - 1) + (vocab,))
        if top_k is not None:
            ordered = jnp.where(place < top_k, ordered, -jnp.inf)
        probs = jax.nn.softmax(ordered)
        before = jnp.cumsum(probs, axis=-1) - probs
        kept = ordered > -jnp.inf
        if top_p is not None:
            kept &= (before < top_p) | (jnp.asarray(top_p, jnp.float32) >= 1)
        least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    if min_p is not None:
        highest = jnp.max(log_probs, axis=-1, keepdims=True)
        least = jnp.maximum(least, highest + jnp.log(jnp.asarray(min_p, jnp.float32)))
    drawn = jax.nn.log_softmax(jnp.where(log_probs >= least, log_probs, -jnp.inf))
    best = jax.nn.one_hot(jnp.argmax(logits, axis=-1), vocab)
    return jnp.where(warm, drawn, jnp.log(best))


def step_entropy(log_probs: Float[Array, "*batch vocab"]) -> Float[Array, "*batch"]:
    """Entropy in nats of distributions, whose log probabilities may be -inf."""
    return -jnp.sum(jnp.where(log_probs > -jnp.inf, jnp.exp(log_probs) * log_probs, 0.0), axis=-1)


def gumbel_noise(keys: Key[Array, " batch"], position: Int[Array, " batch"], vocab: int) -> Float[Array, "batch vocab"]:
    """Gumbel noise for the token at this position of each sequence: a function of the sequence's key and the position alone."""
    place = jax.vmap(jax.random.fold_in)(threefry(keys), position)
    return jax.vmap(lambda key: jax.random.gumbel(key, (vocab,)))(place)


def draw(
    keys: Key[Array, " batch"], position: Int[Array, " batch"], log_probs: Float[Array, "batch vocab"]
) -> Int[Array, " batch"]:
    """A token of each distribution, by `gumbel_noise`: the same text comes of the same distributions however its forwards are cut."""
    return jnp.argmax(log_probs + gumbel_noise(keys, position, log_probs.shape[-1]), axis=-1).astype(jnp.int32)
