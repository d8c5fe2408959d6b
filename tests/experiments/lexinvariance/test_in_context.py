"""Items are spelled in characters of the tokenizer, other ones for every seed."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.lexinvariance.in_context import PRESETS, draw_tasks
from experiments.subjects.text import Text
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.data.windows import TokenStream, window_source
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]


def text(tokenizer: str) -> Text:
    loaded = load_tokenizer(tokenizer, Corpus("made up", "0", {}))
    windows = window_source(TokenStream(np.zeros(64, np.uint8), np.array([0, 64])), 32)
    return Text("made up", "0", loaded.vocab_size, windows, [], loaded)


@pytest.fixture(scope="module")
def drawn():
    """The LookUp items of two seeds, and those of the first one again."""
    return [np.asarray(draw_tasks(SMOKE, text("letters"), seed)["lookup 2"].tokens) for seed in (0, 0, 1)]


def test_items_are_spelled_with_the_tokenizers_characters(drawn):
    first = text("letters").tokenizer.decode(drawn[0][0])
    assert [first[at] for at in (1, 3, 5, 7, 9)] == [",", ".", ",", ".", ","]
    assert len(first) == 11 and first[10] in (first[2], first[6])


def test_seeds_have_items_of_their_own(drawn):
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_characters_that_the_tokenizer_folds_away_are_refused():
    config = replace(SMOKE, tasks=replace(SMOKE.tasks, arrow=">"))
    with pytest.raises(InvalidConfig, match=">"):
        draw_tasks(config, text("letters"), seed=0)
    assert draw_tasks(config, text("char"), seed=0)
