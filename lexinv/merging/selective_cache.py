"""A model that reads with a cache of which it attends to selected tokens (`lexinv.merging.cache_selection`, method card tokenselect).

read = make_read(config, selection, chunk)
features, cache = read(params, empty_selective_cache(config, selection, slots), embeddings, tokens, count)

Keys are kept before rotation. The layers are those of `lexinv.nn.transformer`: a past whose positions are all 0 turns queries and keys by
nothing, and its `attend` selects, and turns them then.
"""

from collections.abc import Callable
from functools import cache as once
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lexinv.merging.cache_selection import POLICIES, WHOLE, Selection, attend, attend_selected, select, with_ends
from lexinv.nn.language_model import LanguageModel, Params
from lexinv.nn.positions import rotate
from lexinv.nn.slots import Past, Slots, write
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import require


class Memory(NamedTuple):
    """Of one layer: keys before rotation and values, the query of the last choice and the choice, how often it chose in how many steps."""

    slots: Slots
    query: Float[Array, " heads_dim"]
    chosen: Int[Array, "sets k"]
    choices: Int[Array, ""]
    steps: Int[Array, ""]


class SelectiveCache(NamedTuple):
    """What a model remembers of one sequence. length: how many tokens, in the first slots. For several there is `jax.vmap`."""

    length: Int[Array, ""]
    layers: list[Memory]

    @property
    def reused(self) -> Float[Array, ""]:
        """The share of steps, over layers, in which the last choice was kept."""
        return 1 - sum(m.choices for m in self.layers) / jnp.maximum(sum(m.steps for m in self.layers), 1)


def empty_selective_cache(config: TransformerConfig, selection: Selection, slots: int) -> SelectiveCache:
    """Room for `slots` tokens. Raises `InvalidConfig` where these are too few for the selection, or more than the model's."""
    s = selection
    require(1 <= slots <= config.max_length, "slots", slots, f"1 to model.max_length = {config.max_length}")
    if s.policy not in WHOLE:
        require(s.first + s.local <= slots, "first + local", s.first + s.local, f"at most the {slots} slots")
        room = slots - s.first - s.local
        require(s.k <= room, "k", s.k, f"at most the {room} slots beside the first and the last ones")
    sets = config.heads if s.policy == "per_head" else 1
    zeros = partial(jnp.zeros, (1, config.keys_and_values, slots, config.head_dim), config.dtype)
    made = [
        Memory(
            Slots(zeros(), zeros(), zeros() if config.mixing == "smear" else None),
            jnp.zeros(config.heads * config.head_dim, config.dtype),
            jnp.full((sets, s.k), slots, jnp.int32),
            jnp.int32(0),
            jnp.int32(0),
        )
        for _ in range(config.depth)
    ]
    return SelectiveCache(jnp.int32(0), made)


Read = Callable[..., tuple[Float[Array, "n width"], SelectiveCache]]


@once
def make_read(config: TransformerConfig, selection: Selection, chunk: int = 1) -> Read:
    """`read(params, cache, embeddings[n, D], tokens[n], count) -> (features[n, D], cache)`, compiled; the cache given stays as it is.

    Tokens come after what the cache holds, `count` of them there. Each `chunk` of them votes once, by the mean of its queries: with 1 each
    token selects for itself, as in decoding. features: whose products with the output table are the logits (`LanguageModel.features`).
    params: with layers that are `lexinv.nn.cache.unstacked`. Raises `InvalidConfig` before anything is compiled for models without rotary
    positions or with a window or convolutions, for a cache of rotated keys, and for chunks that the last `local` tokens do not hold.
    """
    require(config.positions == "rope", "model.positions", config.positions, "'rope': keys are turned when read")
    require(config.causal and config.window == 0, "model.window", config.window, "0, in a causal model")
    require(config.mixing != "convolution", "model.mixing", config.mixing, "another: its queries need inputs, too")
    plain = config.attention_kind == "softmax" and config.sharpness == 0
    require(
        plain, "model.attention_kind", config.attention_kind, "'softmax', not sharpened, by which tokens are selected"
    )
    inside = selection.policy in WHOLE or chunk <= selection.local
    require(chunk >= 1 and inside, "chunk", chunk, f"1 to local = {selection.local}: a chunk sees itself")
    model = LanguageModel(config)

    def read(
        params: Params,
        cache: Any,
        embeddings: Float[Array, "n width"],
        tokens: Int[Array, " n"],
        count: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "n width"], SelectiveCache]:
        ours = isinstance(cache, SelectiveCache)
        require(ours, "cache", type(cache).__name__, "a SelectiveCache, whose keys are not rotated")
        n = len(tokens)
        require(n % chunk == 0, "tokens", tokens.shape, f"a multiple of chunk = {chunk}")
        layers: list[Memory] = []
        where = cache.length + jnp.arange(n)[None]
        layer = partial(attend_in_chunks, config, selection, chunk, cache.length, jnp.asarray(count))
        pasts = [_past(layer, memory, layers, cache.length, where) for memory in cache.layers]
        variables = {"params": params["model"]}
        out: Any = model.apply(variables, tokens[None], embeddings[None], pasts=pasts, method="features")
        return out[0][0], SelectiveCache(cache.length + jnp.asarray(count), layers)

    return jax.jit(read)


def _past(layer, memory: Memory, layers: list[Memory], length: Array, where: Array) -> Past:
    """A past that turns queries and keys by nothing, attends as it is told, and leaves the layer's new memory in `layers`."""

    class Selecting(Past):
        def attend(self, queries, keys, values, kind="softmax", sharpness=0.0):
            del kind, sharpness  # softmax alone: `make_read` refuses others
            kept = [write(old, new, self.start) for old, new in ((self.slots.keys, keys), (self.slots.values, values))]
            slots = Slots(kept[0], kept[1], self.slots.unmixed)
            out, found = layer(memory._replace(slots=slots), queries[0])
            layers.append(found)
            return out[None], slots

    return Selecting(memory.slots, length[None], jnp.zeros_like(where), where - 1, jnp.ones((*where.shape, 1), bool))


def attend_in_chunks(
    config: TransformerConfig,
    selection: Selection,
    chunk: int,
    length: Int[Array, ""],
    count: Int[Array, ""],
    memory: Memory,
    queries: Float[Array, "n heads dim"],
) -> tuple[Float[Array, "n heads dim"], Memory]:
    """One layer's attention of n tokens, not rotated, that are already written from slot `length` on, `count` of them there."""
    s, keys, values = selection, memory.slots.keys[0], memory.slots.values[0]
    slots, planes = keys.shape[1], config.rotary_dim // 2
    stretch = s.stretch if s.policy == "interpolated" else 1.0
    divisors = tuple(stretch * old for old in config.rotary_divisors or (1.0,) * planes)

    def turn(x: Array, positions: Array) -> Array:
        turned = rotate(x[:, :, None], config.rotary_base, config.rotary_dim, positions, divisors, slots)
        return turned[:, :, 0]

    def step(state: tuple[Array, ...], given: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
        group, start = given
        real = jnp.clip(length + count - start, 0, chunk)
        total = start + real
        own = start + jnp.arange(chunk)
        if s.policy in WHOLE:
            stands, seen = (jnp.arange(slots), own), jnp.arange(slots)[None] <= own[:, None]
            return state, attend(group, keys, values, stands, seen[None], turn, config.heads)
        query, chosen, choices, steps = state
        there = (jnp.arange(chunk) < real)[None, :, None]
        near = jnp.broadcast_to(s.local + jnp.arange(chunk)[None], (config.heads, chunk))
        turned = jnp.where(there, turn(jnp.swapaxes(group, 0, 1), near), 0)
        voting = jnp.sum(turned, axis=1) / jnp.maximum(real, 1).astype(group.dtype)
        valid = (jnp.arange(slots) >= s.first) & (jnp.arange(slots) < total - s.local)
        alike = _cosine(voting.reshape(-1), query) >= s.theta
        keep = (alike & (choices > 0)) | (real == 0)

        def choose() -> tuple[Array, Array]:
            votes = POLICIES[s.policy](voting, keys, valid, s)
            return voting.reshape(-1), select(votes, s.k, s.first, s.local, total)

        query, chosen = jax.lax.cond(keep, lambda: (query, chosen), choose)
        kept = with_ends(chosen, s.first, s.local, total, slots)
        out = attend_selected(group, keys, values, kept, start, total, turn, s.compact)
        return (query, chosen, choices + (~keep).astype(jnp.int32), steps + (real > 0).astype(jnp.int32)), out

    start = memory.query, memory.chosen, memory.choices, memory.steps
    starts = length + chunk * jnp.arange(len(queries) // chunk)
    state, out = jax.lax.scan(step, start, (queries.reshape(-1, chunk, *queries.shape[1:]), starts))
    return out.reshape(queries.shape), Memory(memory.slots, *state)


def _cosine(x: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return jnp.vdot(x, y) / jnp.maximum(jnp.linalg.norm(x) * jnp.linalg.norm(y), 1e-30)
