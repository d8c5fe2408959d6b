"""Words: the released splitter on any text, what is cut and packed, and what is refused."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.transfer.words import SEPARATOR, cut, pack, split
from lexinv.validation import InvalidConfig

TEXTS = st.text(st.one_of(st.sampled_from(" \n.,'aB1_é"), st.characters(exclude_categories=["Cs"])), max_size=14)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", "Hello,| world!"),
        ("howAreYou", "how|Are|You"),
        ("how_are_you", "how_|are_|you"),
        ("It's 3.14  (a)\n\nb", "It'|s| 3.|14|  |(|a)|\n|\n|b"),
        ("", ""),
    ],
)
def test_the_released_splitters_examples(text, words):
    """Its documentation's, and what follows from its rules by hand."""
    assert split(text) == [word.encode() for word in words.split("|") if word]


@pytest.mark.parametrize("rule", ["unicode", "whitespace", "fixed:3"])
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, noise=st.binary(max_size=4))
def test_words_joined_are_the_text_and_do_not_know_what_comes(rule, text, noise):
    data = text.encode() + noise
    words = split(data, rule)
    assert b"".join(words) == data and all(words)
    before = split(text[:-1], rule)[:-1]
    assert split(text, rule)[: len(before)] == before


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, most=st.integers(1, 6))
def test_what_is_too_long_is_cut_flagged_and_whole_again(text, most):
    pieces, continued = cut(split(text), most)
    assert max(map(len, pieces), default=0) <= most
    ends = np.flatnonzero(~continued) + 1
    joined = [b"".join(pieces[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    assert joined == split(text)
    if most >= 4:
        assert all(piece.decode() for piece in pieces)  # no character is in two pieces


def test_bytes_that_are_not_text_are_words_of_their_own():
    assert split(b"a b" + SEPARATOR + b"\x80c") == [b"a", b" b", SEPARATOR + b"\x80", b"c"]


def test_a_batch_holds_the_words_and_nothing_else():
    batch = pack([[b"ab", b"c"], [b"def"]], 4, 3)
    np.testing.assert_array_equal(batch.byte_mask.sum(axis=-1), [[2, 1, 0], [3, 0, 0]])
    assert bytes(batch.spelled[batch.byte_mask].astype(np.uint8)) == b"abcdef"
    np.testing.assert_array_equal(batch.word_mask, [[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts = 0"),
        ([[]], "texts = 1"),
        ([[b"abcde"]], "texts[0][0] = b'abcde'; allowed: 1 to 4 bytes"),
        ([[b"a", b""]], "texts[0][1] = b''"),
        ([[b"a"] * 4], "length = 3"),
    ],
)
def test_bad_words_are_refused_by_name(texts, message):
    with pytest.raises(InvalidConfig, match=re.escape(message.partition(";")[0])):
        pack(texts, 4, 3)
    with pytest.raises(InvalidConfig, match=r"rule = 'fixed:0'.*whitespace"):
        split("a", "fixed:0")


@pytest.mark.parity
@settings(max_examples=2000, deadline=None)
@given(text=TEXTS, most=st.integers(1, 20))
def test_parity_with_the_released_splitter(text, most):
    released = pytest.importorskip("hat_splitter").HATSplitter()
    assert cut(split(text), most)[0] == released.split_with_limit(text, most)
