"""What two vocabularies share, and what the tokens of one are in the other."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from lexinv.data.pieces import sort_pieces
from lexinv.data.tokenizers import Tokenizer
from lexinv.validation import InvalidConfig, require


class Match(NamedTuple):
    """shared: (id of the source, id of the target) of every token that stands for the same bytes in both, the separators among them.
    new: ids of the target that the source does not have."""

    shared: Int32[np.ndarray, "shared 2"]
    new: Int32[np.ndarray, " new"]


def match(source: Tokenizer, target: Tokenizer) -> Match:
    """Tokens are the same if they stand for the same bytes, however a tokenizer writes them (Goddard and Fernandes Neto 2025, step 1).

    Of several tokens of the source for the same bytes the first is taken. Tokens that stand for no text, but for the separator, are new.
    Raises `InvalidConfig` where nothing but the separator is shared.
    """
    ids: dict[bytes, int] = {}
    for number, piece in enumerate(source.pieces):
        ids.setdefault(piece, number)
    found = {number: ids[piece] for number, piece in enumerate(target.pieces) if piece and piece in ids}
    require(len(found) > 0, "target", target.name, f"a tokenizer that shares tokens with {source.name}")
    found[target.separator] = source.separator
    shared = [(found[number], number) for number in sorted(found)]
    new = [number for number in range(target.vocab_size) if number not in found]
    return Match(np.array(shared, np.int32), np.array(new, np.int32))


def segmenter(tokenizer: Tokenizer) -> Callable[[bytes], list[int]]:
    """The ids that a tokenizer spells some bytes with: its own encoding of a text, greedy longest match for what is no whole text, and for
    what the tokenizer refuses, as one does that keeps only some of its tokens.

    Raises `InvalidConfig` for bytes that no token begins with.
    """
    ordered = sort_pieces(tokenizer.pieces)

    def segment(piece: bytes) -> list[int]:
        try:
            ids = tokenizer.encode(piece.decode()).tolist()
        except (UnicodeDecodeError, InvalidConfig):
            ids = []
        spelled = b"".join(tokenizer.pieces[number] for number in ids)
        return ids if ids and spelled == piece else ordered.encode(piece).tolist()

    return segment


class SurfaceForms(NamedTuple):
    """ids: of the tokens that spell each piece, the first `length` of them, then 0. mask: which of them are there. truncated: which pieces
    have more."""

    ids: Int32[np.ndarray, "pieces length"]
    mask: Bool[np.ndarray, "pieces length"]
    truncated: Bool[np.ndarray, " pieces"]


def surface_forms(pieces: Sequence[bytes], segment: Callable[[bytes], list[int]], length: int) -> SurfaceForms:
    """Every piece in the tokens of another vocabulary (Minixhofer et al. 2024, section 3). A piece without bytes has none."""
    require(length >= 1, "length", length, "at least 1")
    found = [segment(piece) if piece else [] for piece in pieces]
    ids, mask = np.zeros((len(found), length), np.int32), np.zeros((len(found), length), bool)
    for row, spelled in enumerate(found):
        kept = spelled[:length]
        ids[row, : len(kept)], mask[row, : len(kept)] = kept, True
    return SurfaceForms(ids, mask, np.array([len(spelled) > length for spelled in found]))
