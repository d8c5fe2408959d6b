"""Words that hold a new token, counted by hand; passages and restricted tokenizers."""

import numpy as np
import pytest

from experiments.subjects.vocabulary_transfers import bits, passages, restrict, windows_of
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.validation import InvalidConfig

TEXTS = [str.__doc__ + dict.__doc__, slice.__doc__ + bytes.__doc__]
CORPUS = Corpus("test", "0123456789abcdef", {"train": TEXTS, "test": TEXTS, "validation": [""]})


def test_bits_of_words_with_a_new_token_by_hand():
    """` ab`, `c` of three bytes each but one: the word ` abc` has the new id, ` d` has not; the tail of a padded row counts nothing."""
    tokenizer = load_tokenizer("byte", CORPUS)
    windows = windows_of(tokenizer, [" abc d", " d"])
    nats = np.log(2) * np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 9, 9, 9]], np.float64)
    found = bits(nats, windows, tokenizer, np.array([ord("b")]))
    assert found == pytest.approx({"all": 36 / 8, "new": 10 / 4, "others": 26 / 4})
    assert set(bits(nats, windows, tokenizer, np.array([ord("z")]))) == {"all", "others"}


def test_passages_are_of_words_and_reproducible():
    found = passages(CORPUS, "test", 5, 40, seed=1)
    assert found == passages(CORPUS, "test", 5, 40, seed=1) != passages(CORPUS, "test", 5, 40, seed=2)
    for text in found:
        assert 10 < len(text) <= 40 and text.startswith(" ") and any(text + " " in whole for whole in TEXTS)


def test_a_restricted_tokenizer_keeps_what_a_text_uses(tmp_path):
    tokenizer = load_tokenizer("bpe:300", CORPUS, tmp_path)
    small = restrict(tokenizer, tokenizer.encode(TEXTS[0]))
    assert small.vocab_size < 300 and small.decode(small.encode(TEXTS[0])) == TEXTS[0]
    assert small.pieces[small.separator] == b"" and small.separator not in small.encode(TEXTS[0])
    with pytest.raises(InvalidConfig, match="text"):
        small.encode("ÿ")
