"""Interpolated character k-grams: the models without tokens that a unigram model over tokens is compared with.

Order k predicts the next symbol from the k before it, so that order k is the (k + 1)-gram model. Each order smooths with the one below:

    p_k(x | c) = (n(c, x) + alpha_k p_{k-1}(x | c')) / (n(c) + alpha_k),

c' being c without its oldest symbol and p_{-1} uniform: the predictive law of the hierarchical Dirichlet language model (MacKay and Peto
1995, "A hierarchical Dirichlet language model", section 3), whose weights adapt to how often a context was seen. Order 0 adds alpha_0 / S
to every frequency. The strengths alpha_k are the only choice, and are made on held-out text. Rajaraman et al. 2024 do not say how theirs
are smoothed (what was read of them); without it orders above 3 would be judged by the k-grams that they never saw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Integer

from lexinv.data.symbols import require_symbols
from lexinv.validation import require

STRENGTHS = tuple(2.0**power for power in range(-4, 11))


@dataclass(frozen=True, eq=False)
class KGram:
    """Counts of all orders up to the highest. `grams[j]`, sorted, are the distinct runs of j + 1 symbols as numbers in base `symbols`, the
    latest symbol last; `counts[j]` how often each was seen. `contexts[j]` and `totals[j]` are n(c) of the contexts of order j."""

    symbols: int
    grams: tuple[Int[np.ndarray, " _"], ...]
    counts: tuple[Int[np.ndarray, " _"], ...]
    contexts: tuple[Int[np.ndarray, " _"], ...]
    totals: tuple[Int[np.ndarray, " _"], ...]

    @property
    def order(self) -> int:
        """The longest context."""
        return len(self.grams) - 1

    @property
    def parameters(self) -> list[int]:
        """By order: its number of parameters, counted as the distinct (k + 1)-grams seen. What the lower orders store is not added, and
        strengths are not counted, both in favour of k-grams."""
        return [len(grams) for grams in self.grams]


def fit_kgram(text: Integer[np.ndarray, " characters"], order: int, symbols: int) -> KGram:
    """Count the grams of every order from 0 to `order` in `text`, whose symbols are 0 to `symbols` - 1. Memory: a few int64 per character.

    Raises `InvalidConfig` where S^(order + 1) grams cannot be numbered in 63 bits, naming the highest order that can, and for an
    empty text or a symbol outside the alphabet.
    """
    text = _checked("text", text, symbols)
    highest = 0
    while symbols ** (highest + 2) <= np.iinfo(np.int64).max:
        highest += 1
    require(0 <= order <= highest, "order", order, f"0 to {highest}: runs of {symbols} symbols are numbered in 63 bits")
    grams, counts, contexts, totals = [], [], [], []
    for j in range(order + 1):
        seen, times = np.unique(_numbers(text, j + 1, symbols), return_counts=True)
        starts = np.flatnonzero(np.diff(seen // symbols, prepend=-1))
        grams.append(seen)
        counts.append(times)
        contexts.append((seen // symbols)[starts])
        totals.append(np.add.reduceat(times, starts) if len(starts) else times)
    return KGram(symbols, tuple(grams), tuple(counts), tuple(contexts), tuple(totals))


def probabilities(
    model: KGram, text: Integer[np.ndarray, " characters"], strengths: Sequence[float]
) -> Float[np.ndarray, "orders characters"]:
    """p_k(x_i | the k symbols before it) of every symbol of `text`, for the orders k = 0 to `model.order`.

    The first symbols, which have fewer before them, are predicted from those by the lower order. Raises `InvalidConfig` for strengths
    that are not positive or not one for each order, an empty text and a symbol outside the alphabet.
    """
    text = _checked("text", text, model.symbols)
    require(len(strengths) == model.order + 1, "strengths", tuple(strengths), f"one for each of {model.order + 1}")
    require(all(strength > 0 for strength in strengths), "strengths", tuple(strengths), "positive numbers")
    rows, below = [], np.full(len(text), 1 / model.symbols)
    for j, strength in enumerate(strengths):
        below = _smoothed(*_occurrences(model, text, j), below, strength)
        rows.append(below)
    return np.stack(rows)


def cross_entropies(
    model: KGram, text: Integer[np.ndarray, " characters"], strengths: Sequence[float]
) -> Float[np.ndarray, " orders"]:
    """Nats per character of `text` for the orders 0 to `model.order`; see `probabilities`."""
    return -np.log(probabilities(model, text, strengths)).mean(axis=1)


def tune_strengths(
    model: KGram, held_out: Integer[np.ndarray, " characters"], grid: Sequence[float] = STRENGTHS
) -> tuple[float, ...]:
    """alpha_0, ..., alpha_k: for one order after the other the member of `grid` with the lowest cross-entropy of `held_out`.

    A higher order changes nothing below it, so that every order gets its best given the lower ones.
    """
    text = _checked("held_out", held_out, model.symbols)
    chosen, below = [], np.full(len(text), 1 / model.symbols)
    for j in range(model.order + 1):
        seen = _occurrences(model, text, j)
        candidates = [_smoothed(*seen, below, strength) for strength in grid]
        best = int(np.argmax([np.log(row).sum() for row in candidates]))
        chosen.append(grid[best])
        below = candidates[best]
    return tuple(chosen)


def _smoothed(counts: np.ndarray, totals: np.ndarray, below: np.ndarray, strength: float) -> np.ndarray:
    """The last symbols of `below`, as many as there are counts, have a context of this order; those before them keep `below`."""
    first = len(below) - len(counts)
    return np.concatenate([below[:first], (counts + strength * below[first:]) / (totals + strength)])


def _occurrences(model: KGram, text: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
    """n(c, x) and n(c) for each symbol of `text` that has j symbols before it."""
    numbers = _numbers(text, j + 1, model.symbols)
    counts = _look_up(model.grams[j], model.counts[j], numbers)
    return counts, _look_up(model.contexts[j], model.totals[j], numbers // model.symbols)


def _numbers(text: np.ndarray, length: int, symbols: int) -> np.ndarray:
    """The runs of `length` symbols at every position, oldest first, as numbers in base `symbols`."""
    numbers = np.zeros(max(len(text) - length + 1, 0), np.int64)
    for offset in range(length):
        numbers = numbers * symbols + text[offset : offset + len(numbers)]
    return numbers


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if len(keys) == 0:  # a training text shorter than the gram
        return np.zeros(len(wanted), np.int64)
    nearest = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[nearest] == wanted, values[nearest], 0)


def _checked(field: str, text: np.ndarray, symbols: int) -> np.ndarray:
    require(symbols >= 2, "symbols", symbols, "at least 2")
    require_symbols(field, text, symbols)
    return text.astype(np.int64)
