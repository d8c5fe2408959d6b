"""Words of a text in bytes, by rules that are not trained, and batches of them (Neitemeier et al. 2025; Thawani et al. 2023)."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int32

from lexinv.data.tokenizers import unicode_text
from lexinv.validation import InvalidConfig, require

RULES = {
    "unicode": "word bounds of Unicode (UAX 29) and after punctuation; one space goes to the word after it, punctuation to the one before",
    "whitespace": "after white space",
    "fixed:N": "N bytes, whatever they are",
}
SEPARATOR = b"\xff"
"""The word between documents: a byte that no UTF-8 has."""

_NOT_UTF8 = re.compile("([\udc80-\udcff]+)")


class WordBatch(NamedTuple):
    """Texts of words of at most M bytes. byte_mask: false for padding, as all of a word's bytes are where `word_mask` is false."""

    spelled: Int32[np.ndarray, "batch words most"] | Int32[Array, "batch words most"]
    byte_mask: Bool[np.ndarray, "batch words most"] | Bool[Array, "batch words most"]
    word_mask: Bool[np.ndarray, "batch words"] | Bool[Array, "batch words"]


def split(text: str | bytes, rule: str = "unicode") -> list[bytes]:
    """The words of a text, which joined are the text; none of an empty one. A rule of `RULES`.

    `unicode` is that of the released splitter (`hat-splitter` 0.1.10), which is not the one of the paper's main part: there it is
    `whitespace`. Both are causal: the words of a beginning of the text are its words, but for the last one. Bytes that are not UTF-8 are
    words of their own, a run of them each. Raises `InvalidConfig` for an unknown rule and for a lone surrogate in a `str`.
    """
    kind, _, size = rule.partition(":")
    fixed = kind == "fixed" and size.isdecimal() and int(size) > 0
    require(fixed or rule in ("unicode", "whitespace"), "rule", rule, f"one of {', '.join(RULES)}")
    if isinstance(text, str):
        text = unicode_text(text).encode()
    if fixed:
        return [text[at : at + int(size)] for at in range(0, len(text), int(size))]
    of_text = _unicode_words if kind == "unicode" else re.compile(r"\S+\s*|\s+").findall
    parts = _NOT_UTF8.split(text.decode("utf-8", "surrogateescape"))
    found = [([part] if place % 2 else of_text(part)) for place, part in enumerate(parts) if part]
    return [word.encode("utf-8", "surrogateescape") for word in chain.from_iterable(found)]


def cut(words: Sequence[bytes], most: int) -> tuple[list[bytes], Bool[np.ndarray, " pieces"]]:
    """(words of at most `most` bytes, which of them go on in the next one). Characters are whole where one is not longer than that."""
    require(most >= 1, "most", most, "at least 1 byte")
    found, continued = [], []
    for word in words:
        while len(word) > most:
            end = next((at for at in range(most, 0, -1) if word[at] & 0xC0 != 0x80), most)
            found.append(word[:end])
            continued.append(True)
            word = word[end:]
        found.append(word)
        continued.append(False)
    return found, np.array(continued, bool)


def pack(texts: Sequence[Sequence[bytes]], most: int, length: int = 0) -> WordBatch:
    """Words of texts, padded to `length` words of `most` bytes; 0 for as many as the longest text has.

    Raises `InvalidConfig` for a text without words, an empty word, and one that is too long: see `cut`.
    """
    require(len(texts) > 0 and min(map(len, texts)) > 0, "texts", len(texts), "some, each with a word")
    length = length or max(map(len, texts))
    require(max(map(len, texts)) <= length, "length", length, f"at least {max(map(len, texts))} words")
    spelled, mask = np.zeros((len(texts), length, most), np.int32), np.zeros((len(texts), length, most), bool)
    for row, words in enumerate(texts):
        for place, word in enumerate(words):
            if not 1 <= len(word) <= most:
                raise InvalidConfig(f"texts[{row}][{place}]", word, f"1 to {most} bytes")
            spelled[row, place, : len(word)] = np.frombuffer(word, np.uint8)
            mask[row, place, : len(word)] = True
    return WordBatch(spelled, mask, mask[:, :, 0].copy())


def _unicode_words(text: str) -> list[str]:
    """Pieces of a kind each, then grouped: a piece goes to the one before it where that is a single space, or it is punctuation."""
    found: list[str] = []
    joins = False  # whether the last piece was a single space
    open_word = False  # whether punctuation may go to the last piece
    for piece in _pieces(text):
        space, mark = piece == " ", unicodedata.category(piece[0])[0] == "P" and len(piece) == 1
        white = not space and all(map(_white, piece))
        if found and ((mark and (joins or open_word)) or (joins and not space and not white)):
            found[-1] += piece
        else:
            found.append(piece)
        joins, open_word = space, not space and not white
    return found


def _pieces(text: str) -> list[str]:
    """What lies between word bounds, cut after punctuation and between a small letter and a capital; runs of spaces are one."""
    found: list[str] = []
    for piece, _ in _word_bounds().pre_tokenize_str(text):
        if piece == " " and found and not found[-1].strip(" "):
            found[-1] += piece
        elif len(piece) == 1 or (piece.isascii() and piece.isalpha() and (piece.islower() or piece[1:].islower())):
            found.append(piece)
        else:
            begins = 0
            kinds = [unicodedata.category(character) for character in piece]
            for at, (kind, after) in enumerate(zip(kinds, [*kinds[1:], ""], strict=True), 1):
                if kind[0] == "P" or (kind == "Ll" and after == "Lu"):
                    found.append(piece[begins:at])
                    begins = at
            found += [piece[begins:]] if begins < len(piece) else []
    return found


def _white(character: str) -> bool:
    """Unicode's property White_Space, which Python gives to four more."""
    return character.isspace() and not "\x1c" <= character <= "\x1f"


@cache
def _word_bounds() -> Any:
    """Of UAX 29, by the expression library (Oniguruma) of `tokenizers`."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(r"(?y{w})\y"), "isolated")
