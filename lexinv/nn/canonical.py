"""Sequences relabelled by the order in which their types first occur, and the predictions of a model that reads only that.

No permutation of the vocabulary changes the ranks of a sequence, so that such a model is lexinvariant exactly, by ordinary learned vectors
for ranks (see `lexinv.nn.lexicon.LexiconConfig`, canonical). A type that is new takes the next rank, whose probability all types that have
not occurred share alike: lexinvariance asks for it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
    vocab, seen = logits.shape[-1], found.seen[..., None]
    occurred = found.of_type[:, None] < seen
    ranks = jnp.where(occurred, found.of_type[:, None], jnp.minimum(seen, vocab - 1))
    shares = jnp.log(jnp.maximum(vocab - seen, 1).astype(jnp.float32))
    return jnp.take_along_axis(logits, ranks, axis=2) - jnp.where(occurred, 0.0, shares)
