"""Going on from prompts, token by token, in one compiled loop."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.nn.cache import Cache, Extend
from lexinv.nn.language_model import Params
from lexinv.nn.sampling import Sampling, draw, step_entropy, truncate
from lexinv.validation import require


class Generated(NamedTuple):
    """What sequences went on with. alive: false after a token of `stop`, where tokens and numbers are 0.

    log_probs: of the tokens, and entropies: of the distributions that they were drawn from, in nats, after truncation.
    """

    tokens: Int[Array, "batch steps"]
    log_probs: Float[Array, "batch steps"]
    entropies: Float[Array, "batch steps"]
    alive: Bool[Array, "batch steps"]


class _State(NamedTuple):
    step: Int[Array, ""]
    cache: Cache
    last: Int[Array, " batch"]
    alive: Bool[Array, " batch"]
    written: Generated


def generate(
    extend: Extend,
    params: Params,
    table: Float[Array, "*lexica vocab width"],
    cache: Cache,
    prompt: Int[Array, "batch prompt"],
    count: Int[Array, " batch"],
    keys: Key[Array, " batch"],
    steps: int,
    sampling: Sampling,
    stop: Sequence[int] = (),
) -> Generated:
    """`steps` tokens after the first `count` of each prompt, which itself comes after what the cache holds; compiled once per shape.

    extend: see `lexinv.nn.cache.make_extend`, whose first arguments params, table and cache are; the cache stays as it is. A prompt of our
    own models begins with `BOS`. keys: of each sequence, see `lexinv.nn.sampling.draw`. stop: tokens that end a sequence, and are its last.
    Raises `InvalidConfig` before anything is compiled where the cache has too few slots for all but the last token, for a prompt without
    a token, and for a sampling that leaves nothing.
    """
    sampling.check()
    longest, slots = prompt.shape[1], cache.tokens.shape[1]
    require(steps >= 1, "steps", steps, "at least 1")
    for name, given in (("prompt", prompt), ("count", count), ("keys", keys)):
        require(len(given) == len(cache.length), name, given.shape, f"one of each of {len(cache.length)} sequences")
    if not isinstance(count, Tracer):
        counts = np.asarray(count)
        fits = bool(counts.min() >= 1 and counts.max() <= longest)
        require(fits, "count", counts.tolist(), f"1 to {longest}, the width of prompt")
    held = 0 if isinstance(cache.length, Tracer) else int(np.asarray(cache.length).max())
    room = slots - held - longest + 1  # the last token is not read any more
    require(
        steps <= room, "steps", steps, f"at most {room}, after {held} tokens and a prompt of {longest} in {slots} slots"
    )
    ends = jnp.asarray(stop, jnp.int32).reshape(-1)
    return _generate(extend, params, table, cache, prompt, jnp.asarray(count), keys, steps, sampling, ends)


@partial(jax.jit, static_argnames=("extend", "steps"))
def _generate(extend, params, table, cache, prompt, count, keys, steps, sampling, stop) -> Generated:
    batch = len(prompt)
    if prompt.shape[1] > 1:  # nobody reads these logits, so that they are not computed
        cache = extend(params, table, cache, prompt[:, :-1], count - 1)[1]

    def going(state: _State) -> Array:
        on = state.step < steps
        return (
            on & jnp.any(state.alive) if stop.size else on
        )  # without a stop nothing differs by sequence, for vmap's sake

    def go_on(state: _State) -> _State:
        logits, cache = extend(params, table, state.cache, state.last[:, None], state.alive.astype(jnp.int32))
        log_probs = truncate(logits[:, 0], *sampling)
        token = draw(keys, cache.length, log_probs)
        chosen = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
        new = Generated(token, chosen, step_entropy(log_probs), state.alive)
        written = jax.tree.map(
            lambda kept, one: kept.at[:, state.step].set(jnp.where(state.alive, one, jnp.zeros_like(one))),
            state.written,
            new,
        )
        alive = state.alive & ~jnp.any(token[:, None] == stop[None], axis=1)
        return _State(state.step + 1, cache, token, alive, written)

    zeros = jnp.zeros((batch, steps))
    written = Generated(zeros.astype(jnp.int32), zeros, zeros, zeros.astype(bool))
    last = jnp.take_along_axis(prompt, count[:, None] - 1, axis=1)[:, 0].astype(jnp.int32)
    start = _State(jnp.int32(0), cache, last, jnp.ones(batch, bool), written)
    return jax.lax.while_loop(going, go_on, start).written
