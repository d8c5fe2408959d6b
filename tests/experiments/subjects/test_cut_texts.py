"""Where cuts lie, where the expression looks ahead, and the means of ensembles."""

import numpy as np
import pytest

from experiments.subjects.cut_texts import PLACES, ahead, cuts_of, excerpts, place
from lexinv.data.bpe import byte_chunks, count_pieces, learn_merges
from lexinv.data.byte_level import ByteLevelBPE
from lexinv.data.corpora import Corpus
from lexinv.tokenization.byte_pairs import GPT2_SPLIT, BytePairs

TEXT = "def f():\n\n\ndef f(x):\n    return x\n\n\nclass Ax:\n    def f(x): pass\n\n\n"


def pairs_of(merges):
    learned = learn_merges(byte_chunks(count_pieces([4 * TEXT], GPT2_SPLIT)), 256, 256 + merges)
    return BytePairs(ByteLevelBPE("toy", learned, GPT2_SPLIT).tokenizer(), GPT2_SPLIT, learned)


def test_cuts_are_told_by_what_was_read_of_their_token():
    pairs = pairs_of(26)
    assert pairs.tokenizer.encode(" def").size == 1
    assert [place(pairs, b"x def", cut) for cut in range(1, 5)] == [0, 1, 2, 3]
    assert place(pairs, b"x def", 5) == 0


def test_the_expression_looks_ahead_between_blank_lines():
    pairs = pairs_of(26)
    assert pairs.tokenizer.encode("\n\n").size == 1
    # Before a word the last line's end is a token of its own: until then the two were one.
    assert ahead(pairs, b"x\n\ndef") == [3] and ahead(pairs, b"x\n\n") == [] and ahead(pairs, b"x def") == []


def test_ensembles_are_means_of_probabilities():
    corpus = Corpus("toy", "toy", {"test": [8 * TEXT]})
    texts = excerpts(corpus, 0, 3, 24)
    assert all(len(text) == 24 and not text[:1].isspace() for text in texts)

    def uniform(pairs, chance):
        def log_probs(contexts):
            row = np.full(pairs.tokenizer.vocab_size, 1.0)
            row[pairs.tokenizer.separator] = chance
            return np.tile(np.log(row / row.sum()), (len(contexts), 1))

        return pairs, log_probs

    by_name = {name: [uniform(pairs_of(0), chance) for chance in (256, 0.01)] for name in ("first", "second")}
    found = cuts_of(texts, 1, by_name, 0)
    # 64 bytes cannot follow ASCII; 256 of the first model's mass are the end's.
    alone, likely = np.log(192 + 256), -np.log((1 / (192 + 256) + 1 / 192.01) / 2)
    assert found["first"]["exact"] == pytest.approx([3 * alone] + [0] * (PLACES - 1))
    assert found["first + second"]["exact"][0] == pytest.approx(3 * alone)
    assert found["first, two seeds"]["exact"][0] == pytest.approx(3 * likely)
    assert found["first"]["saved"] == pytest.approx(np.log(512) - alone) and found["first"]["cuts"][0] == 3
