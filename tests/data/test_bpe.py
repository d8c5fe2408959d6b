"""Byte-pair encoding against the `tokenizers` library and against counting anew after every merge."""

import contextlib
import itertools
import re
from collections import Counter

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from lexinv.data.bpe import PAIR, Chunks, count_pieces, learn_merges, learn_merges_sequentially, one_chunk, pair_changes
from lexinv.data.published import O200K_SPLIT
from lexinv.tokenization.byte_pairs import GPT2_SPLIT, SMOLLM2_SPLIT
from lexinv.tokenization.superbpe import LINES, NOWHERE
from lexinv.tokenization.tokenizers import to_symbols, train_bpe
from lexinv.validation import InvalidConfig

SPLITS = (
    GPT2_SPLIT,
    SMOLLM2_SPLIT,
    O200K_SPLIT,
    LINES,
    NOWHERE,
    r" ?\w+|[^\w]+",
    r"^a|\d",
    r"[a[1]]",
    r"\p{Lt}|a",
    r"(a)1",
    r"\h",
)
"""Those of the house, and some that mean something else in Python, or nothing."""
ODD = "aA1'stl /_.([\n\r\t\x0b\x0c\x1c\x85\xa0\u2028éǅ\u0301٣"
BINARY = st.text("01", min_size=2, max_size=80)


def counting_anew(
    pieces: dict[tuple[int, ...], int], symbols: int, size: int
) -> tuple[list[tuple[int, int]], list[dict[tuple[int, int], int]]]:
    """The definition: count all adjacent pairs, merge the most frequent (of equals the smallest), again; stops when none is left.

    The merges, and the counts before each of them.
    """
    merges, before = [], []
    while symbols + len(merges) < size:
        counts: dict[tuple[int, int], int] = {}
        for piece, count in pieces.items():
            for pair in itertools.pairwise(piece):
                counts[pair] = counts.get(pair, 0) + count
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        pieces = {merged(piece, best, symbols + len(merges)): count for piece, count in pieces.items()}
        merges, before = [*merges, best], [*before, counts]
    return merges, before


def merged(piece: tuple[int, ...], pair: tuple[int, int], token: int) -> tuple[int, ...]:
    found, position = [], 0
    while position < len(piece):
        here = piece[position : position + 2] == pair
        found.append(token if here else piece[position])
        position += 2 if here else 1
    return tuple(found)


def chunks_of(pieces: dict[tuple[int, ...], object]) -> Chunks:
    counts = np.array(list(pieces.values()), np.int64)
    return Chunks(np.array(sum(pieces, ()), np.int64), np.array(list(map(len, pieces))), counts)


PIECES = st.dictionaries(st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), st.integers(1, 9), min_size=1)


@given(pieces=PIECES)
@example({(0,) * 9: 1})
@example({(0, 1, 1, 0, 1, 1, 0, 1, 1, 0): 2, (1, 0): 3})
@settings(max_examples=150, deadline=None)
def test_merges_are_those_of_counting_anew(pieces):
    expected, _ = counting_anew(pieces, 3, 12)
    assert learn_merges(chunks_of(pieces), 3, 3 + len(expected)) == expected
    if len(expected) < 9:
        with pytest.raises(InvalidConfig, match=f"at most {3 + len(expected)}"):
            learn_merges(chunks_of(pieces), 3, 12)


@given(pieces=PIECES)
@settings(max_examples=100, deadline=None)
def test_changes_add_up_to_the_counts_before_every_merge(pieces):
    """Of two categories at once, the second with every piece twice as often."""
    merges, before = counting_anew(pieces, 3, 9)
    counts: dict[tuple[int, int], np.ndarray] = {}
    twice = chunks_of({piece: [count, 2 * count] for piece, count in pieces.items()})
    for (pairs, change), expected in zip(pair_changes(twice, merges, 3), [*before, None], strict=True):
        for pair, by in zip(pairs.tolist(), change, strict=True):
            counts[divmod(pair, PAIR)] = counts.get(divmod(pair, PAIR), 0) + by
        if expected is not None:
            found = {pair: by.tolist() for pair, by in counts.items() if by.any()}
            assert found == {pair: [count, 2 * count] for pair, count in expected.items()}


def test_a_merge_that_never_occurs_changes_nothing():
    _, (pairs, change), (others, _) = pair_changes(one_chunk(np.array([0, 1, 0, 1])), [(1, 1), (0, 1)], 2)
    assert not len(pairs) and not len(change)
    assert sorted(others.tolist()) == [1, PAIR, 3 * PAIR + 3]


@given(pieces=PIECES, refused=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 2))))
@settings(max_examples=100, deadline=None)
def test_merges_go_on_from_initial_ones_and_leave_out_what_is_refused(pieces, refused):
    """Initial merges are taken whatever their counts; a refused pair is in no merge."""
    merges, _ = counting_anew(pieces, 3, 9)
    half = merges[: len(merges) // 2]
    assert learn_merges(chunks_of(pieces), 3, 3 + len(merges), half) == merges
    rare = [(2, 2), (3, 3)]  # whatever the text
    assert learn_merges(chunks_of(pieces), 3, 5, rare) == rare
    parts = [(symbol,) for symbol in range(3)]

    def allowed(left, right):
        return (left[-1], right[0]) not in refused

    found = []
    with contextlib.suppress(InvalidConfig):
        for size in range(4, 9):
            found = learn_merges(chunks_of(pieces), 3, size, found, allowed)
    for left, right in found:
        assert allowed(parts[left], parts[right])
        parts.append(parts[left] + parts[right])


def test_an_initial_merge_before_its_parts_is_refused():
    with pytest.raises(InvalidConfig, match=r"initial\[1\]"):
        learn_merges(one_chunk(np.array([0, 1, 0, 1])), 2, 5, [(0, 1), (3, 0)])


def test_merges_of_raw_text_are_those_of_the_library():
    """Python's own documentation of `re`, split by GPT-2's expression; the library numbers bytes by the characters it writes them as."""
    splitter, text = pre_tokenizers.ByteLevel(add_prefix_space=False), re.__doc__ + str.format.__doc__
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([text], trainer)
    pieces = Counter(tuple(map(alphabet.index, piece)) for piece, _ in splitter.pre_tokenize_str(text))
    strings = list(alphabet)
    for left, right in learn_merges(chunks_of(pieces), 256, 500):
        strings.append(strings[left] + strings[right])
    assert len(set(strings)) == 500
    assert trained.get_vocab() == {string: number for number, string in enumerate(strings)}


@pytest.mark.parametrize("split", SPLITS)
@given(texts=st.lists(st.text(ODD) | st.text(ODD[:16]) | st.text(st.characters(max_codepoint=127)), min_size=1))
@example(texts=[re.__doc__, "".join(map(chr, range(128))), "I'VE  \n\n  they'll\t 12345 +=(\n  /x"])
@settings(max_examples=60, deadline=None)
def test_pieces_are_those_that_the_library_hands_over(split, texts):
    splitter = pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
    assert count_pieces(texts, split) == Counter(
        piece for text in texts for piece, _ in splitter.pre_tokenize_str(text)
    )


@given(text=BINARY)
@settings(max_examples=150, deadline=None)
def test_merges_and_encodings_are_those_of_the_library(text):
    """Ties included: they are frequent in texts this short."""
    ids = to_symbols(text, "01")
    size = 2 + len(counting_anew({tuple(ids.tolist()): 1}, 2, 10)[0])
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
