"""What a next word is given: by exact bytes, by a closed vocabulary, and where a unit holds the space after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.subjects.text import STANDARD
from experiments.subjects.unit_models import ClosedVocabulary, UnitModels
from experiments.subjects.word_scores import Case, _exact_score, answers, reader, score
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.nn.language_model import initialize, make_logits
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.byte_pairs import BytePairs
from lexinv.tokenization.context_tree import tree_log_probs
from lexinv.tokenization.superbpe import LINES
from lexinv.training.optimizers import OptimizerConfig

MODEL = TransformerConfig(depth=1, width=16, heads=2, mlp_width=32, output="tied", max_length=64)
CASE = Case(b" a b cd ", 4, 7)
"""The word is " cd"."""


def models_of(units):
    params = initialize(MODEL, STANDARD, len(units.pieces), jax.random.key(0))
    return UnitModels(units, MODEL, 8, 1.0, 1.0, 0.0, [params], OptimizerConfig(), {})


def chances(models, ids):
    logits = make_logits(MODEL, STANDARD, len(models.units.pieces))
    batch = {"tokens": jnp.array([ids]), "row": jnp.arange(1)}
    found = logits(models.params[0], batch, jax.random.key(0))
    return np.asarray(jax.nn.softmax(found))[0].astype(np.float64)


def test_exact_bytes_are_the_models_own_where_its_tokens_are_bytes():
    """But for bytes that no text goes on with, which have no mass."""
    tokenizer = load_tokenizer("byte", Corpus("none", "0", {}))
    models = models_of(tokenizer)
    table = chances(models, list(CASE.text))
    table[:, 0x80:0xC0] = 0
    table /= table.sum(axis=1, keepdims=True)
    expected = (
        np.prod([table[place, CASE.text[place]] for place in range(4, 7)]) * table[7, [32, 10, 9, 255, 256]].sum()
    )
    rows = tree_log_probs(MODEL, models.params[0], 257, 64)
    found, likeliest = _exact_score(BytePairs(tokenizer, LINES), CASE, rows)
    assert found == pytest.approx(expected, rel=1e-5) and not likeliest
    read = reader(models)
    assert len(answers(models, models.params[0], read, 1)([CASE, CASE])) == 2


def test_a_closed_vocabulary_gives_a_word_its_row_and_unknown_ones_nothing():
    units = ClosedVocabulary("unicode", 12, (b" a", b" b", b" cd", b" ", b"x", b""))
    models, (ids, sizes) = models_of(units), units.encode(b" a b zz cd ")
    assert ids.tolist() == [0, 1, 5, 2, 3] and sizes.tolist() == [2, 2, 3, 3, 1]
    table = chances(models, [0, 1, 2, 3])
    symbols = reader(models)(models.params[0], [CASE.text, b" a b zz "])
    found, _ = score(symbols[0], CASE)
    assert found == pytest.approx(table[2, 2] * (1 - table[3, 4]), rel=1e-5)  # all but "x" may be a space's beginning
    assert score(symbols[1], Case(b" a b zz ", 4, 7)) == (0.0, False)


def test_a_unit_that_holds_the_space_after_a_word_holds_its_end():
    models = models_of(ClosedVocabulary("whitespace", 12, (b" ", b"a ", b"b ", b"cd ", b"")))
    table = chances(models, [0, 1, 2, 3])
    found, _ = score(reader(models)(models.params[0], [CASE.text])[0], CASE)
    assert found == pytest.approx(table[3, 3], rel=1e-5)
