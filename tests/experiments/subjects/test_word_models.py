"""Windows of whole words, and what tokenizers of words give back."""

import numpy as np
import pytest

from experiments.subjects.turkish_words import Words, agreement, word_tokenizer
from experiments.subjects.word_models import word_windows
from lexinv.tokenization.less_is_better import LessIsBetter
from lexinv.tokenization.linguistic import Lexicon

PARTS = {"evler": ("ev", "ler"), "evde": ("ev", "de"), "göz": ("göz",), "gözler": ("göz", "ler")}
WORDS = Words(
    {"evler": 0.3, "evde": 0.1, "göz": 0.2, "gözler": 0.4},
    PARTS,
    frozenset(PARTS),
    Lexicon(frozenset(PARTS), frozenset({"ev", "göz", "ler", "de"})),
)


def test_windows_hold_whole_words_and_the_last_few_are_left_out():
    windows = word_windows([[1], [2, 3], [4, 5, 6], [7], [8]], 0, 2)
    assert windows.gather(np.arange(2)).tolist() == [[0, 1, 0, 2, 3, 0, -1, -1], [0, 4, 5, 6, 0, 7, 0, -1]]
    assert len(windows) == 2


@pytest.mark.parametrize(
    "name", ["bytes", "bpe:40", "wordpiece:70", "unigram:40", "lib:40", "root-suffix:36", "gold:36"]
)
def test_tokens_of_a_word_are_the_word(name):
    made = word_tokenizer(name, WORDS, list(PARTS), 0, LessIsBetter(documents=3, sentences=20))
    for word, parts in (PARTS | {"xyç": ("xyç",)}).items():
        assert b"".join(made.parts(parts)).decode() == word
        assert max(made.encode(parts)) < len(made.pieces) <= made.size
    if name.startswith(("root", "gold")):
        found = agreement(WORDS, made.parts)
        assert found["f1"] == found["precision"] == found["recall"] == pytest.approx(1)
        assert found["valid_types"] == 100 and found["tokens_per_word"] == pytest.approx(1.8)
