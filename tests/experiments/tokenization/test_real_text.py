"""The k-gram of equal size, the division of documents, and what is trained on what."""

import gzip

import numpy as np
import pytest

from experiments.tokenization.real_text import above_kgrams, compressors, divide, measure_kgrams, tokenizers
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import LETTERS
from lexinv.tokenization.tokenizers import to_text, train_bpe
from lexinv.validation import InvalidConfig


def test_the_kgram_of_equal_size_is_never_smaller():
    """800 is nearer to 1024 than 8000 is, and an easier opponent; nothing is as large as 16,384."""
    kgrams = {"sizes": [[29, 800, 8000]] * 2, "nats": [[2.9, 2.4, 1.9], [2.8, 2.3, 1.8]]}
    tokens = {"bpe": {"sizes": [[700, 1024, 16_384]] * 2, "nats": [[2.0, 2.0, 1.3]] * 2}}
    found = above_kgrams({"kgrams": kgrams, "tokens": tokens}, "bpe")
    np.testing.assert_allclose(found, [[-0.4, 0.1, np.nan], [-0.3, 0.2, np.nan]], atol=1e-12)


CORPUS = Corpus(
    "made-up",
    "0",
    {
        "train": [f"Document {'x' * i}, yes." for i in range(40)],
        "validation": ["a validation document!", "..."],
        "test": ["the very last", ""],
    },
)


def test_documents_are_divided_anew_by_every_seed_and_never_shared():
    train, test = (to_text(part, LETTERS) for part in divide(CORPUS, 400, 200, seed=0)[:2])
    assert (len(train), len(test)) == (400, 200)
    whole = [set(text.split(" document ")[1:-1]) for text in (train, test)]
    assert whole[0] and whole[1] and not whole[0] & whole[1]
    again = [to_text(part, LETTERS) for part in divide(CORPUS, 400, 200, seed=0)[:2]]
    assert again == [train, test]
    assert to_text(divide(CORPUS, 400, 200, seed=1)[1], LETTERS) != test


def test_a_corpus_with_too_little_text_is_refused():
    with pytest.raises(InvalidConfig, match="made-up has") as error:
        divide(CORPUS, 100_000, 200, seed=0)
    assert error.value.field == "train_characters"


def test_smaller_dictionaries_without_words_are_those_of_training_them():
    text = to_text(np.random.default_rng(0).integers(0, 4, 3000), LETTERS)
    for found, size in zip(tokenizers("bpe_whole", text, (60, 80, 100)), (60, 80, 100), strict=True):
        trained = train_bpe(text, size, LETTERS)
        assert found.vocabulary == trained.vocabulary
        np.testing.assert_array_equal(found.encode(text[:500]), trained.encode(text[:500]))


def test_kgrams_are_tuned_on_training_text_alone():
    """The test text, of another law, must not change strengths; and k-grams of a text without order are no better than frequencies."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 4, 20_000).astype(np.int32)
    found = [
        measure_kgrams(train, test.astype(np.int32), 3) for test in (rng.integers(0, 4, 5000), np.arange(5000) % 2)
    ]
    assert found[0]["strengths"] == found[1]["strengths"]
    assert found[0]["sizes"] == [4, 16, 64]
    np.testing.assert_allclose(found[0]["nats"], np.log(4), atol=0.01)


def test_compressors_count_nats_per_character():
    text = "abcd" * 500
    assert compressors(text)["gzip"] == pytest.approx(
        len(gzip.compress(text.encode(), 9)) * np.log(256) / 2000, abs=1e-4
    )
