"""Fertility: totals that can be counted by hand, and the byte tokenizer's one byte per token."""

import pytest

from lexinv.data.corpora import Corpus
from lexinv.data.fertility import fertility
from lexinv.data.tokenizers import load_tokenizer
from lexinv.validation import InvalidConfig


def test_the_byte_tokenizer_has_one_byte_per_token():
    found = fertility(load_tokenizer("byte", Corpus("none", "0", {})).encode, ["naïve", "日本 123"])
    assert found == (6 + 10, 5 + 6, 6 + 10)
    assert found.bytes_per_token == 1
    assert found.characters_per_token == 11 / 16


def test_totals_not_means_of_ratios():
    found = fertility(str.split, ["a b c", "longer"])
    assert found.characters_per_token == 11 / 4


def test_texts_without_tokens_are_refused():
    with pytest.raises(InvalidConfig, match="texts"):
        fertility(str.split, [" "])
