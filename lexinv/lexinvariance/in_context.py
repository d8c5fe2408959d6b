"""Symbol tasks whose answer is in the prompt and nowhere else: LookUp and Permutation, and the zero-shot score of a model on them.

Huang et al. 2023, in-context reasoning over symbols. The paper names the tasks; their exact format is that of the method card
lexinvariant-lm, with the two separators given by the caller:

    lookup        k1 > v1 ; k2 > v2 ; ... kn > vn ; kj >                  answer vj
    permutation   a1 ... am > aσ1 ... aσm ; ... ; b1 ... bm >             answer bσ1 ... bσm, after r demonstrations of one σ

All symbols of an item are different and drawn anew, so that which symbol it is says nothing.
"""

from itertools import permutations
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.randomness import threefry
from lexinv.validation import require


class Items(NamedTuple):
    """Prompts with their answers, all of one length."""

    tokens: Int[Array, "items time"]
    """Prompt, then answer."""
    answer: int
    """Tokens of the answer."""
    content: Bool[Array, "items vocab"]
    """Which symbols the prompt shows, separators left out: what a guesser could choose from."""


class Separators(NamedTuple):
    """Token ids of the two marks."""

    arrow: int
    end: int


def lookup_items(
    rng: Key[Array, ""], symbols: Int[Array, " symbols"], separators: Separators, vocab: int, *, pairs: int, count: int
) -> Items:
    """`count` LookUp items of `pairs` pairs; 4 · pairs + 3 tokens. Raises `InvalidConfig` for fewer than 2 · pairs symbols."""
    require(pairs >= 1, "pairs", pairs, "at least 1")
    _require_symbols("pairs", pairs, 2 * pairs, len(symbols))

    def draw(rng):
        symbol_rng, query_rng = jax.random.split(rng)
        keys, values = _distinct(symbol_rng, symbols, (2, pairs))
        arrow, end = (jnp.full(pairs, mark, jnp.int32) for mark in separators)
        query = jax.random.randint(query_rng, (), 0, pairs)
        asked = jnp.stack([keys[query], jnp.int32(separators.arrow), values[query]])
        return jnp.concatenate([jnp.stack([keys, arrow, values, end], axis=1).reshape(-1), asked])

    return _items(jax.vmap(draw)(jax.random.split(threefry(rng), count)), 1, separators, vocab)


def permutation_items(
    rng: Key[Array, ""],
    symbols: Int[Array, " symbols"],
    separators: Separators,
    vocab: int,
    *,
    length: int,
    demonstrations: int,
    count: int,
) -> Items:
    """`count` Permutation items on tuples of m = `length` symbols after r `demonstrations`; (2m + 2) r + 2m + 1 tokens.

    The hidden permutation is uniform among all but the identity. Raises `InvalidConfig` for fewer than m (r + 1) symbols.
    """
    require(2 <= length <= 7, "length", length, "2 to 7: all permutations are listed")
    require(demonstrations >= 1, "demonstrations", demonstrations, "at least 1")
    _require_symbols("length, demonstrations", (length, demonstrations), length * (demonstrations + 1), len(symbols))

    orders = jnp.array(list(permutations(range(length)))[1:])  # the first is the identity

    def draw(rng):
        symbol_rng, order_rng = jax.random.split(rng)
        order = orders[jax.random.randint(order_rng, (), 0, len(orders))]
        before = _distinct(symbol_rng, symbols, (demonstrations + 1, length))
        marks = [jnp.full((demonstrations + 1, 1), mark, jnp.int32) for mark in separators]
        lines = jnp.concatenate([before, marks[0], before[:, order], marks[1]], axis=1)
        return lines.reshape(-1)[:-1]

    return _items(jax.vmap(draw)(jax.random.split(threefry(rng), count)), length, separators, vocab)


def _require_symbols(field: str, value: object, needed: int, available: int) -> None:
    require(needed <= available, field, value, f"at most what {available} symbols allow: an item needs {needed}")


def _distinct(
    rng: Key[Array, ""], symbols: Int[Array, " symbols"], shape: tuple[int, int]
) -> Int[Array, "rows columns"]:
    """Different symbols in random order."""
    return jax.random.permutation(rng, symbols)[: shape[0] * shape[1]].reshape(shape).astype(jnp.int32)


def _items(tokens: Int[Array, "items time"], answer: int, separators: Separators, vocab: int) -> Items:
    shown = jax.nn.one_hot(tokens[:, :-answer], vocab).sum(axis=1) > 0
    content = shown.at[:, jnp.array(separators)].set(False)
    return Items(tokens, answer, content)


class Score(NamedTuple):
    """Whether the most probable symbol is right, at each token of the answer, the true ones before it being given."""

    whole: Bool[Array, "items answer"]
    """Among the whole vocabulary."""
    prompt: Bool[Array, "items answer"]
    """Among the symbols of the prompt."""


def score(logits: Float[Array, "items time vocab"], items: Items) -> Score:
    """Zero-shot accuracy, item by item; an item is solved where all its tokens are right."""
    at_answer, right = logits[:, -items.answer :], items.tokens[:, -items.answer :]
    among_prompt = jnp.where(items.content[:, None], at_answer, -jnp.inf)
    return Score(at_answer.argmax(-1) == right, among_prompt.argmax(-1) == right)


def chance(items: Items) -> float:
    """Probability to solve an item by guessing among the symbols of its prompt, one for each token of the answer."""
    shown = items.content.sum(axis=1).astype(jnp.float32)
    return float(jnp.mean(shown**-items.answer))
