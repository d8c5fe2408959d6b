"""Byte-pair encoding: merges learned from distinct pieces of text, replayed to see what they change, and applied to a text."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from numbers import Integral

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from lexinv.validation import InvalidConfig, require

Merges = list[tuple[int, int]]
"""Merge i makes the token after the symbols and i others."""

PAIR = 1 << 32
"""A pair as one number is left * PAIR + right."""

_CATEGORY, _CLASS = r"\\p\{(L[ultmo]?|N|M)\}", r"\[\^?(?:\\p\{\w+\}|\\[rntsSwW]|[^][\\&^])+\]"
_ALIKE = re.compile(rf"(?:{_CATEGORY}|{_CLASS}|\\[rntsSwW]|\(\?(?:i?:|!)|\{{\d+(?:,\d*)?\}}|[|)?+* ',/\w-])*")
"""Expressions that mean the same in Oniguruma's syntax and in Python's, but for what they say of categories."""
_OF_ASCII = {"L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "N": "0-9"}


@dataclass(frozen=True, eq=False)
class Chunks:
    """Distinct pieces of text, which no merge crosses.

    ids: the symbols of all pieces, one after another. lengths: of each piece. counts: how often each occurs; of several categories of text
    a column each.
    """

    ids: Int[np.ndarray, " symbols"]
    lengths: Int[np.ndarray, " pieces"]
    counts: Int64[np.ndarray, " pieces *categories"]


def one_chunk(ids: Int[np.ndarray, " n"]) -> Chunks:
    """One text without word limits."""
    return Chunks(ids, np.array([len(ids)]), np.ones(1, np.int64))


def byte_chunks(counts: Mapping[str, int] | Sequence[Mapping[str, int]]) -> Chunks:
    """The UTF-8 bytes of the pieces of a text, given with their counts, or of several categories of text: a column of counts for each."""
    categories = [counts] if isinstance(counts, Mapping) else counts
    pieces = list(dict.fromkeys(piece for each in categories for piece in each))
    encoded = [piece.encode() for piece in pieces]
    table = np.array([[each.get(piece, 0) for each in categories] for piece in pieces], np.int64)
    table = table.reshape(len(pieces), len(categories))
    ids = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int32)
    return Chunks(ids, np.array(list(map(len, encoded))), table[:, 0] if isinstance(counts, Mapping) else table)


def count_pieces(texts: Iterable[str], split: str) -> Counter[str]:
    """How often each piece occurs into which a regular expression (Oniguruma's syntax) cuts the texts; what it skips is a piece, too."""
    from tokenizers import Regex, pre_tokenizers

    splitter, found = pre_tokenizers.Split(Regex(split), "isolated"), Counter[str]()
    of_ascii = _of_ascii(split)
    for text in texts:
        if of_ascii and text.isascii():
            found.update(filter(None, of_ascii.split(text)))
        else:
            found.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    return found


def _of_ascii(split: str) -> re.Pattern[str] | None:
    """The same cuts of a text in ASCII by Python's own expressions, several times faster; None where they might be others."""

    def named(where: str, form: str) -> str:
        return re.sub(_CATEGORY, lambda found: form.format(_OF_ASCII.get(found[1], "")), where)

    within = re.sub(_CLASS, lambda found: named(found[0], "{}"), split)
    try:
        return re.compile(f"({named(within, '[{}]')})", re.ASCII) if _ALIKE.fullmatch(split) else None
    except re.error:  # a category of which ASCII has nothing
        return None


def check_size(size: int | float, least: int, of: str = "characters of the alphabet") -> None:
    """Raise `InvalidConfig` unless a vocabulary may have this size: the `least` is the number `of` something that it must hold."""
    require(isinstance(size, Integral) and size >= least, "size", size, f"a whole number, at least the {least} {of}")


def learn_merges(
    chunks: Chunks,
    symbols: int,
    size: int,
    initial: Sequence[tuple[int, int]] = (),
    allowed: Callable[[tuple[int, ...], tuple[int, ...]], bool] | None = None,
) -> Merges:
    """The merges of byte-pair encoding (Gage 1994; Sennrich et al. 2016), `size` - `symbols` of them.

    Each step merges the most frequent adjacent pair, from left to right. Pairs are counted where they are adjacent, so that `aaa` holds
    `aa` twice; of equally frequent pairs the smallest (left, right) is taken. These are the rules of the `tokenizers` library.

    initial: merges that are made first, in their order and whatever their counts; they are the first of those returned. allowed: asked
    about the symbols of both parts of a pair when it would be merged; a pair that is refused is never merged.

    Raises `InvalidConfig` if `size` is below the number of symbols and initial merges, for an initial merge before its parts, and if no
    pair is left before `size` is reached.
    """
    merges = list(initial)
    check_size(size, symbols + len(merges), "symbols and initial merges" if merges else "characters of the alphabet")
    require(chunks.counts.ndim == 1, "counts", chunks.counts.shape, "one count for each piece")
    for number, pair in enumerate(merges):
        limit = symbols + number
        require(
            min(pair) >= 0 and max(pair) < limit, f"initial[{number}]", pair, f"two of the {limit} tokens before it"
        )
    merging = _Merging(chunks)
    spelled = spell(merges, symbols)
    refused: set[int] = set()
    counts: dict[int, int] = {}
    heap: list[tuple[int, int]] = []  # (-count, pair); some may be out of date

    def note(pairs: np.ndarray, change: np.ndarray) -> None:
        for pair, by in zip(pairs.tolist(), change.tolist(), strict=True):
            counts[pair] = counts.get(pair, 0) + by
            if by > 0:
                heappush(heap, (-counts[pair], pair))

    note(*merging.first)
    for number, (left, right) in enumerate(merges):
        note(*merging.merge(left, right, symbols + number))
    while symbols + len(merges) < size:
        pair = _most_frequent(heap, counts)
        if pair is None:
            raise InvalidConfig("size", size, f"at most {symbols + len(merges)}: the text has no more pairs to merge")
        left, right = divmod(pair, PAIR)
        if pair in refused or (allowed is not None and not allowed(spelled[left], spelled[right])):
            refused.add(pair)
            continue
        note(*merging.merge(left, right, symbols + len(merges)))
        merges.append((left, right))
        spelled.append(spelled[left] + spelled[right])
    return merges


def spell(merges: Iterable[tuple[int, int]], symbols: int) -> list[tuple[int, ...]]:
    """The symbols that each token stands for."""
    spelled: list[tuple[int, ...]] = [(symbol,) for symbol in range(symbols)]
    for left, right in merges:
        spelled.append(spelled[left] + spelled[right])
    return spelled


def pair_changes(
    chunks: Chunks, merges: Iterable[tuple[int, int]], symbols: int
) -> list[tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, "_ *categories"]]]:
    """What merges of any tokenizer do to the counts of adjacent pairs, counted as in `learn_merges`.

    First the pairs there are before any merge with their counts; then for each merge the pairs whose counts it changes, and by how much.
    The sum of the first t + 1 entries are the counts that merge t was chosen by.
    """
    merging = _Merging(chunks)
    return [merging.first, *(merging.merge(*pair, symbols + number) for number, pair in enumerate(merges))]


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
        pairs, counts = np.unique(encoded[:-1] * PAIR + encoded[1:], return_counts=True)
        best = int(np.argmax(counts))  # the first of the largest: the smallest pair
        if counts[best] <= threshold:
            break
        merges.append(divmod(int(pairs[best]), PAIR))
    return merges


def apply_merge(ids: Int[np.ndarray, " n"], left: int, right: int, merged: int) -> Int[np.ndarray, " m"]:
    """Every `left right` replaced by `merged`, from left to right: in `aaa` the first two are merged."""
    at = np.flatnonzero((ids[:-1] == left) & (ids[1:] == right))
    if left == right and len(at):
        at = at[every_other(np.diff(at) > 1)]
    replaced, keep = ids.copy(), np.ones(len(ids), bool)
    replaced[at] = merged
    keep[at + 1] = False
    return replaced[keep]


def apply_merges(
    ids: Int[np.ndarray, " n"], merges: Sequence[tuple[int, int]], symbols: int
) -> Int32[np.ndarray, " m"]:
    """All merges in their order, which is what merging the first-learned pair first gives."""
    ids = ids.astype(np.int32)
    for number, (left, right) in enumerate(merges):
        ids = apply_merge(ids, left, right, symbols + number)
    return ids


def every_other(separate: Bool[np.ndarray, " m"]) -> Bool[np.ndarray, " n"]:
    """Of each run of overlapping occurrences, the first, third, ...; `separate` says of all but the first whether it begins a run."""
    number, begins = np.arange(len(separate) + 1), np.concatenate([[True], separate])
    return (number - np.maximum.accumulate(np.where(begins, number, 0))) % 2 == 0


class _Merging:
    """The pieces while they are merged. The places of every pair are kept and only those beside a merge change, so that the work of a
    merge is that of its occurrences.

    first: the pairs there are at first, and their counts.
    """

    def __init__(self, chunks: Chunks):
        self.end = end = len(chunks.ids)
        ends = np.cumsum(chunks.lengths)
        self.token = np.append(chunks.ids.astype(np.int32), -1)
        self.following, self.preceding = np.arange(1, end + 2), np.arange(-1, end)
        self.following[ends - 1], self.preceding[ends - chunks.lengths] = end, -1
        self.counts = chunks.counts
        self.piece = np.repeat(np.arange(len(ends), dtype=np.int32), chunks.lengths)
        self.places: dict[int, list[np.ndarray]] = {}  # where the left one may be; some may be out of date
        pairs, change, parts = self._counted(np.flatnonzero(self.following[:end] < end))
        self._keep(pairs, parts)
        self.first = pairs, change

    def merge(self, left: int, right: int, merged: int) -> tuple[np.ndarray, np.ndarray]:
        """Merge a pair wherever it is: the pairs of which there are now fewer, then those that are new, and by how much."""
        token, following, preceding, end = self.token, self.following, self.preceding, self.end
        places = np.sort(np.concatenate(self.places.pop(left * PAIR + right, [np.empty(0, np.int64)])))
        places = places[(token[places] == left) & (token[following[places]] == right)]
        if left == right and len(places):
            places = places[every_other(following[places[:-1]] != places[1:])]
        seconds = following[places]
        afters = following[seconds]
        fewer, less, _ = self._counted(_distinct(preceding[places], places, seconds[afters < end]))
        token[places], token[seconds] = merged, -1
        following[places], preceding[afters] = afters, places
        new, more, parts = self._counted(_distinct(preceding[places], places[afters < end]))
        self._keep(new, parts)
        return np.concatenate([fewer, new]), np.concatenate([-less, more])

    def _counted(self, lefts: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Of the pairs that begin at `lefts` each different one, how often it occurs, and where."""
        pairs = self.token[lefts].astype(np.int64) * PAIR + self.token[self.following[lefts]]
        by_pair = np.argsort(pairs, kind="stable")
        pairs, lefts = pairs[by_pair], lefts[by_pair]
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        counts = self.counts[self.piece[lefts]]
        if len(starts):
            counts = np.add.reduceat(counts, starts)
        return pairs[starts], counts, np.split(lefts, starts)[1:]

    def _keep(self, pairs: np.ndarray, places: list[np.ndarray]) -> None:
        for pair, found in zip(pairs.tolist(), places, strict=True):
            self.places.setdefault(pair, []).append(found)


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
