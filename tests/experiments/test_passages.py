"""Neighbouring windows of documents, paragraphs, and embeddings compared."""

import numpy as np
import pytest

from experiments.subjects.passages import compare_embeddings, neighbouring_windows, paragraphs
from experiments.subjects.untrained_encoder import untrained
from lexinv.data.corpora import Corpus
from lexinv.validation import InvalidConfig

LETTERS = ["abcdefghijkl", "ABCDEFGHIJKL", "mnopqrstuvwx", "MNOPQRSTUVWX"]
TEXT = "one two three four five six seven eight"
CORPUS = Corpus("letters", "", {"train": ["short", *LETTERS], "test": [f"{TEXT}\n\nHeading\n \n{TEXT}  nine", TEXT]})


def test_windows_are_neighbours_in_documents_of_their_own():
    encoder = untrained()
    found = neighbouring_windows(encoder, CORPUS, "train", 7, 4, 0)
    assert found.shape == (4, 2, 7) and found.dtype == np.int32
    texts = [encoder.tokenizer.decode(pair[:, 1:-1].reshape(-1).tolist()).replace(" ", "") for pair in found]
    owners = {document for text in texts for document in LETTERS if text in document}
    assert all(len(text) == 10 for text in texts) and owners == set(LETTERS)
    assert (found[..., 0] == 0).all() and (found[..., -1] == 1).all()
    np.testing.assert_array_equal(found, neighbouring_windows(encoder, CORPUS, "train", 7, 4, 0))
    assert not np.array_equal(found, neighbouring_windows(encoder, CORPUS, "train", 7, 4, 1))
    with pytest.raises(InvalidConfig, match="count = 5.*at most 4"):
        neighbouring_windows(encoder, CORPUS, "train", 7, 5, 0)


def test_paragraphs_are_long_enough_and_come_once():
    assert list(paragraphs(CORPUS, "test")) == [TEXT, f"{TEXT} nine"]


def test_embeddings_are_compared_by_hand():
    """24 passages, neighbours in one of 12 directions; then one moves to another's direction."""
    plain = np.repeat(np.eye(12, dtype=np.float32), 2, axis=0)[None, None]
    assert compare_embeddings(plain, plain) == {"error": [0.0] * 12, "found": [2] * 12}
    moved = plain.copy()
    moved[0, 0, 0] = plain[0, 0, 4]
    # 0 now has 4 first; 4 and 5 have 0 at the same distance as their neighbours, and the first comes first, as of all for 1.
    assert compare_embeddings(plain, moved) == {"error": [0.5] + [0.0] * 11, "found": [1, 2, 0] + [2] * 9}
