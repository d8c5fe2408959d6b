"""The pieces of a SentencePiece model file (Kudo and Richardson 2018), read from its protocol buffer without a library."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lexinv.validation import InvalidConfig, require

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""What a piece is: `Piece.kind`."""


class Piece(NamedTuple):
    """text: with U+2581 for spaces. score: its log-probability in a unigram model, minus its rank among merges in BPE."""

    text: str
    score: float
    kind: int


def read_pieces(file: Path) -> list[Piece]:
    """The vocabulary in the order of its ids. Raises `InvalidConfig` for a file that is no whole model."""
    try:
        models = [dict(_fields(value)) for number, value in _fields(file.read_bytes()) if number == 1]
        found = [Piece(each[1].decode(), each.get(2, 0.0), each.get(3, NORMAL)) for each in models]
    except (OSError, ValueError, LookupError, struct.error, TypeError, AttributeError) as error:
        raise InvalidConfig("file", str(file), f"a whole SentencePiece model ({error})") from None
    require(len(found) > 0, "file", str(file), "a SentencePiece model with pieces")
    return found


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of every field: integers, floats, or bytes for texts and messages."""
    at = 0
    while at < len(message):
        head, at = _varint(message, at)
        number, wire = divmod(head, 8)
        size, at = ({1: 8, 5: 4}[wire], at) if wire in (1, 5) else _varint(message, at)
        if wire == 0:
            yield number, size
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"field {number} is of the unknown kind {wire}")
        part, at = message[at : at + size], at + size
        if len(part) < size:
            raise ValueError("it ends within a field")
        yield number, part if wire == 2 else struct.unpack("<d" if wire == 1 else "<f", part)[0]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(the integer there, where it ends): seven bits a byte, the lowest first."""
    value = shift = 0
    while message[at] > 127:
        at, value, shift = at + 1, value | (message[at] & 127) << shift, shift + 7
    return value | message[at] << shift, at + 1
