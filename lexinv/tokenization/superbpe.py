"""SuperBPE (Liu et al. 2025): byte-pair encoding that first learns words and parts of words, then superwords, which cross spaces."""

from collections.abc import Iterable, Sequence
from itertools import chain

from lexinv.data.bpe import byte_chunks, count_pieces, learn_merges
from lexinv.data.byte_level import ByteLevelBPE
from lexinv.data.published import O200K_SPLIT
from lexinv.validation import require

WORDS = O200K_SPLIT
"""The first stage's: words with the character before them, numbers of up to three digits, punctuation, gaps."""

LINES = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]{2,}[\r\n/]*| +(?!\S)"
"""The second stage's: only numbers, runs of punctuation and of spaces are kept apart. It is learned from lines, as the released trainer
does, so that no superword goes on after a line's end."""


def train(
    texts: Iterable[str],
    transition: int,
    size: int,
    most_words: int | None = 4,
    forbidden: Sequence[bytes] = (b": ",),
    name: str = "superbpe",
) -> ByteLevelBPE:
    """Merges up to `transition` tokens within words, then up to `size` across them (released code, which the card describes).

    most_words: that a superword may hold, None for any number; forbidden: what no superword may. `transition` = 256 is byte-pair encoding
    without words, `transition` = `size` ordinary byte-pair encoding, which is then encoded with the expression of words.

    Raises `InvalidConfig` for a transition outside 256 to `size`, an empty text, and where no pair is left.
    """
    require(256 <= transition <= size, "transition", transition, f"256, the bytes, to size = {size}")
    require(most_words is None or most_words >= 1, "most_words", most_words, "1 or more, or None")
    texts = list(texts)
    require(any(texts), "texts", len(texts), "some that are not empty")
    merges = learn_merges(byte_chunks(count_pieces(texts, WORDS)), 256, transition)
    if transition == size:
        return ByteLevelBPE(name, merges, WORDS)

    def allowed(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
        piece = bytes(left + right)
        words = sum(map(bool, piece.split(b" ")))
        return (most_words is None or words <= most_words) and not any(part in piece for part in forbidden)

    lines = chain.from_iterable(text.splitlines(keepends=True) for text in texts)
    chunks = byte_chunks(count_pieces(lines, LINES))
    return ByteLevelBPE(name, learn_merges(chunks, 256, size, merges, allowed), LINES)
