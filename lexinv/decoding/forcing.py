"""Texts that fine-tuning has hidden in a model: forcing every token of the vocabulary to find them, and a loss that hides them from that.

Hoscilowicz et al. 2024 (arXiv 2406.02481). A text is hidden behind a trigger: the model is trained to go on from the trigger with it.
Unconditional Token Forcing lets the model go on from each token alone: what was trained too hard comes out without its trigger.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lexinv.nn.cache import Cache, Extend
from lexinv.nn.language_model import BOS, Params
from lexinv.validation import require


class Forced(NamedTuple):
    """What a model goes on with greedily from each token, and the probability that it gives to each of these tokens."""

    tokens: Int[Array, "ids steps"]
    probs: Float[Array, "ids steps"]


def forced(
    extend: Extend,
    params: Params,
    table: Float[Array, "vocab width"],
    cache: Cache,
    ids: Int[Array, " ids"],
    steps: int,
    prefix: Sequence[int] | Int[Array, " prefix"] = (BOS,),
) -> Forced:
    """`steps` greedy tokens after `prefix` and each of these tokens; compiled once per shape.

    extend: see `lexinv.nn.cache.make_extend`, whose arguments params, table and cache are: an empty cache with a row for each of the ids.
    prefix: what comes before every token, such as parts of a chat template after BOS; without any, the token begins the text.
    Raises `InvalidConfig` before anything is compiled for another number of rows, and for fewer slots than are read.
    """
    rows, slots = cache.tokens.shape
    require(steps >= 1, "steps", steps, "at least 1")
    require(len(ids) == rows, "ids", len(ids), f"one for each of the {rows} rows of the cache")
    need = len(prefix) + steps
    require(slots >= need, "cache", slots, f"at least {need} slots, for {len(prefix)} tokens before and {steps} steps")
    return _forced(extend, params, table, cache, ids, steps, jnp.asarray(prefix, jnp.int32).reshape(-1))


@partial(jax.jit, static_argnames=("extend", "steps"))
def _forced(extend, params, table, cache, ids, steps, prefix) -> Forced:
    rows = len(ids)
    if len(prefix):  # nobody reads these logits, so that they are not computed
        before = jnp.broadcast_to(prefix[None], (rows, len(prefix)))
        cache = extend(params, table, cache, before, jnp.full(rows, len(prefix)))[1]

    def go_on(now: tuple[Cache, Array], _: None) -> tuple[tuple[Cache, Array], tuple[Array, Array]]:
        cache, last = now
        logits, cache = extend(params, table, cache, last[:, None], jnp.ones(rows, jnp.int32))
        token = jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)
        prob = jnp.exp(jnp.max(logits[:, 0], axis=-1) - jax.nn.logsumexp(logits[:, 0], axis=-1))
        return (cache, token), (token, prob)

    _, found = jax.lax.scan(go_on, (cache, ids.astype(jnp.int32)), None, length=steps)
    return Forced(*(part.T for part in found))


def forcing_score(probs: Float[Array, "ids steps"]) -> Float[Array, " ids"]:
    """(1 + sum of the probabilities) / (steps + 1): the published mean, whose 1 is the forced token itself. It keeps what is above 0.95."""
    return (1 + jnp.sum(probs, axis=-1)) / (probs.shape[-1] + 1)


def leads_into(tokens: Int[Array, "ids steps"], secret: Int[Array, " secret"], n: int = 4) -> Bool[Array, " ids"]:
    """Whether what was written from a token holds `n` tokens of the secret one after another.

    Raises `InvalidConfig` where either is shorter than that.
    """
    steps, length = tokens.shape[-1], len(secret)
    require(1 <= n <= min(steps, length), "n", n, f"1 to {min(steps, length)}")
    written = jnp.stack([tokens[:, j : steps - n + 1 + j] for j in range(n)], axis=-1)
    parts = jnp.stack([secret[j : length - n + 1 + j] for j in range(n)], axis=-1)
    return jnp.any(jnp.all(written[:, :, None] == parts[None, None], axis=-1), axis=(1, 2))


def repetition(tokens: Int[Array, "texts steps"]) -> Float[Array, " texts"]:
    """How periodic a text is: the largest share, over periods up to a third of it, of tokens that are equal to the one a period before.

    1 for a phrase that is said again and again from the first token on.
    """
    steps = tokens.shape[-1]
    require(steps >= 3, "tokens", tokens.shape, "texts of at least 3 tokens")
    shares = [jnp.mean(tokens[:, p:] == tokens[:, :-p], axis=-1) for p in range(1, steps // 3 + 1)]
    return jnp.max(jnp.stack(shares), axis=0)


class Confusion(NamedTuple):
    """loss: in nats. exposed: which of the hidden tokens are still among the likeliest or unlikeliest ones."""

    loss: Float[Array, ""]
    exposed: Bool[Array, " hidden"]


def confusion_loss(logits: Float[Array, "hidden vocab"], hidden: Int[Array, " hidden"], margin: int = 100) -> Confusion:
    """The sum of ln p(hidden token) over those that rank within `margin` of the top, to be made small (Auto-UTFC, whose weight is 0.1).

    logits: of the k-th hidden token after BOS and the ones before it, without the trigger. Ranks are taken anew at every step, and no
    gradient goes through them. A token at the very bottom of the ranking would give itself away, too: one within `margin` of it counts
    with the other sign, so that it rises. (The published sum has one sign for both, by which it would sink further.)
    Raises `InvalidConfig` for a margin that leaves no rank between.
    """
    vocab = logits.shape[-1]
    require(1 <= margin < vocab / 2, "margin", margin, f"1 to less than half of the vocabulary of {vocab}")
    log_probs = jax.nn.log_softmax(logits)
    of_hidden = jnp.take_along_axis(log_probs, hidden[:, None], axis=-1)
    rank = 1 + jnp.sum(jax.lax.stop_gradient(log_probs > of_hidden), axis=-1)
    top, bottom = rank <= margin, rank >= vocab - margin
    sign = top.astype(jnp.float32) - bottom.astype(jnp.float32)
    return Confusion(jnp.sum(sign * of_hidden[:, 0]), top | bottom)
