"""Sorted pieces against looking at all of them, and whole published tokenizers against what they are known to give."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.data.pieces import sort_pieces
from lexinv.data.published_tokenizers import PUBLISHED_TOKENIZERS, load_published_tokenizer
from lexinv.validation import InvalidConfig

ENDS = st.binary(min_size=0, max_size=5).map(lambda data: bytes(b"\x00\x01a\xfe\xff"[b % 5] for b in data))


@given(pieces=st.lists(ENDS, min_size=1), prefix=ENDS, text=ENDS)
@settings(max_examples=200, deadline=None)
def test_ranges_and_longest_matches_are_those_of_looking_at_all_pieces(pieces, prefix, text):
    if not any(pieces):
        with pytest.raises(InvalidConfig, match="pieces"):
            sort_pieces(pieces)
        return
    found = sort_pieces(pieces)
    assert list(found.strings) == sorted({piece for piece in pieces if piece})
    assert [pieces[number] for number in found.ids] == list(found.strings)
    low, high = found.with_prefix(prefix)
    assert list(found.strings[low:high]) == [piece for piece in found.strings if piece.startswith(prefix)]
    matching = [piece for piece in found.strings if text.startswith(piece)]
    place = found.longest(text)
    assert (None if place is None else found.strings[place]) == max(matching, key=len, default=None)


def test_greedy_longest_match_and_what_it_cannot_cover():
    found = sort_pieces([b"", b"a", b"ab", b"abcd", b"c"])
    assert found.encode(b"ababcdc").tolist() == [2, 3, 4] and found.encode(b"").tolist() == []
    with pytest.raises(InvalidConfig, match=r"data\[1\]"):
        found.encode(b"abd"[1:] and b"adb")


TEXT = "In the beginning, God created\n\tf(x) = 12345  # größer 日本語 isn't"


@pytest.mark.long
@pytest.mark.parametrize("name", ["cl100k", "deepseek", "j2", "llama2", "mistral", "rwkv"])
def test_published_tokenizers_keep_every_byte(name, asset):
    asset(PUBLISHED_TOKENIZERS[name][0])
    tokenizer = load_published_tokenizer(name)
    ids = tokenizer.encode(TEXT)
    assert b"".join(tokenizer.pieces[number] for number in ids) == TEXT.encode() and tokenizer.decode(ids) == TEXT
    assert tokenizer.pieces[tokenizer.separator] == b"" and len(tokenizer.pieces) == tokenizer.vocab_size
    assert len(ids) < 0.6 * len(TEXT.encode())
