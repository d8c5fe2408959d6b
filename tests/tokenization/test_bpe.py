"""Byte-pair encoding against the `tokenizers` library and against counting anew after every merge."""

import itertools

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, trainers

from lexinv.tokenization.bpe import learn_merges, learn_merges_sequentially
from lexinv.tokenization.tokenizers import to_symbols, train_bpe
from lexinv.validation import InvalidConfig

BINARY = st.text("01", min_size=2, max_size=80)


def counting_anew(ids: np.ndarray, symbols: int, size: int) -> list[tuple[int, int]]:
    """The definition: count all adjacent pairs, merge the most frequent (of equals the smallest), again; stops when none is left."""
    ids, merges = list(ids), []
    while symbols + len(merges) < size and len(ids) > 1:
        counts: dict[tuple[int, int], int] = {}
        for pair in itertools.pairwise(ids):
            counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merged, position = [], 0
        while position < len(ids):
            found = tuple(ids[position : position + 2]) == best
            merged.append(symbols + len(merges) if found else ids[position])
            position += 2 if found else 1
        ids, merges = merged, [*merges, best]
    return merges


@given(text=st.text("012", min_size=2, max_size=60))
@example("000000000")
@example("0110110110")
@settings(max_examples=150, deadline=None)
def test_merges_are_those_of_counting_anew(text):
    ids = to_symbols(text, "012")
    expected = counting_anew(ids.tolist(), 3, 12)
    assert learn_merges(ids, 3, 3 + len(expected)) == expected
    if len(expected) < 9:
        with pytest.raises(InvalidConfig, match=f"at most {3 + len(expected)}"):
            learn_merges(ids, 3, 12)


@given(text=BINARY)
@settings(max_examples=150, deadline=None)
def test_merges_and_encodings_are_those_of_the_library(text):
    """Ties included: they are frequent in texts this short."""
    ids = to_symbols(text, "01")
    size = 2 + min(len(counting_anew(ids.tolist(), 2, 10)), 8)
    trained = tokenizers.Tokenizer(models.BPE())
    trained.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=["0", "1"], show_progress=False)
    )
    ours = train_bpe(text, size, "01")
    vocabulary = trained.get_vocab()
    if len(set(ours.vocabulary)) == size:  # the library gives two merges that make the same string one id
        assert {token: index for index, token in enumerate(ours.vocabulary)} == vocabulary
        assert ours.encode(text).tolist() == trained.encode(text).ids


def test_sequential_merges_by_hand():
    """Phase 1 sees 0101 (01 twice), phase 2 sees 0101 as 2 2; phase 3 sees 2 2 as 3, one token, and stops."""
    ids = to_symbols("010101010101", "01")
    assert learn_merges_sequentially(ids, 2, 5, 0.5) == [(0, 1), (2, 2)]
    assert learn_merges_sequentially(ids, 2, 5, 1.5) == [(0, 1)]  # in phase 2 no pair occurs twice
    assert learn_merges_sequentially(ids, 2, 5, 2.0) == []


def test_sequential_phases_see_fresh_text():
    """The first chunk has only 0s, the second only 1s: what the first teaches cannot come from the second."""
    ids = to_symbols("0" * 20 + "1" * 20, "01")
    assert learn_merges_sequentially(ids, 2, 4, 1.0) == [(0, 0), (1, 1)]
