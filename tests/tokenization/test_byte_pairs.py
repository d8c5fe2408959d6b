"""Tokens that may follow others, against encoding all of them with all that may come after."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from lexinv.data.bpe import apply_merges, learn_merges, one_chunk, spell
from lexinv.data.byte_level import ByteLevelBPE
from lexinv.data.tokenizers import of_library
from lexinv.tokenization.byte_pairs import GPT2_SPLIT, SMOLLM2_SPLIT, BytePairs
from lexinv.tokenization.superbpe import LINES
from lexinv.validation import InvalidConfig

WHOLE = "(?!)"


@given(letters=st.lists(st.sampled_from((97, 97, 98)), min_size=30, max_size=60), size=st.integers(2, 9))
@settings(max_examples=10, deadline=None)
def test_neighbours_that_no_merge_crosses_are_those_that_encode_as_themselves(letters, size):
    try:
        merges = learn_merges(one_chunk(np.array(letters, np.int32)), 256, 256 + size)
    except InvalidConfig:
        return  # too few pairs
    spelled = [bytes(token) for token in spell(merges, 256)]
    if len(set(spelled)) < len(spelled):
        return  # two merges to one string
    pairs = BytePairs(ByteLevelBPE("toy", merges, WHOLE).tokenizer(), WHOLE)

    def valid(tokens):
        data = np.frombuffer(b"".join(spelled[token] for token in tokens), np.uint8)
        return apply_merges(data.astype(np.int32), merges, 256).tolist() == list(tokens)

    places = [pairs.by_bytes[piece] for piece in spelled]
    written = [97, 98, *range(256, 256 + size)]
    for left, right in product(written, repeat=2):
        alone = valid((left,)) and valid((right,))
        assert (alone and pairs.unmerged(places[left])[places[right]]) == valid((left, right))
    for tokens in product(written[:5], repeat=3):
        assert valid(tokens) == all(map(valid, pairwise(tokens)))


@pytest.mark.parametrize("split", [GPT2_SPLIT, SMOLLM2_SPLIT, LINES], ids=["gpt2", "smollm2", "lines"])
def test_what_is_allowed_is_the_beginning_of_some_encoding(split, byte_pairs, tricky):
    pairs = byte_pairs(split)
    encode, pieces = pairs.tokenizer.encode, pairs.pieces
    used = [
        place for place, piece in enumerate(pieces.strings) if piece.isascii() and set(piece) <= set(tricky.encode())
    ]
    ids = encode(tricky).tolist()
    for at in range(0, len(ids), 3):
        context, text = tuple(ids[:at]), b"".join(pairs.tokenizer.pieces[token] for token in ids[:at]).decode()
        allowed = pairs.allowed(context)
        for place in used:
            wanted = [*context, pieces.ids[place]]
            goes_on = (text + pieces.strings[place].decode() + after for after in ("", "e", ".", " ", "1"))
            found = any(encode(whole)[: at + 1].tolist() == wanted for whole in goes_on)
            assert allowed[place] == found, (text[-8:], pieces.strings[place])


@given(text=st.text(st.sampled_from(" \n'estr.)1éß日\u0301"), max_size=12))
@settings(max_examples=40, deadline=None)
def test_what_is_encoded_is_allowed(byte_pairs, text):
    pairs = byte_pairs(GPT2_SPLIT)
    ids = pairs.tokenizer.encode(text).tolist()
    for at, token in enumerate(ids):
        assert pairs.allowed(ids[:at])[pairs.places[token]]
    stable = pairs.stable(text)
    for after in ("t's", "  x", "..", "\n\nx"):
        assert not stable or stable in pairs._ends(text + after)


def test_other_tokenizers_are_refused(byte_pairs):
    bpe = byte_pairs(GPT2_SPLIT).tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model = Library(models.Unigram([("<separator>", 0.0), *((letter, -9.0) for letter in alphabet), ("the", -1.0)]))
    model.decoder = decoders.ByteLevel()
    with pytest.raises(InvalidConfig, match="unigram:258.*byte-pair encoding"):
        BytePairs(of_library("unigram:258", model, "<separator>"), GPT2_SPLIT)
    with pytest.raises(InvalidConfig, match="toy.*all that the merges make"):
        BytePairs(bpe, GPT2_SPLIT, [(ord("q"), ord("q"))])
