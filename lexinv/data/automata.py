"""Languages as automata: a state is all that the next prediction depends on, and a table says where each symbol leads from there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lexinv.data.kgram import KGram
from lexinv.data.markov_first_order import MarkovSource
from lexinv.validation import require


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Automaton:
    """A language whose state is that to which its last few symbols lead from state 0, which has read nothing."""

    log_probs: Float[Array, "states vocab"]
    """ln p(next symbol | state), in nats."""
    next_state: Int[Array, "states vocab"]
    memory: int = field(metadata={"static": True})
    """How many symbols decide the state."""

    @property
    def vocab(self) -> int:
        return self.log_probs.shape[1]

    def begin(self, count: int, time: int) -> Int[Array, " count"]:
        """The states of so many texts, of any length, of which nothing has been read."""
        return jnp.zeros(count, jnp.int32)

    def log_probs_of(self, state: Int[Array, " count"], symbols: Int[Array, "count n"]) -> Float[Array, "count n"]:
        """ln p of each of these symbols after each state."""
        return self.log_probs[state[:, None], symbols]

    def advance(self, state: Int[Array, " count"], symbol: Int[Array, " count"]) -> Int[Array, " count"]:
        """The states after one more symbol of each."""
        return self.next_state[state, symbol]


def markov_automaton(source: MarkovSource) -> Automaton:
    """The same language: its state is the last symbol."""
    vocab = source.log_initial.shape[0]
    moved = jnp.broadcast_to(jnp.arange(1, vocab + 1, dtype=jnp.int32), (vocab + 1, vocab))
    return Automaton(jnp.concatenate([source.log_initial[None], source.log_transition]), moved, memory=1)


def kgram_automaton(model: KGram, strengths: Sequence[float], least: int = 1) -> Automaton:
    """The law p_k of a k-gram model of the highest order, smoothed as in `lexinv.data.kgram`, which has the same strengths.

    The states are the contexts of up to k symbols that occur at least `least` times, and a text is in that of the longest one in which it
    ends: rarer ones are backed off from altogether, which keeps the tables small. Raises `InvalidConfig` for strengths that are not
    positive or not one for each order.
    """
    require(len(strengths) == model.order + 1, "strengths", tuple(strengths), f"one for each of {model.order + 1}")
    require(all(strength > 0 for strength in strengths), "strengths", tuple(strengths), "positive numbers")
    require(least >= 1, "least", least, "at least 1")
    vocab = model.symbols
    contexts, shorter, first = (
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
        0,
    )  # of one length, and of one symbol less; ascending
    probs, onward = np.full((1, vocab), 1 / vocab), np.zeros((1, vocab), np.int64)
    tables, moves = [], []
    for order, (grams, times, strength) in enumerate(zip(model.grams, model.counts, strengths, strict=True)):
        followed = np.isin(grams // vocab, contexts)
        grams, times = grams[followed], times[followed]
        counts = np.zeros((len(contexts), vocab))
        counts[np.searchsorted(contexts, grams // vocab), grams % vocab] = times
        # What is not counted here is what the context without its oldest symbol says.
        parent = np.searchsorted(shorter, contexts % vocab ** max(order - 1, 0))
        probs = (counts + strength * probs[parent]) / (counts.sum(axis=1, keepdims=True) + strength)
        onward = onward[parent]
        longer = grams[times >= least] if order < model.order else grams[:0]
        start = first + len(contexts)
        onward[np.searchsorted(contexts, longer // vocab), longer % vocab] = start + np.arange(len(longer))
        tables.append(probs)
        moves.append(onward)
        contexts, shorter, first = longer, contexts, start
    return Automaton(
        jnp.asarray(np.log(np.concatenate(tables)), jnp.float32),
        jnp.asarray(np.concatenate(moves), jnp.int32),
        model.order,
    )


def states_before(language: Automaton, tokens: Int[Array, "*texts time"]) -> Int[Array, "*texts time"]:
    """The state before each symbol, all at once: from state 0 by the last `memory` symbols before it."""
    time, memory = tokens.shape[-1], language.memory
    states = jnp.zeros(tokens.shape, jnp.int32)
    for back in range(min(memory, time - 1), 0, -1):
        moved = language.next_state[states[..., back:], tokens[..., : time - back]]
        states = jnp.concatenate([states[..., :back], moved], axis=-1)
    return states


def read_text(language: Automaton, tokens: Int[Array, "*texts time"]) -> Float[Array, "*texts time"]:
    """ln p of every symbol of texts that are read from state 0, in nats."""
    return language.log_probs[states_before(language, tokens), tokens]


class Acceptor(NamedTuple):
    """Which texts are allowed: from state 0 on where each token leads, -1 where it must not stand, and in which states texts may end."""

    next_state: Int[Array, "states vocab"]
    accepting: Bool[Array, " states"]


def allowed(acceptor: Acceptor, foresee: bool = True) -> Bool[Array, "states outcomes"]:
    """What may come next, every token and, in the last column, the end of the text.

    foresee: no token that leads to where no text can end any more; without, those are dead ends.
    """
    moves = acceptor.next_state >= 0

    def onward(live: Bool[Array, " states"]) -> Bool[Array, "states vocab"]:
        return moves & live[jnp.maximum(acceptor.next_state, 0)]

    def grow(ends: tuple[Array, Array]) -> tuple[Array, Array]:
        return ends[1], acceptor.accepting | jnp.any(onward(ends[1]), axis=1)

    if foresee:
        start = (jnp.zeros_like(acceptor.accepting), acceptor.accepting)
        live = jax.lax.while_loop(lambda ends: jnp.any(ends[0] != ends[1]), grow, start)[1]
        moves = onward(live)
    return jnp.concatenate([moves, acceptor.accepting[:, None]], axis=1)
