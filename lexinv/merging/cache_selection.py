"""Which cached tokens a decoder attends to: chosen one by one, for all heads of a layer together, by what the heads would attend to.

TokenSelect (Wu et al. 2025, method card tokenselect). Each head's softmax over the cache is its vote; the k tokens with the most votes are
attended to beside the first and the last ones. Keys are kept before rotation and turned where they are read, to positions 0, 1, 2, ... of
what was chosen, so that no distance is longer than those of training. While queries stay alike, the last choice is kept.

`lexinv.merging.selective_cache` is the cache, and the model that reads with it.

The released code takes the head of keys as h mod Hkv, where grouped heads are h // (H / Hkv); votes without 1 / sqrt(d); and never keeps a
choice. Here heads are grouped as the model's are, votes are attention's own scores, and `theta` decides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from lexinv.nn.kernels import UNSEEN
from lexinv.validation import Checked, Count, CountOrZero, Positive, one_of, require

Queries = Float[Array, "heads dim"]
Keys = Float[Array, "key_heads slots dim"]
Turn = Callable[[Float[Array, "rows time dim"], Int[Array, "rows time"]], Float[Array, "rows time dim"]]
"""`turn(x, positions)`: queries or keys rotated to their positions."""


def head_scores(queries: Queries, keys: Keys) -> Float[Array, "heads slots"]:
    """Attention's scores q k / sqrt(d) in float32; query head h reads the head of keys h // (H / Hkv)."""
    groups, _, dim = keys.shape
    require(queries.shape[0] % groups == 0, "queries", queries.shape, f"a multiple of {groups} heads, those of keys")
    grouped = (queries * jnp.asarray(dim**-0.5, queries.dtype)).reshape(groups, -1, dim)
    return jnp.einsum("grd,gnd->grn", grouped, keys, preferred_element_type=jnp.float32).reshape(len(queries), -1)


def head_votes(queries: Queries, keys: Keys, valid: Bool[Array, " slots"]) -> Float[Array, "heads slots"]:
    """Each head's attention weights over the valid tokens, which sum to 1; 0 for the others."""
    return _softmax(head_scores(queries, keys), valid)


def soft_votes(queries: Queries, keys: Keys, valid: Bool[Array, " slots"]) -> Float[Array, " slots"]:
    """What all heads attend to: the sum of `head_votes`, in all as much as there are heads. A constant added to a head changes nothing."""
    return jnp.sum(head_votes(queries, keys, valid), axis=0)


def hard_votes(queries: Queries, keys: Keys, valid: Bool[Array, " slots"], k: int) -> Float[Array, " slots"]:
    """How many heads have a token among their k highest scores."""
    best = jax.lax.top_k(jnp.where(valid[None], head_scores(queries, keys), UNSEEN), k)[1]
    return jnp.zeros(len(valid)).at[best.reshape(-1)].add(1.0)


def block_mean(votes: Float[Array, " slots"], valid: Bool[Array, " slots"], block: int) -> Float[Array, " slots"]:
    """The mean vote of each token's block of `block` slots, so that blocks are chosen whole (InfLLM and others choose blocks)."""
    total, count = (
        jnp.sum(_blocks(x.astype(jnp.float32), block), axis=-1) for x in (jnp.where(valid, votes, 0.0), valid)
    )
    return jnp.repeat(total / jnp.maximum(count, 1.0), block)[: len(votes)]


def block_bounds(queries: Queries, keys: Keys, valid: Bool[Array, " slots"], block: int) -> Float[Array, " slots"]:
    """Soft votes for blocks by the highest score that a key between their least and greatest coordinates could have (Quest's bound)."""
    groups, _, dim = keys.shape
    there = valid[None, :, None]
    low, high = (
        jnp.moveaxis(_blocks(jnp.moveaxis(jnp.where(there, keys, fill), 1, 2), block, fill), 1, 2)
        for fill in (jnp.inf, -jnp.inf)
    )
    some = jnp.any(_blocks(valid, block), axis=-1)
    least, most = (jnp.where(some[None, :, None], of(x, axis=-1), 0) for of, x in ((jnp.min, low), (jnp.max, high)))
    scaled = (queries * jnp.asarray(dim**-0.5, queries.dtype)).reshape(groups, -1, dim)
    bound = sum(
        jnp.einsum("grd,gbd->grb", part(scaled, 0), edge, preferred_element_type=jnp.float32)
        for part, edge in ((jnp.maximum, most), (jnp.minimum, least))
    )
    votes = jnp.sum(_softmax(jnp.asarray(bound).reshape(len(queries), -1), some), axis=0)
    return jnp.repeat(votes, block)[: len(valid)]


POLICIES: dict[str, Callable[[Queries, Keys, Bool[Array, " slots"], "Selection"], Float[Array, "sets slots"]]] = {
    "soft": lambda q, keys, valid, s: soft_votes(q, keys, valid)[None],
    "hard": lambda q, keys, valid, s: hard_votes(q, keys, valid, s.k)[None],
    "raw_sum": lambda q, keys, valid, s: jnp.sum(head_scores(q, keys), axis=0)[None],
    "per_head": lambda q, keys, valid, s: head_votes(q, keys, valid),
    "block_mean": lambda q, keys, valid, s: block_mean(soft_votes(q, keys, valid), valid, s.block)[None],
    "block_bounds": lambda q, keys, valid, s: block_bounds(q, keys, valid, s.block)[None],
    "window": lambda q, keys, valid, s: jnp.arange(len(valid), dtype=jnp.float32)[None],
}
"""By name the score by which tokens are selected: one for all heads, or one for each. `window` takes the last ones."""
WHOLE = ("full", "interpolated")
"""All of the cache, at its own positions or at these divided by `stretch`."""


@dataclass(frozen=True)
class Selection(Checked):
    """k tokens by a policy, between the `first` and the last `local` ones, which are always attended to.

    theta: the cosine of the query with that of the last choice from which on this choice is kept; above 1 for never, -1 for always.
    block: slots that block policies choose together. compact: positions are 0, 1, 2, ... of what was chosen; otherwise those of the text.
    """

    policy: Annotated[str, one_of((*POLICIES, *WHOLE))] = "soft"
    k: Count = 512
    first: CountOrZero = 16
    local: Count = 128
    theta: float = 2.0
    block: Count = 16
    compact: bool = True
    stretch: Positive = 1.0


def select(
    votes: Float[Array, "*sets slots"], k: int, first: int, local: int, length: Int[Array, ""] | int
) -> Int[Array, "*sets k"]:
    """The k slots with the most votes after the `first` and before the last `local` of `length` tokens, ascending.

    Under jit, where `length` is not known, the number of slots stands for each token that there is not. Raises `InvalidConfig` for a cache
    without room for so many, and, where `length` is known, for fewer tokens.
    """
    slots = votes.shape[-1]
    require(first + local <= slots, "first + local", first + local, f"at most the {slots} slots of the cache")
    room = slots - first - local if isinstance(length, Tracer) else int(length) - first - local
    require(k <= room, "k", k, f"at most the {room} tokens between the first {first} and the last {local}")
    slot = jnp.arange(slots)
    between = (slot >= first) & (slot < length - local)
    found, best = jax.lax.top_k(jnp.where(between, votes, -jnp.inf), k)
    return jnp.sort(jnp.where(found > -jnp.inf, best, slots), axis=-1)


class Kept(NamedTuple):
    """What is attended to, for all heads or for each. ranks: 0, 1, 2, ... in the order of the text. there: false for padding."""

    slots: Int[Array, "sets kept"]
    ranks: Int[Array, " kept"]
    there: Bool[Array, "sets kept"]
    total: Int[Array, ""]


def with_ends(idx: Int[Array, "sets k"], first: int, local: int, length: Int[Array, ""] | int, slots: int) -> Kept:
    """The selected slots between the `first` and the last `local` of `length` tokens."""
    last = length - local + jnp.arange(local)
    ends = [jnp.broadcast_to(x[None], (len(idx), len(x))) for x in (jnp.arange(first), last)]
    there = [ends[0] < length, idx < slots, ends[1] >= first]
    total = sum(jnp.sum(one[0]) for one in there)
    ranks = [jnp.arange(first + idx.shape[1]), total - local + jnp.arange(local)]
    kept = jnp.clip(jnp.concatenate([ends[0], idx, ends[1]], axis=1), 0, slots - 1)
    return Kept(kept, jnp.concatenate(ranks), jnp.concatenate(there, axis=1), jnp.asarray(total))


def attend_selected(
    queries: Float[Array, "chunk heads dim"],
    keys: Keys,
    values: Keys,
    kept: Kept,
    start: Int[Array, ""] | int,
    length: Int[Array, ""] | int,
    turn: Turn,
    compact: bool = True,
) -> Float[Array, "chunk heads dim"]:
    """Attention of the tokens from slot `start` on to what is kept of `length` tokens, themselves among them, and to none after them.

    keys: before rotation; `turn` rotates them to their ranks, or, without `compact`, to their places in the text.
    """
    heads, groups = queries.shape[1], max(len(kept.slots), len(keys))
    rows = jnp.arange(groups) // (groups // len(keys))
    slots = jnp.broadcast_to(kept.slots, (groups, kept.slots.shape[1]))
    own = kept.total - (length - start) + jnp.arange(len(queries))
    if len(kept.slots) == 1:
        taken = [jnp.take(x, kept.slots[0], axis=1) for x in (keys, values)]
    else:
        taken = [x[rows[:, None], slots] for x in (keys, values)]
    stands = (kept.ranks, own) if compact else (slots, start + jnp.arange(len(queries)))
    seen = kept.there[:, None] & (kept.ranks[None, :] <= own[:, None])[None]
    return attend(
        queries, taken[0], taken[1], stands, jnp.broadcast_to(seen, (len(seen), *seen.shape[1:])), turn, heads
    )


def attend(queries, keys, values, stands, seen, turn, heads):
    """Attention of queries[c, H, d] to keys[G, J, d] at their positions, as far as `seen`[1 or G, c, J] says."""
    groups, dim = len(keys), keys.shape[-1]
    of_keys, of_queries = (jnp.broadcast_to(x, (n, x.shape[-1])) for x, n in zip(stands, (groups, heads), strict=True))
    keys = turn(keys, of_keys)
    rows = turn(jnp.swapaxes(queries, 0, 1), of_queries) * jnp.asarray(dim**-0.5, queries.dtype)
    rows = rows.reshape(groups, heads // groups, len(queries), dim)
    scores = jnp.einsum("grcd,gjd->grcj", rows, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, UNSEEN), axis=-1).astype(values.dtype)
    return jnp.moveaxis(jnp.einsum("grcj,gjd->grcd", weights, values).reshape(heads, len(queries), dim), 0, 1)


def bytes_read(
    length: int, kept: int, key_heads: int, dim: int, reused: float = 0.0, itemsize: int = 4
) -> tuple[float, float]:
    """Bytes of keys and values that a decode step of a layer reads: (full attention, selection with this share of choices kept).

    Scoring reads all keys, so that without reuse a step reads more than half of what full attention does.
    """
    row = key_heads * dim * itemsize
    return 2.0 * length * row, (1 - reused) * length * row + 2 * kept * row


def _softmax(scores: Float[Array, "heads n"], valid: Bool[Array, " n"]) -> Float[Array, "heads n"]:
    return jnp.where(valid[None], jax.nn.softmax(jnp.where(valid[None], scores, UNSEEN), axis=-1), 0.0)


def _blocks(x: Array, block: int, fill: float = 0) -> Array:
    """The last axis as [blocks, block], filled up."""
    odd = -x.shape[-1] % block
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, odd)], constant_values=fill)
    return padded.reshape(*x.shape[:-1], -1, block)
