"""Drawing fused codes a window at a time with cached keys and values, and what it costs that a window's codes are drawn independently.

Ma et al. 2025 (Token-Shuffle), see `lexinv.merging.token_shuffle`. The cost, the conditional total correlation of a window, is ours.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lexinv.merging.token_shuffle import FusedConfig, Params, code_nll, token_shuffle, token_unshuffle
from lexinv.nn.cache import empty_cache
from lexinv.nn.reduced import unstack
from lexinv.nn.sampling import Sampling, truncate
from lexinv.nn.slots import Past, Slots
from lexinv.nn.transformer import Transformer
from lexinv.randomness import threefry
from lexinv.validation import require

PLAIN = Sampling()


class Sampled(NamedTuple):
    """windows: of codes. log_probs: of these codes in what they were drawn from, in nats."""

    windows: Int[Array, "batch m fused"]
    log_probs: Float[Array, "batch m fused"]


@partial(jax.jit, static_argnames=("config", "count"))
def sample(
    config: FusedConfig,
    params: Params,
    prompt: Int[Array, "batch words"],
    count: int,
    key: Key[Array, ""],
    sampling: Sampling = PLAIN,
    guidance: Float[Array, " count"] | None = None,
    null: Int[Array, " words"] | None = None,
) -> Sampled:
    """`count` windows after each prompt, s^2 codes at a time, with cached keys and values.

    guidance: g of each window; `null` is then the prompt that says nothing, and is read beside the others.
    """
    require(
        (guidance is None) == (null is None), "null", null, "the prompt without a condition where there is guidance"
    )
    (batch, words), params = prompt.shape, _unstacked(params)
    if null is not None:
        prompt = jnp.concatenate([prompt, jnp.broadcast_to(null[None], prompt.shape)])
    strengths = jnp.ones(count) if guidance is None else guidance
    slots = empty_cache(config.layers, len(prompt), words + count - 1).layers
    hidden, slots = _read(config, params, slots, params["words"][prompt], jnp.arange(words), 0)

    def draw(hidden: Array, place: Array) -> Sampled:
        logits = token_unshuffle(config, params, hidden[:, -1:])[:, 0]
        if null is not None:
            logits = logits[batch:] + strengths[place] * (logits[:batch] - logits[batch:])
        log_probs = truncate(logits, *sampling)
        found = jax.random.categorical(jax.random.fold_in(threefry(key), place), log_probs)
        return Sampled(found, jnp.take_along_axis(log_probs, found[..., None], axis=-1)[..., 0])

    def step(state: tuple[Any, Array], place: Array) -> tuple[tuple[Any, Array], Sampled]:
        slots, windows = state
        both = jnp.tile(windows, (len(prompt) // batch, 1))[:, None]
        at = words + place - 1
        hidden, slots = _read(config, params, slots, token_shuffle(config, params, both), at[None], at)
        drawn = draw(hidden, place)
        return (slots, drawn.windows), drawn

    first = draw(hidden, jnp.int32(0))
    _, rest = jax.lax.scan(step, (slots, first.windows), jnp.arange(1, count))
    return Sampled(*(jnp.concatenate([a[:, None], jnp.moveaxis(b, 0, 1)], 1) for a, b in zip(first, rest, strict=True)))


def _unstacked(params: Params) -> Params:
    """With a list of layers, of which a loop makes no copies."""
    transformer = params["transformer"]
    return params | {"transformer": {**transformer, "layers": unstack(transformer["layers"])}}


def _read(
    config: FusedConfig,
    params: Params,
    slots: list[Slots],
    x: Float[Array, "batch n width"],
    positions: Int[Array, " n"],
    start: Array | int,
    seen: Array | None = None,
) -> tuple[Float[Array, "batch n width"], list[Slots]]:
    """The Transformer's last vectors of n new ones at these positions, which go into the slots from `start` on and see what is before."""
    batch, n = x.shape[:2]
    if seen is None:
        seen = jnp.arange(slots[0].keys.shape[2])[None] <= (start + jnp.arange(n))[:, None]
    at, rows = jnp.broadcast_to(positions[None], (batch, n)), jnp.full(batch, start, jnp.int32)
    pasts = [Past(one, rows, at, at - 1, jnp.broadcast_to(seen[None], (batch, *seen.shape))) for one in slots]
    found: Any
    hidden, found = Transformer(config.layers).apply({"params": params["transformer"]}, x, pasts=pasts)
    return hidden, found["slots"]


@partial(jax.jit, static_argnames=("config", "fused", "samples"))
def marginal_nll(
    config: FusedConfig,
    params: Params,
    prompt: Int[Array, "batch words"],
    codes: Int[Array, "batch n"],
    fused: int,
    samples: int,
    key: Key[Array, ""],
) -> Float[Array, "batch windows fused"]:
    """-log p(y_c | prompt, windows before its own) in nats, of a model with side 1 that reads windows of `fused` codes one after another.

    The other codes of the window are summed out with `samples` draws from the model. Summed over a window and with the window's own
    -log p taken away this is, on average, the window's conditional total correlation: what it costs to predict its codes independently.
    The logarithm of a mean of draws is too low by about their variance; what halving them changes is taken away from it.
    """
    require(config.side == 1, "config.side", config.side, "1: codes are read one by one")
    batch, n = codes.shape
    require(n % fused == 0, "codes", codes.shape, f"whole windows of {fused}")
    require(samples % 2 == 0 and samples > 0, "samples", samples, "a positive even number")
    words, windows, params = prompt.shape[1], n // fused, _unstacked(params)
    read = words + n - 1
    first = words + fused * jnp.arange(windows)
    room = read + windows * (fused - 1)
    slots = empty_cache(replace(config.layers, max_length=room), batch, room).layers
    x = jnp.concatenate([params["words"][prompt], token_shuffle(config, params, codes[:, :-1, None])], axis=1)
    hidden, slots = _read(config, params, slots, x, jnp.arange(read), 0)
    start = token_unshuffle(config, params, hidden[:, words - 1 :: fused])[:, :, 0]
    targets, slot = codes.reshape(batch, windows, fused), jnp.arange(room)
    before = slot[None] < first[:, None]
    # What is drawn within a window is a branch behind the text: it sees the windows before its own, and itself.
    same = (slot[None] >= read) & ((slot[None] - read) % windows == jnp.arange(windows)[:, None])

    def chance(key: Array) -> Array:
        logits, branch, found = start, slots, []
        for place in range(1, fused):
            drawn = jax.random.categorical(jax.random.fold_in(key, place), logits)
            at = read + windows * (place - 1)
            seen = before | (same & (slot[None] < at + windows))
            x = token_shuffle(config, params, drawn[..., None])
            hidden, branch = _read(config, params, branch, x, first + place - 1, at, seen)
            logits = token_unshuffle(config, params, hidden)[:, :, 0]
            found.append(jnp.exp(-code_nll(logits[:, :, None], targets[:, :, place, None])[..., 0]))
        return jnp.stack(found, axis=-1)

    chances = jax.lax.map(chance, jax.random.split(threefry(key), samples))
    whole = -jnp.log(jnp.mean(chances, axis=0))
    halves = -jnp.log(jnp.mean(chances.reshape(2, samples // 2, *chances.shape[1:]), axis=1))
    rest = 2 * whole - jnp.mean(halves, axis=0)
    return jnp.concatenate([code_nll(start[:, :, None], targets[:, :, :1]), rest], axis=-1)
