"""Pieces of a model written here byte by byte, and of a released one."""

import struct

import pytest

from lexinv.data.sentencepiece import BYTE, CONTROL, NORMAL, Piece, read_pieces
from lexinv.validation import InvalidConfig


def field(number, wire, content):
    return bytes([number << 3 | wire]) + content


def piece(text, score=None, kind=None):
    parts = field(1, 2, bytes([len(text.encode())]) + text.encode())
    parts += b"" if score is None else field(2, 5, struct.pack("<f", score))
    parts += b"" if kind is None else field(3, 0, bytes([kind]))
    return field(1, 2, bytes([len(parts) | 128, 0]) + parts)  # a length in two bytes


TRAINER = field(2, 2, bytes([4]) + field(4, 0, bytes([172, 2])) + bytes([56]) + bytes([0]))[:6]
MODEL = piece("<s>", 0.0, CONTROL) + piece("▁the", -3.5) + TRAINER + piece("<0x0A>", kind=BYTE)


def test_pieces_are_read_in_order_and_other_fields_passed_over(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(MODEL)
    expected = [Piece("<s>", 0.0, CONTROL), Piece("▁the", -3.5, NORMAL), Piece("<0x0A>", 0.0, BYTE)]
    assert read_pieces(tmp_path / "tokenizer.model") == expected


@pytest.mark.parametrize("content", [b"", MODEL[:-1], b"\xff", TRAINER, field(1, 2, bytes([2]) + field(3, 0, b"\1"))])
def test_other_files_are_named(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"tokenizer\.model.*SentencePiece model"):
        read_pieces(tmp_path / "tokenizer.model")


@pytest.mark.long
def test_j2_has_pieces_of_several_words(asset):
    """The counts are those of the library sentencepiece 0.2.3 on the same file."""
    pieces = read_pieces(asset("j2_tokenizer") / "j2-tokenizer.model")
    assert len(pieces) == 262144
    assert sum("▁" in piece.text.strip("▁") for piece in pieces) == 117787
