"""SuperBPE (Liu et al. 2025): byte-pair encoding that first learns words and parts of words, then superwords, which cross spaces."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

import numpy as np

from lexinv.data.bpe import Chunks, Merges, byte_chunks, count_pieces, learn_merges
from lexinv.data.byte_level import ByteLevelBPE
from lexinv.data.published import O200K_SPLIT
from lexinv.validation import require

WORDS = O200K_SPLIT
"""The first stage's: words with the character before them, numbers of up to three digits, punctuation, gaps."""

LINES = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]{2,}[\r\n/]*| +(?!\S)"
"""The second stage's: only numbers, runs of punctuation and of spaces are kept apart. It is learned from lines, as the released trainer
does, so that no superword goes on after a line's end."""

NOWHERE = "(?!)"
"""Cuts no text."""


def train(
    texts: Iterable[str],
    transition: int,
    size: int,
    most_words: int | None = 4,
    forbidden: Sequence[bytes] = (b": ",),
    name: str = "superbpe",
) -> ByteLevelBPE:
    """Merges up to `transition` tokens within words, then up to `size` across them (released code, which the card describes).

    `transition` = 256 is byte-pair encoding without words, `transition` = `size` ordinary byte-pair encoding, which is then encoded with
    the expression of words.

    Raises `InvalidConfig` for a transition outside 256 to `size`, an empty text, and where no pair is left, and as `across_words`.
    """
    require(256 <= transition <= size, "transition", transition, f"256, the bytes, to size = {size}")
    texts = list(texts)
    require(any(texts), "texts", len(texts), "some that are not empty")
    merges = learn_merges(byte_chunks(count_pieces(texts, WORDS)), 256, transition)
    if transition == size:
        return ByteLevelBPE(name, merges, WORDS)
    return ByteLevelBPE(name, across_words(lines_of(texts), merges, size, most_words, forbidden), LINES)


def lines_of(texts: Iterable[str]) -> Chunks:
    """What the second stage is learned from."""
    lines = chain.from_iterable(text.splitlines(keepends=True) for text in texts)
    return byte_chunks(count_pieces(lines, LINES))


def across_words(
    lines: Chunks, merges: Merges, size: int, most_words: int | None = 4, forbidden: Sequence[bytes] = (b": ",)
) -> Merges:
    """The second stage: `merges` of the first, and those across words that make a vocabulary of `size`.

    most_words: that a superword may hold, None for any number; forbidden: what no superword may.
    """
    require(most_words is None or most_words >= 1, "most_words", most_words, "1 or more, or None")

    def allowed(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
        piece = bytes(left + right)
        words = sum(map(bool, piece.split(b" ")))
        return (most_words is None or words <= most_words) and not any(part in piece for part in forbidden)

    return learn_merges(lines, 256, size, merges, allowed)


def train_on_random_chunks(
    texts: Iterable[str], size: int, mean: float, rng: np.random.Generator, name: str = "random chunks"
) -> ByteLevelBPE:
    """Superwords without a first stage (Sharthak et al. 2025, supertokens): byte-pair encoding of texts cut at random places, `mean`
    characters apart, that then encodes whole texts. The paper does not give its law of lengths; ours is geometric.

    Raises `InvalidConfig` for a mean below 1, an empty text, and where no pair is left.
    """
    require(mean >= 1, "mean", mean, "1 or more characters")
    found = Counter[str]()
    for text in texts:
        cuts = np.cumsum(rng.geometric(1 / mean, 20 + int(4 * len(text) / mean)))  # far beyond the text's end
        ends = [*cuts[cuts < len(text)].tolist(), len(text)]
        found.update(text[start:end] for start, end in pairwise([0, *ends]))
    require(any(found), "texts", len(found), "some that are not empty")
    return ByteLevelBPE(name, learn_merges(byte_chunks(found), 256, size), NOWHERE)
