"""Sequences relabelled by the order in which their types first occur, and the predictions of a model that reads only that.

No permutation of the vocabulary changes the ranks of a sequence, so that such a model is lexinvariant exactly, by ordinary learned vectors
for ranks (see `lexinv.nn.lexicon.LexiconConfig`, canonical). A type that is new takes the next rank, whose probability all types that have
not occurred share alike: lexinvariance asks for it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lexinv.nn.lexicon import IMPOSSIBLE


class FirstOccurrence(NamedTuple):
    """Sequences with their types numbered in the order in which they first occur."""

    ranks: Int[Array, "batch time"]
    """The number of x_t's type, from 0; a type that is new at t has the number `seen`. Negative tokens stay as they are."""
    seen: Int[Array, "batch time"]
    """How many types occur before t."""
    of_type: Int[Array, "batch vocab"]
    """The number of every type, at least `vocab` for those that do not occur."""


def by_first_occurrence(tokens: Int[Array, "batch time"], vocab: int) -> FirstOccurrence:
    """Relabel every sequence canonically: what a permutation of the vocabulary changes of a sequence, it does not change of its ranks."""
    time = tokens.shape[1]
    there, ids, places = tokens >= 0, jnp.maximum(tokens, 0), jnp.arange(time, dtype=jnp.int32)

    def row(there: Array, ids: Array) -> FirstOccurrence:
        first = jnp.full(vocab, time, jnp.int32).at[ids].min(jnp.where(there, places, time))
        new = (there & (first[ids] == places)).astype(jnp.int32)
        seen = jnp.cumsum(new, dtype=jnp.int32) - new
        of_type = jnp.where(first < time, seen[jnp.minimum(first, time - 1)], vocab)
        return FirstOccurrence(of_type[ids], seen, of_type)

    found = jax.vmap(row)(there, ids)
    return found._replace(ranks=jnp.where(there, found.ranks, tokens))


def of_ranks(
    logits: Float[Array, "batch time vocab"], seen: Int[Array, "batch time"]
) -> Float[Array, "batch time vocab"]:
    """The logits of a canonical lexicon's ranks, `IMPOSSIBLE` for those beyond the next new type's."""
    return jnp.where(jnp.arange(logits.shape[-1])[None, None] <= seen[..., None], logits, IMPOSSIBLE)


def new_type_nats(found: FirstOccurrence) -> Float[Array, "batch time"]:
    """What it costs, beside the rank of a new type, to say which of those that have not occurred it is: ln of how many they are."""
    left = found.of_type.shape[1] - found.seen
    return jnp.where(found.ranks == found.seen, jnp.log(jnp.maximum(left, 1).astype(jnp.float32)), 0.0)


def spread_over_types(
    logits: Float[Array, "batch time vocab"], found: FirstOccurrence
) -> Float[Array, "batch time vocab"]:
    """The logits of tokens from those of a canonical lexicon's ranks: types that have not occurred before t share the next rank's.

    Their softmax is that of `of_ranks`, with the next rank's probability divided alike among them.
    """
    return spread(logits, found.of_type[:, None], found.seen)


def spread(
    logits: Float[Array, "batch time vocab"], of_type: Int[Array, "batch _ vocab"], seen: Int[Array, "batch time"]
) -> Float[Array, "batch time vocab"]:
    """`spread_over_types` where the numbers of types may differ by time. Those from `seen` on are of types that have not occurred."""
    vocab, seen = logits.shape[-1], seen[..., None]
    occurred = of_type < seen
    ranks = jnp.where(occurred, of_type, jnp.minimum(seen, vocab - 1))
    shares = jnp.log(jnp.maximum(vocab - seen, 1).astype(jnp.float32))
    return jnp.take_along_axis(logits, ranks, axis=2) - jnp.where(occurred, 0.0, shares)


class Further(NamedTuple):
    """New tokens numbered after what was read. Unlike in `FirstOccurrence`, `seen` and `of_type` count what has occurred up to each one."""

    ranks: Int[Array, "batch n"]
    seen: Int[Array, "batch n"]
    of_type: Int[Array, "batch n vocab"]


def relabel_further(
    read: Int[Array, "batch time"], new: Int[Array, "batch n"], visible: Bool[Array, "n n"], vocab: int
) -> Further:
    """`by_first_occurrence` of tokens that each come after all that was read and, of the new ones, after those that are visible to them.

    What is negative, such as padding, is no type. `visible`[i, j]: whether i sees j; itself in any case, and what it sees sees likewise.
    """
    known, batch = by_first_occurrence(read, vocab).of_type, jnp.arange(len(new))[:, None]
    types, ids = jnp.sum(known < vocab, axis=1)[:, None], jnp.maximum(new, 0)
    others = (visible & ~jnp.eye(len(visible), dtype=bool))[None]
    same = new[:, :, None] == new[:, None, :]
    first = (new >= 0) & (known[batch, ids] >= vocab) & ~jnp.any(same & others, axis=2)
    number = types + jnp.sum(others & first[:, None], axis=2)
    seen = number + first.astype(number.dtype)
    come = jnp.where(first[:, None] & visible[None], number[:, None], vocab)
    of_type = jnp.broadcast_to(known[:, None], (*new.shape, vocab))
    rows, columns = batch[..., None], jnp.arange(len(visible))[None, :, None]
    of_type = of_type.at[rows, columns, ids[:, None]].min(come)
    ranks = jnp.take_along_axis(of_type, ids[..., None], axis=2)[..., 0]
    return Further(jnp.where(new >= 0, ranks, new), seen, of_type)
