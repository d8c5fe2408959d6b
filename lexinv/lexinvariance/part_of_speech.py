"""The part-of-speech task: three masked tokens that can be filled in from the context or from what a token is.

Anand et al. 2024 (arXiv 2406.00053), the synthetic setting, in the form of the released generator:

    grammar   [copula, a, n]  or  [n, copula, a], each with probability 1/2
    query     q = a  or  q = n, each with probability 1/2
    answer    a a a  where q = a,   a n n  where q = n
    sequence  grammar, q, mask, mask, mask

An adjective a and a noun n are drawn independently. Whether q is the adjective is said by its slot in the grammar (the structural
solution, which works for any token) and by its class (the in-weights solution).

Token ids: nouns 0 ... v/2-1 and adjectives v/2 ... v-1, each by rank in frequency; then tokens held out of training; copula and mask are
negative, words of the grammar that no lexicon holds (in the released code they are rows of the table like the rest).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lexinv.validation import choose, require

COPULA, MASK = -1, -2
LENGTH, ANSWER = 7, 3

SETS = ("val", "switch", "tail", "tail_switch", "head", "head_switch", "holdout")


@dataclass(frozen=True)
class PosTask:
    """vocab: nouns and adjectives, v. holdout: tokens that training never shows. alpha: exponent of Zipf's law, 0 for uniform.

    ambiguity: share of the tokens of every frequency bin that are met in the other class's slot half of the time.
    bins: of either class, by rank. head: tokens of either class in the set of that name.
    """

    vocab: int = 2000
    holdout: int = 200
    alpha: float = 1.2
    ambiguity: float = 0.1
    bins: int = 5
    head: int = 20

    def __post_init__(self):
        even = self.vocab >= 2 and self.vocab % 2 == 0
        require(even, "task.vocab", self.vocab, "an even number: half nouns, half adjectives")
        require(self.holdout >= 2 and self.holdout % 2 == 0, "task.holdout", self.holdout, "an even number, at least 2")
        require(self.alpha >= 0, "task.alpha", self.alpha, "zero (uniform) or more")
        require(0 <= self.ambiguity < 1, "task.ambiguity", self.ambiguity, "at least 0 and below 1")
        divides = self.bins >= 1 and self.words % self.bins == 0
        require(divides, "task.bins", self.bins, f"a divisor of the {self.words} words of a class")
        require(1 <= self.head <= self.words, "task.head", self.head, f"1 to the {self.words} words of a class")
        kept = self.ambiguous_per_bin < self.words // self.bins
        require(kept, "task.ambiguity", self.ambiguity, f"some unambiguous token in bins of {self.words // self.bins}")

    @property
    def words(self) -> int:
        """Words of a class, v/2."""
        return self.vocab // 2

    @property
    def types(self) -> int:
        """Rows of a lexicon: nouns, adjectives, held-out tokens."""
        return self.vocab + self.holdout

    @property
    def ambiguous_per_bin(self) -> int:
        return int(np.ceil(round(self.ambiguity * (self.words // self.bins), 9)))


class Batch(NamedTuple):
    """Sequences and what their masks hide."""

    tokens: Int[Array, "batch 7"]
    labels: Int[Array, "batch 3"]


class Slots(NamedTuple):
    """Probability of every token in the two slots of the grammar, which are filled independently."""

    noun: Any
    """Float[np.ndarray, "types"], as the other one."""
    adjective: Any

    def switched(self) -> "Slots":
        """Nouns as adjectives and adjectives as nouns: context and weights disagree, and the context is right."""
        return Slots(self.adjective, self.noun)


def zipf(count: int, alpha: float) -> Float[np.ndarray, " count"]:
    """p(rank) ∝ rank^-alpha over the ranks 1 ... count, which is what rejecting larger draws of Zipf's law comes to."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -alpha
    return weights / weights.sum()


def is_ambiguous(task: PosTask) -> np.ndarray:
    """Which tokens are ambiguous, bool[types]: ceil(ambiguity · size) of every bin, spread evenly over its ranks.

    The released code picks them at random; here they are the same for every seed.
    """
    size, count = task.words // task.bins, task.ambiguous_per_bin
    within = np.zeros(size, bool)
    within[(np.arange(count) * 2 + 1) * size // max(2 * count, 1)] = True
    return np.concatenate([np.tile(within, 2 * task.bins), np.zeros(task.holdout, bool)])


def slots(task: PosTask, kind: str) -> Slots:
    """The slots of a set.

    val, and training: Zipf over ranks; an ambiguous word gives way, half of the time, to an ambiguous word of the other class (Zipf over
    the ranks among these).
    switch: Zipf without ambiguity, classes exchanged. tail: the rarest tenth of either class, uniform; head: the most frequent; both
    also with `_switch`. holdout: one half of the held-out tokens as nouns, the other as adjectives.
    amb_0, nonamb_0, amb_1, ...: the ambiguous and the other tokens of a frequency bin, uniform; also with `_switch`.

    Raises `InvalidConfig` for another name.
    """
    bins = [f"{prefix}_{index}" for index in range(task.bins) for prefix in ("amb", "nonamb")]
    choose("kind", kind, [*SETS, *bins, *(f"{name}_switch" for name in bins)])
    if kind.endswith("switch"):
        rest = kind.removesuffix("switch").removesuffix("_")
        return (slots(task, rest) if rest else unambiguous(task)).switched()
    if kind == "val":
        plain, ambiguous = unambiguous(task), is_ambiguous(task)
        return Slots(
            *(_confused(p, other > 0, ambiguous, task.alpha) for p, other in zip(plain, plain[::-1], strict=True))
        )
    rank = np.arange(task.words)
    if kind == "holdout":
        place = np.arange(task.types) - task.vocab
        return Slots(_uniform((place >= 0) & (place < task.holdout // 2)), _uniform(place >= task.holdout // 2))
    if kind == "tail":
        chosen = rank >= task.words - max(task.words // 10, 1)
    elif kind == "head":
        chosen = rank < task.head
    else:
        prefix, index = kind.split("_")
        wanted = is_ambiguous(task)[: task.words] == (prefix == "amb")
        chosen = (rank // (task.words // task.bins) == int(index)) & wanted
    none = np.zeros(task.words, bool)
    unseen = np.zeros(task.holdout, bool)
    require(bool(chosen.any()), "kind", kind, "a set that has tokens: no token of this bin is ambiguous")
    return Slots(_uniform(np.concatenate([chosen, none, unseen])), _uniform(np.concatenate([none, chosen, unseen])))


def unambiguous(task: PosTask) -> Slots:
    """Every noun in the noun's slot, by Zipf's law, and every adjective in the adjective's."""
    p, zeros, unseen = zipf(task.words, task.alpha), np.zeros(task.words), np.zeros(task.holdout)
    return Slots(np.concatenate([p, zeros, unseen]), np.concatenate([zeros, p, unseen]))


def _uniform(chosen: np.ndarray) -> Float[np.ndarray, " types"]:
    return chosen / chosen.sum()


def _confused(
    p: Float[np.ndarray, " types"], other_class: np.ndarray, ambiguous: np.ndarray, alpha: float
) -> Float[np.ndarray, " types"]:
    """`p` after half of the mass of the ambiguous tokens went to the ambiguous tokens of the other class."""
    if not ambiguous.any():
        return p
    moved = np.where(ambiguous, p / 2, 0.0)
    arriving = np.zeros_like(p)
    takers = np.flatnonzero(ambiguous & other_class)
    arriving[takers] = zipf(len(takers), alpha)
    return p - moved + moved.sum() * arriving


def among(slots: Slots, task: PosTask, largest: PosTask) -> Slots:
    """The slots of a task in the token ids of a larger one with as many held-out tokens, so that one program serves both.

    Of either class the larger task has more words, which here are never drawn.
    """
    parts = np.split(np.arange(largest.types), [largest.words, largest.vocab])
    ids = np.concatenate([parts[0][: task.words], parts[1][: task.words], parts[2]])
    found = np.zeros((2, largest.types))
    found[:, ids] = slots
    return Slots(*found)


def cumulative(slots: Slots) -> Slots:
    """Cumulative distributions, float32; infinite from the last possible token on, so that no rounding goes beyond it."""
    found = np.cumsum(slots, axis=1)
    for total, p in zip(found, slots, strict=True):
        total[np.flatnonzero(p)[-1] :] = np.inf
    return Slots(*found.astype(np.float32))


def sample(key: Key[Array, ""], slots: Slots, count: int) -> Batch:
    """`count` sequences of a set."""
    return sample_by(key, cumulative(slots), count)


def sample_by(key: Key[Array, ""], cumulative: Slots, count: int) -> Batch:
    """The same by cumulative distributions, which may be arguments of the compiled program."""
    noun_key, adjective_key, grammar_key, query_key = jax.random.split(key, 4)
    n, a = (
        _draw(key, law, count) for key, law in zip((noun_key, adjective_key), map(jnp.asarray, cumulative), strict=True)
    )
    asks_adjective = jax.random.bernoulli(query_key, shape=(count,))
    copula_first = jax.random.bernoulli(grammar_key, shape=(count,))
    copula, mask = jnp.full_like(a, COPULA), jnp.full_like(a, MASK)
    grammar = jnp.where(copula_first, jnp.stack([copula, a, n]), jnp.stack([n, copula, a]))
    q = jnp.where(asks_adjective, a, n)
    return Batch(jnp.stack([*grammar, q, mask, mask, mask], axis=1), jnp.stack([a, q, q], axis=1))


def _draw(key: Key[Array, ""], cumulative: Float[Array, " types"], count: int) -> Int[Array, " count"]:
    """Independent tokens by the inverse of the cumulative distribution: a token of probability zero is never the first above."""
    return jnp.searchsorted(cumulative, jax.random.uniform(key, (count,)), side="right").astype(jnp.int32)
