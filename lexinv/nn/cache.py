"""A language model that remembers what it has read: one function reads a prompt, the next token, and a tree of tokens.

extend = make_extend(config, vocab)
logits, cache = extend(params, table, empty_cache(config, batch, slots), tokens, count)
"""

from collections.abc import Callable
from functools import cache as once
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lexinv.nn.canonical import relabel_further, spread
from lexinv.nn.language_model import LanguageModel, Params
from lexinv.nn.lexicon import embed, readout
from lexinv.nn.reduced import unstack
from lexinv.nn.slots import Past, Slots, read, write
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import require


class Cache(NamedTuple):
    """What a model remembers of each sequence. length: how many tokens, in the first slots. tokens: in their slots."""

    length: Int[Array, " batch"]
    tokens: Int[Array, "batch slots"]
    layers: list[Slots]


Extend = Callable[..., tuple[Float[Array, "batch n vocab"], Cache]]
"""`extend(params, table, cache, tokens[B, n], count[B], depth[n], visible[n, n]) -> (logits[B, n, V], cache)`, see `make_extend`."""


def empty_cache(config: TransformerConfig, batch: int, slots: int) -> Cache:
    """Room for `slots` tokens of each sequence, in the model's compute dtype. Raises `InvalidConfig` for more than its `max_length`."""
    require(batch >= 1, "batch", batch, "at least 1")
    require(1 <= slots <= config.max_length, "slots", slots, f"1 to model.max_length = {config.max_length}")

    def zeros() -> Array:
        return jnp.zeros((batch, config.keys_and_values, slots, config.head_dim), config.dtype)

    smeared = config.mixing == "smear"
    layers = [Slots(zeros(), zeros(), zeros() if smeared else None) for _ in range(config.depth)]
    return Cache(jnp.zeros(batch, jnp.int32), jnp.zeros((batch, slots), jnp.int32), layers)


@once
def make_extend(config: TransformerConfig, vocab: int, canonical: bool = False) -> Extend:
    """`extend(params, table, cache, tokens, count, depth, visible) -> (float32 logits of the token after each, cache)`, compiled.

    The n new tokens[B, n] (`BOS` among them, as in training) stand at positions length + depth[n]. They see what the cache holds,
    themselves, and of each other what `visible`[n, n] says; by default one follows the other. count: how many of each sequence are there;
    what is beyond has logits without a meaning and is forgotten. A tree is remembered whole: `keep` leaves one path of it.

    table: E_s, [V, D] for all sequences or [B, V, D] with one for each (`lexinv.nn.lexicon.draw_lexicon`). canonical: tokens are
    relabelled as `lexinv.nn.canonical` says. params: of `lexinv.nn.language_model.initialize`, of any dtype; a call makes no copy of
    layers that are `unstacked`. The cache is given up to the call, which writes into it; tokens beyond its slots are lost.

    The same arguments give the same function, so that a shape is compiled once. Raises `InvalidConfig` for models without a memory of
    keys and values: bidirectional ones, relative positions, ALiBi, convolutions; and, before anything is compiled, for unlike shapes.
    """
    require(config.causal, "model.causal", config.causal, "True: what was read must not depend on what comes")
    require(
        config.positions not in ("relative", "alibi"),
        "model.positions",
        config.positions,
        "another: its biases are of whole texts",
    )
    require(config.mixing != "convolution", "model.mixing", config.mixing, "another: its queries need inputs, too")
    model = LanguageModel(config)

    def extend(
        params: Params,
        table: Float[Array, "*lexica vocab width"],
        cache: Cache,
        tokens: Int[Array, "batch n"],
        count: Int[Array, " batch"],
        depth: Int[Array, " n"] | None = None,
        visible: Bool[Array, "n n"] | None = None,
    ) -> tuple[Float[Array, "batch n vocab"], Cache]:
        _check(config, vocab, table, cache, tokens)
        n = tokens.shape[1]
        depth = jnp.arange(n) if depth is None else depth
        visible = jnp.tril(jnp.ones((n, n), bool)) if visible is None else visible | jnp.eye(n, dtype=bool)
        found, ids = None, tokens
        if canonical:
            there = jnp.arange(cache.tokens.shape[1])[None] < cache.length[:, None]
            found = relabel_further(jnp.where(there, cache.tokens, -1), tokens, visible, vocab)
            ids = found.ranks
        within, everything = (_places(cache, depth, visible, window) for window in (config.window, 0))
        wheres = [everything if index in config.global_layers else within for index in range(config.depth)]
        pasts = [Past(slots, cache.length, *where) for slots, where in zip(cache.layers, wheres, strict=True)]
        variables = {"params": unstacked(params)["model"]}
        new: Any
        features, new = model.apply(variables, ids, embed(table, ids), pasts=pasts, method="features")
        logits = readout(features, params.get("output_table", table))
        if found is not None:
            logits = spread(logits, found.of_type, found.seen)
        return logits, Cache(cache.length + count, _written(cache.tokens, tokens, cache.length), new["slots"])

    return jax.jit(extend, donate_argnums=2)


@partial(jax.jit, donate_argnums=0)
def keep(cache: Cache, before: Int[Array, " batch"], path: Int[Array, "batch m"], count: Int[Array, " batch"]) -> Cache:
    """The cache with one path of the tree that it was extended by: the first `count` of these nodes follow what was there.

    before: lengths before the tree. path: the nodes, by their indices in the tree, the j-th of them at depth j. The cache is given up.
    """
    places = before[:, None] + path
    layers = jax.tree.map(lambda slots: write(slots, read(slots, places), before), cache.layers)
    tokens = jnp.take_along_axis(cache.tokens, places, axis=1)
    return Cache(before + count, _written(cache.tokens, tokens, before), layers)


def unstacked(params: Params) -> Params:
    """Parameters with a list of layers, of which a compiled call makes no copy."""
    model = params["model"]
    layers = model["transformer"]["layers"]
    if isinstance(layers, list):
        return params
    return {**params, "model": {**model, "transformer": {**model["transformer"], "layers": unstack(layers)}}}


def _places(
    cache: Cache, depth: Int[Array, " n"], visible: Bool[Array, "n n"], window: int
) -> tuple[Int[Array, "batch n"], Int[Array, "batch n"], Bool[Array, "batch n slots"]]:
    """Of the new tokens: their positions, the slot of the token before each, and which slots each sees (`lexinv.nn.slots.Past`)."""
    n, length = len(depth), cache.length[:, None]
    positions = length + depth[None]
    parents = visible & (depth[None, :] == depth[:, None] - 1)
    before = jnp.where(jnp.any(parents, axis=1)[None], length + jnp.argmax(parents, axis=1)[None], length - 1)
    slot = jnp.arange(cache.tokens.shape[1])[None]
    index = jnp.clip(slot - length, 0, n - 1)
    new = (slot >= length) & (slot < length + n)
    seen = (slot < length)[:, None] | (new[:, None] & jnp.moveaxis(visible[:, index], 0, 1))
    if window:
        stands = jnp.where(slot < length, slot, length + depth[index])
        seen &= stands[:, None] > positions[..., None] - window
    return positions, before, seen


def _written(tokens: Int[Array, "batch slots"], new: Int[Array, "batch n"], start: Int[Array, " batch"]) -> Array:
    places = start[:, None] + jnp.arange(new.shape[1])[None]
    return tokens.at[jnp.arange(len(new))[:, None], places].set(new.astype(jnp.int32), mode="drop")


def _check(config: TransformerConfig, vocab: int, table: Array, cache: Cache, tokens: Array) -> None:
    batch, slots = cache.tokens.shape
    rows = f"[{batch}, n], n from 1 to the cache's {slots} slots"
    require(tokens.shape[0] == batch and 1 <= tokens.shape[1] <= slots, "tokens", tokens.shape, rows)
    shapes = ((vocab, config.width), (batch, vocab, config.width))
    require(table.shape in shapes, "table", table.shape, f"{shapes[0]}, or {shapes[1]} for one of each sequence")
    made = jax.eval_shape(partial(empty_cache, config, batch, slots))
    same = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (cache, made))
    require(same[0] == same[1], "cache", cache.layers[0].keys.shape, "one that empty_cache made for this model")
