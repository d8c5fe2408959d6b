"""The keys and values that a layer remembers of each sequence, in slots that are written in place.

What the t-th token of a sequence left there is in slot t. Heads lie before slots, so that products with a head's keys need no transposed
copy of them. On the CPU only as many slots are read as hold something, a block at a time: what a token costs does not grow with room that
is still empty.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lexinv.nn.attention import device_here
from lexinv.nn.kernels import UNSEEN
from lexinv.nn.reweighting import Kind, by_rows, mix, of_kind

BLOCK = 128
"""Slots that are read at a time."""


class Slots(NamedTuple):
    """Of one layer. unmixed: keys before each was mixed with the one before it; None where the model does not smear them."""

    keys: Float[Array, "batch key_heads slots dim"]
    values: Float[Array, "batch key_heads slots dim"]
    unmixed: Float[Array, "batch key_heads slots dim"] | None


class Past(NamedTuple):
    """A layer's slots, and where new tokens [batch, n] stand: written from slot `start` on, one after the other.

    before: the slot of the token that each one follows; -1 for none. seen: the slots that it sees, its own among them.
    """

    slots: Slots
    start: Int[Array, " batch"]
    positions: Int[Array, "batch n"]
    before: Int[Array, "batch n"]
    seen: Bool[Array, "batch n slots"]

    @property
    def size(self) -> int:
        return self.slots.keys.shape[2]

    def read_before(
        self, keys: Float[Array, "batch n key_heads dim"]
    ) -> tuple[Float[Array, "batch n key_heads dim"], "Past"]:
        """(the unmixed key before each of these, zeros where there is none; the past with these written)."""
        assert self.slots.unmixed is not None
        unmixed = write(self.slots.unmixed, keys, self.start)
        found = jnp.where((self.before >= 0)[..., None, None], read(unmixed, jnp.maximum(self.before, 0)), 0)
        return found, self._replace(slots=self.slots._replace(unmixed=unmixed))

    def attend(
        self,
        queries: Float[Array, "batch n heads dim"],
        keys: Float[Array, "batch n key_heads dim"],
        values: Float[Array, "batch n key_heads dim"],
        kind: Kind = "softmax",
        sharpness: float = 0.0,
    ) -> tuple[Float[Array, "batch n heads dim"], Slots]:
        """(`lexinv.nn.attention.attention` of the queries to all that they see, the slots with these keys and values written)."""
        counts = jnp.maximum(jnp.sum(self.seen, axis=-1), 1).astype(jnp.float32)
        queries, keys = of_kind(queries, keys, counts, kind)
        slots = self.slots._replace(
            keys=write(self.slots.keys, keys, self.start), values=write(self.slots.values, values, self.start)
        )
        if by_rows(kind, sharpness):
            queries, repeats = jnp.swapaxes(queries, 1, 2), queries.shape[2] // keys.shape[2]
            keys, values = (jnp.repeat(x, repeats, axis=1) for x in (slots.keys, slots.values))
            return jnp.swapaxes(mix(queries, keys, values, self.seen[:, None], counts, kind, sharpness), 1, 2), slots
        used = jnp.max(self.start) + keys.shape[1]
        return attention_to_slots(queries, slots, self.seen, used), slots


def run_after(
    pasts: Sequence[Past],
    block: Any,
    layers: Sequence[Any],
    x: Float[Array, "batch n width"],
    sees_all: Bool[Array, " depth"] | None,
) -> tuple[Float[Array, "batch n width"], dict[str, list[Slots]]]:
    """Layers one by one (`lexinv.nn.transformer.Block`), each after what it remembers; with the {"slots"} of each."""
    slots = []
    for index, (params, past) in enumerate(zip(layers, pasts, strict=True)):
        of_layer = None if sees_all is None else sees_all[index]
        x, found = block.apply({"params": params}, x, None, sees_all=of_layer, past=past)
        slots.append(found["slots"])
    return x, {"slots": slots}


def write(
    slots: Float[Array, "batch heads slots dim"], new: Float[Array, "batch n heads dim"], start: Int[Array, " batch"]
) -> Float[Array, "batch heads slots dim"]:
    """`slots` with the n new entries of each sequence from its `start` on; those beyond the last slot are dropped.

    One scatter, which XLA does in place where `slots` is donated or carried by a loop; slices under `vmap` would be copied.
    """
    rows, n = jnp.arange(len(new))[:, None], new.shape[1]
    places = start[:, None] + jnp.arange(n)[None]
    return slots.at[rows, :, places].set(new.astype(slots.dtype), mode="drop", unique_indices=True)


def read(
    slots: Float[Array, "batch heads slots dim"], places: Int[Array, "batch n"]
) -> Float[Array, "batch n heads dim"]:
    """The entries at these places of each sequence."""
    return slots[jnp.arange(len(slots))[:, None], :, places]


def attention_to_slots(
    queries: Float[Array, "batch n heads dim"],
    slots: Slots,
    seen: Bool[Array, "batch n slots"],
    used: Int[Array, ""],
    block: int = BLOCK,
) -> Float[Array, "batch n heads dim"]:
    """`softmax(Q K^T / sqrt(dim)) V` over the slots that each query sees, all of them below `used`, and at least one.

    The softmax is in float32 and is taken as the blocks come, with the maximum so far (Milakov and Gimelshein 2018). Heads of queries that
    share one of keys are rows of one product.
    """
    batch, n, heads, dim = queries.shape
    groups, size = slots.keys.shape[1:3]
    scaled = queries * jnp.asarray(dim**-0.5, queries.dtype)
    rows = jnp.moveaxis(scaled.reshape(batch, n, groups, -1, dim), 1, 3).reshape(batch, groups, -1, dim)
    visible = jnp.broadcast_to(seen[:, None], (batch, heads // groups, n, size)).reshape(batch, 1, -1, size)
    block = min(block, size) if device_here().backend == "cpu" else size

    def add(index: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        most, total, mixed = sums
        first = jnp.minimum(index * block, size - block)  # the last block begins earlier, and hides what was read
        keys, values = (jax.lax.dynamic_slice_in_dim(x, first, block, 2) for x in (slots.keys, slots.values))
        fresh = (first + jnp.arange(block) >= index * block)[None, None, None]
        scores = jnp.einsum("bgrd,bgsd->bgrs", rows, keys, preferred_element_type=jnp.float32)
        there = fresh & jax.lax.dynamic_slice_in_dim(visible, first, block, 3)
        scores = jnp.where(there, scores, UNSEEN)
        higher = jnp.maximum(most, jnp.max(scores, axis=-1, keepdims=True))
        weights, kept = jnp.exp(scores - higher), jnp.exp(most - higher)
        new = jnp.einsum("bgrs,bgsd->bgrd", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
        return higher, total * kept + jnp.sum(weights, axis=-1, keepdims=True), mixed * kept + new

    nothing = jnp.zeros((*rows.shape[:3], 1), jnp.float32)
    start = (nothing + UNSEEN, nothing, jnp.zeros(rows.shape, jnp.float32))
    _, total, mixed = add(jnp.int32(0), start) if block == size else jax.lax.fori_loop(0, -(-used // block), add, start)
    out = (mixed / total).astype(queries.dtype).reshape(batch, groups, -1, n, dim)
    return jnp.moveaxis(out, 3, 1).reshape(batch, n, heads, dim)
