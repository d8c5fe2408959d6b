"""Threads through haystacks of single tokens: the task of `lexinv.lexinvariance.haystacks` at a size that a small model can be trained on.

Roberts, Han and Albanie 2024 (arXiv 2411.05000); the symbolic form is the method card's. Symbols are drawn anew for every item, so that
which one it is says nothing; values are no keys but along the threads. An item of n pairs, of which two threads a and b are asked for:

    k1 > v1  k2 > v2  ...  kn > vn   a1 > a2 > a3  b1 > b2 > b3      chain: every link is an answer, those before it being given
    k1 > v1  k2 > v2  ...  kn > vn   a1 ? a3  b1 ? b3                direct: only the last value

The arrow before a value (ours; the card has bare pairs) tells a value from a key without knowing its place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.randomness import threefry
from lexinv.validation import choose, require

DIRECTIONS = ("forward", "backward", "random")
PADDING = -1


@dataclass(frozen=True)
class Limits:
    """The largest item, which fixes the shapes. Its tokens are `symbols` symbols and two marks, the arrow and the question."""

    symbols: int = 64
    pairs: int = 24
    threads: int = 4
    length: int = 4

    def __post_init__(self):
        for field in ("pairs", "threads", "length"):
            require(getattr(self, field) >= 1, f"limits.{field}", getattr(self, field), "at least 1")
        needed = 2 * self.pairs
        require(needed <= self.symbols, "limits.pairs", self.pairs, f"at most half of the {self.symbols} symbols")
        require(
            self.length <= self.pairs, "limits.length", self.length, f"at most the {self.pairs} pairs of a haystack"
        )

    @property
    def arrow(self) -> int:
        return self.symbols

    @property
    def question(self) -> int:
        return self.symbols + 1

    @property
    def vocab(self) -> int:
        return self.symbols + 2

    @property
    def time(self) -> int:
        """Tokens of an item, with padding."""
        # Threads are disjoint: no more links than pairs.
        links = min(self.threads * self.length, self.pairs)
        return 3 * self.pairs + 2 * links + min(self.threads, self.pairs)


class Setting(NamedTuple):
    """What is asked, within some limits: numbers that may be traced. direction: an index of DIRECTIONS."""

    pairs: Int[Array, ""]
    threads: Int[Array, ""]
    length: Int[Array, ""]
    direction: Int[Array, ""]
    direct: Bool[Array, ""]


class Items(NamedTuple):
    """Items of one shape."""

    tokens: Int[Array, "items time"]
    """Padded with -1 at the end."""
    thread: Int[Array, "items time"]
    """At each token of an answer the number of its thread, elsewhere -1."""
    positions: Int[Array, "items threads length"]
    """Number of the pair of every link; -1 for links that there are not."""


def setting(
    limits: Limits, *, pairs: int, threads: int = 1, length: int = 1, direction: str = "random", direct: bool = False
) -> Setting:
    """A checked `Setting`. Raises `InvalidConfig` for one outside the limits and threads longer than the haystack."""
    choose("direction", direction, DIRECTIONS)
    require(1 <= pairs <= limits.pairs, "pairs", pairs, f"1 to {limits.pairs}")
    require(1 <= threads <= limits.threads, "threads", threads, f"1 to {limits.threads}")
    require(1 <= length <= limits.length, "length", length, f"1 to {limits.length}")
    require(threads * length <= pairs, "length", length, f"at most {pairs // threads}: the haystack has {pairs} pairs")
    way = DIRECTIONS.index(direction)
    return Setting(jnp.int32(pairs), jnp.int32(threads), jnp.int32(length), jnp.int32(way), jnp.bool_(direct))


def draw_setting(rng: Key[Array, ""], limits: Limits, fewest_pairs: int) -> Setting:
    """Uniform: pairs from `fewest_pairs`, length, forward or backward, chain or direct, and as many threads as the haystack holds."""
    require(
        limits.length <= fewest_pairs <= limits.pairs,
        "fewest_pairs",
        fewest_pairs,
        f"{limits.length} to {limits.pairs}",
    )
    pairs_rng, length_rng, threads_rng, direction_rng, direct_rng = jax.random.split(threefry(rng), 5)
    pairs = jax.random.randint(pairs_rng, (), fewest_pairs, limits.pairs + 1)
    length = jax.random.randint(length_rng, (), 1, limits.length + 1)
    threads = jax.random.randint(threads_rng, (), 1, jnp.minimum(limits.threads, pairs // length) + 1)
    return Setting(
        pairs, threads, length, jax.random.randint(direction_rng, (), 0, 2), jax.random.bernoulli(direct_rng)
    )


def sample_items(rng: Key[Array, " items"], limits: Limits, asked: Setting) -> Items:
    """One item for every key; the fields of `asked` are scalars, or have one entry per item. Jit-able, with `limits` static."""
    asked = Setting(*(jnp.broadcast_to(field, rng.shape) for field in asked))
    return Items(*jax.vmap(lambda key, one: _sample(key, limits, one))(threefry(rng), asked))


def _sample(rng: Key[Array, ""], limits: Limits, asked: Setting) -> tuple[Array, Array, Array]:
    place_rng, symbol_rng = jax.random.split(rng)
    n, hops = limits.pairs, jnp.arange(limits.length)[None]
    linked = (jnp.arange(limits.threads)[:, None] < asked.threads) & (hops < asked.length)

    # A random order of the pairs there are; thread i takes `length` of them, sorted as its direction wants.
    score = jnp.where(jnp.arange(n) < asked.pairs, jax.random.uniform(place_rng, (n,)), 2.0)
    order = jnp.argsort(score)
    spots = order[jnp.clip(jnp.arange(limits.threads)[:, None] * asked.length + hops, 0, n - 1)]
    ascending = jnp.sort(jnp.where(linked, spots, n), axis=1)
    descending = -jnp.sort(jnp.where(linked, -spots, n), axis=1)
    directed = jnp.stack([ascending, descending, spots])[asked.direction]
    positions = jnp.where(linked, directed, n)  # n is no place: what is scattered there is dropped

    symbols = jax.random.permutation(symbol_rng, limits.symbols)[: 2 * n].astype(jnp.int32)
    keys, values = symbols[:n], symbols[n:]
    onward = linked[:, 1:]
    following = keys[jnp.where(onward, positions[:, 1:], 0)]
    values = values.at[jnp.where(onward, positions[:, :-1], n)].set(following, mode="drop")
    haystack = jnp.stack([keys, jnp.full(n, limits.arrow, jnp.int32), values], axis=1).reshape(-1)

    # Token r of the question about thread i: its first key, then a mark and a value for every answer.
    time = jnp.arange(limits.time)
    answers = jnp.where(asked.direct, 1, asked.length)
    since = jnp.maximum(time - 3 * asked.pairs, 0)
    i, r = since // (1 + 2 * answers), since % (1 + 2 * answers)
    thread = jnp.clip(i, 0, limits.threads - 1)
    hop = jnp.where(asked.direct, asked.length - 1, jnp.clip(r // 2 - 1, 0, limits.length - 1))
    first, link = (jnp.clip(positions[thread, at], 0, n - 1) for at in (jnp.zeros_like(hop), hop))
    mark = jnp.where(asked.direct, limits.question, limits.arrow)
    question = jnp.where(r == 0, keys[first], jnp.where(r % 2 == 1, mark, values[link]))
    in_haystack = time < 3 * asked.pairs
    in_question = ~in_haystack & (i < asked.threads)
    tokens = jnp.where(in_haystack, haystack[jnp.minimum(time, 3 * n - 1)], jnp.where(in_question, question, PADDING))
    answer = in_question & (r > 0) & (r % 2 == 0)
    return tokens, jnp.where(answer, thread, -1), jnp.where(linked, positions, -1)


def answered(logits: Float[Array, "items time vocab"], items: Items) -> Bool[Array, "items threads"]:
    """Whether every answer of a thread has the highest logit of the whole vocabulary; false for threads that there are not.

    `logits[:, t]` predict token t from those before. For a chain this is whether greedy decoding finds every link.
    """
    missed = (logits.argmax(-1) != items.tokens) & (items.thread >= 0)
    threads = items.thread[:, None] == jnp.arange(items.positions.shape[1])[None, :, None]
    return threads.any(axis=2) & ~(threads & missed[:, None]).any(axis=2)


def evaluate(
    logits: Callable[[Int[Array, "items time"]], Float[Array, "items time vocab"]], items: Items, max_length: int
) -> Bool[Array, "items threads"]:
    """`answered` by any function of tokens alone, whose context is `max_length` tokens.

    Raises `InvalidConfig` for items that are longer, and for logits of another number of tokens: nothing is cut off silently.
    """
    time = items.tokens.shape[1]
    require(time <= max_length, "items", time, f"at most the model's {max_length} tokens")
    found = logits(items.tokens)
    require(found.shape[:2] == items.tokens.shape, "logits", found.shape, f"logits of all {items.tokens.shape} tokens")
    return answered(found, items)
