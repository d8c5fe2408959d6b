"""SuperBPE at its ends, what its tokens may hold, and its file in the `tokenizers` library."""

import inspect
import json.decoder
import re
from itertools import pairwise

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from lexinv.data.bpe import byte_chunks, count_pieces, learn_merges
from lexinv.tokenization import superbpe
from lexinv.validation import InvalidConfig

TEXTS = [
    inspect.getdoc(each) or "" for each in (re, json, json.decoder, json.JSONDecoder, inspect.signature, str.format)
]
TEXTS += [inspect.getsource(json.decoder)]


def test_without_a_second_stage_it_is_the_librarys_byte_pair_encoding():
    ours = superbpe.train(TEXTS, 400, 400)
    split = pre_tokenizers.Split(tokenizers.Regex(superbpe.WORDS), "isolated")
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    library = trained.get_vocab()
    theirs = set(library) - set(alphabet)
    written = {ours.library().id_to_token(number) for number in range(257, 401)}
    assert len(theirs & written) >= 140  # ties are broken by the ids of bytes, which the library numbers otherwise
    assert (
        superbpe.train(TEXTS, 300, 400).merges[:44] == ours.merges[:44]
    )  # the first stage does not know of the second


def test_superwords_hold_at_most_so_many_words_and_nothing_forbidden():
    for most in (2, 4):
        found = superbpe.train(TEXTS, 320, 620, most_words=most)
        pieces = found.pieces[320:]
        words = [sum(map(bool, piece.split(b" "))) for piece in pieces]
        assert max(words) == most and not any(b": " in piece for piece in found.pieces)
        assert not any(re.search(rb"\d{4}|\n.", piece, re.DOTALL) for piece in pieces)
    assert any(b": " in piece for piece in superbpe.train(TEXTS, 320, 900, forbidden=()).pieces)


def test_no_merge_is_left_in_an_encoded_text_and_decoding_gives_it_back():
    found = superbpe.train(TEXTS, 320, 520)
    tokenizer, merges = found.tokenizer(), set(found.merges)
    for text in (*TEXTS, "naïve 日本: 12345  x\r\n\n", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        encoded = found.library().encode(text)
        for left, right in pairwise(zip(encoded.ids, encoded.word_ids, strict=True)):
            assert left[1] != right[1] or (left[0] - 1, right[0] - 1) not in merges


def test_its_second_stage_goes_on_from_words_and_without_a_first_is_free_of_them():
    lines = [line for text in TEXTS for line in text.splitlines(keepends=True)]
    free = learn_merges(byte_chunks(count_pieces(lines, superbpe.LINES)), 256, 420)
    assert superbpe.train(TEXTS, 256, 420, most_words=None, forbidden=()).merges == free
    tokens = [
        sum(len(superbpe.train(TEXTS, start, 600).tokenizer().encode(text)) for text in TEXTS) for start in (450, 600)
    ]
    assert tokens[0] < tokens[1]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((TEXTS, 200, 400), "transition"),
        ((TEXTS, 401, 400), "transition"),
        (([""], 256, 400), "texts"),
        ((["ab"], 256, 400), "size"),
    ],
)
def test_refusals(arguments, field):
    with pytest.raises(InvalidConfig, match=field):
        superbpe.train(*arguments)
