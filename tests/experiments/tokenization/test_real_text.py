"""The division of documents, and what is trained on what."""

import numpy as np

from experiments.tokenization.real_text import divide, measure_kgrams, tokenizers
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import LETTERS
from lexinv.tokenization.tokenizers import to_text, train_bpe

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
