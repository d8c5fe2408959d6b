"""Byte-pair encoding on one sequence of symbols, and the sequential variant that the theory analyses."""

from heapq import heappop, heappush
from numbers import Integral

import numpy as np
from jaxtyping import Int

from lexinv.tokenization.encoders import apply_merges, every_other
from lexinv.validation import InvalidConfig, require

Merges = list[tuple[int, int]]


def check_size(size: int | float, least: int, of: str = "characters of the alphabet") -> None:
    """Raise `InvalidConfig` unless a vocabulary may have this size: the `least` is the number `of` something that it must hold."""
    require(isinstance(size, Integral) and size >= least, "size", size, f"a whole number, at least the {least} {of}")


def learn_merges(ids: Int[np.ndarray, " n"], symbols: int, size: int) -> Merges:
    """The merges of byte-pair encoding (Gage 1994; Sennrich et al. 2016), `size` - `symbols` of them, over one text without word limits.

    Each step merges the most frequent adjacent pair, from left to right. Pairs are counted where they are adjacent, so that `aaa` holds
    `aa` twice; of equally frequent pairs the smallest (left, right) is taken. These are the rules of the `tokenizers` library.
    The occurrences of every pair are kept and only those beside a merge change, so that the work of a merge is that of its occurrences.

    Raises `InvalidConfig` if `size` is below the number of symbols or no pair is left before it is reached.
    """
    check_size(size, symbols)
    end = len(ids)
    token = np.append(ids.astype(np.int32), -1)
    following, preceding = np.arange(1, end + 2), np.arange(-1, end)
    counts: dict[int, int] = {}
    occurrences: dict[int, list[np.ndarray]] = {}  # where the left one may be; some may be out of date
    heap: list[tuple[int, int]] = []  # (-count, pair); some may be out of date

    def pairs_at(lefts: np.ndarray) -> np.ndarray:
        return token[lefts].astype(np.int64) * size + token[following[lefts]]

    def add(lefts: np.ndarray) -> None:
        pairs = pairs_at(lefts)
        by_pair = np.argsort(pairs, kind="stable")
        pairs = pairs[by_pair]
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        for pair, places in zip(pairs[starts].tolist(), np.split(lefts[by_pair], starts)[1:], strict=True):
            counts[pair] = counts.get(pair, 0) + len(places)
            occurrences.setdefault(pair, []).append(places)
            heappush(heap, (-counts[pair], pair))

    def remove(lefts: np.ndarray) -> None:
        for pair, count in zip(*(x.tolist() for x in np.unique(pairs_at(lefts), return_counts=True)), strict=True):
            counts[pair] -= count

    add(np.arange(end - 1))
    merges: Merges = []
    while symbols + len(merges) < size:
        pair = _most_frequent(heap, counts)
        if pair is None:
            raise InvalidConfig("size", size, f"at most {symbols + len(merges)}: the text has no more pairs to merge")
        left, right = divmod(pair, size)
        places = np.sort(np.concatenate(occurrences.pop(pair)))
        places = places[(token[places] == left) & (token[following[places]] == right)]
        if left == right:
            places = places[every_other(following[places[:-1]] != places[1:])]
        seconds = following[places]
        afters = following[seconds]
        remove(_distinct(preceding[places], places, seconds[afters < end]))
        token[places], token[seconds] = symbols + len(merges), -1
        following[places], preceding[afters] = afters, places
        add(_distinct(preceding[places], places[following[places] < end]))
        merges.append((left, right))
    return merges


def learn_merges_sequentially(ids: Int[np.ndarray, " n"], symbols: int, size: int, threshold: float) -> Merges:
    """Sequential byte-pair encoding (Rajaraman et al. 2024, section on BPE; constants [recalled], unverified).

    The text is cut into as many equal chunks as there are merges to learn. Phase i encodes chunk i, which nothing has seen, with the
    merges so far and adds its most frequent adjacent pair, if that occurs more than `threshold` times; otherwise it stops early: the
    tokens are then nearly independent. Ties are broken as in `learn_merges`.
    """
    check_size(size, symbols)
    require(threshold >= 0, "threshold", threshold, "zero or more")
    merges: Merges = []
    for chunk in np.array_split(ids, max(size - symbols, 1)):
        encoded = apply_merges(chunk, merges, symbols).astype(np.int64)
        if symbols + len(merges) == size or len(encoded) < 2:
            break
        pairs, counts = np.unique(encoded[:-1] * size + encoded[1:], return_counts=True)
        best = int(np.argmax(counts))  # the first of the largest: the smallest pair
        if counts[best] <= threshold:
            break
        merges.append(divmod(int(pairs[best]), size))
    return merges


def _most_frequent(heap: list[tuple[int, int]], counts: dict[int, int]) -> int | None:
    while heap:
        count, pair = heappop(heap)
        if counts[pair] == -count and count < 0:
            return pair
        if 0 < counts[pair] < -count:
            heappush(heap, (-counts[pair], pair))
    return None


def _distinct(*rising: np.ndarray) -> np.ndarray:
    """The different positions, zero or more, of some rising arrays. A stable sort merges them, which hashing in `np.unique` does not."""
    positions = np.sort(np.concatenate(rising), kind="stable")
    return positions[np.diff(positions, prepend=-1) > 0]
