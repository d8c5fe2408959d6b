"""Every way to fill new rows through what holds for all of them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.transfer.methods import METHODS, Given, transplanted, transplanted_tables
from lexinv.transfer.vocabularies import match, segmenter, surface_forms
from lexinv.validation import InvalidConfig

CORPUS = Corpus("test", "0123456789abcdef", {"train": [str.__doc__ + dict.__doc__ + slice.__doc__], "validation": [""]})
WIDTH, DONOR = 12, 8


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The last new token is spelled by one of the source alone, which an identical donor has, too."""
    cache = tmp_path_factory.mktemp("cache")
    source, target = (load_tokenizer(name, CORPUS, cache) for name in ("bpe:262", "bpe:290"))
    found, random = match(source, target), np.random.default_rng(0)
    pieces = [target.pieces[number] for number in found.new]
    forms = surface_forms(pieces, segmenter(source), 16)
    shares = source.token_bytes[forms.ids] * forms.mask / np.array([[len(piece)] for piece in pieces])
    vectors = [random.normal(size=(count, 6)) for count in (len(pieces), source.vocab_size)]
    unit = tuple((each / np.linalg.norm(each, axis=1, keepdims=True)).astype(np.float32) for each in vectors)
    donor = random.normal(size=(target.vocab_size, DONOR)).astype(np.float32)
    return Given(found, forms, shares.astype(np.float32), unit, donor)


@pytest.fixture(scope="module")
def table():
    return jax.random.normal(jax.random.key(0), (262, WIDTH))


@pytest.mark.parametrize("method", METHODS)
def test_shared_rows_are_copied_and_new_ones_finite(method, given, table):
    for setting in METHODS[method].tried[::5] or (0.0,):
        found = np.asarray(transplanted(method, given, table, setting))
        assert found.shape == (290, WIDTH) and np.isfinite(found).all()
        np.testing.assert_array_equal(found[given.match.shared[:, 1]], np.asarray(table)[given.match.shared[:, 0]])
    if not METHODS[method].needs.startswith("donor") and method not in ("zero", "drawn"):
        assert np.abs(found[given.match.new]).max() < np.abs(table).max()  # means do not leave the table's range


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.needs != "nothing"])
def test_what_a_method_needs_is_asked_for(method, given, table):
    with pytest.raises(InvalidConfig, match=METHODS[method].needs):
        transplanted(method, Given(given.match, given.forms, given.shares), table, (*METHODS[method].tried, 0.0)[0])
    with pytest.raises(InvalidConfig, match=r"method = 'omp' .*pursuit"):
        transplanted("omp", given, table)


def test_a_donor_that_is_the_model_itself_gives_its_own_rows_back(given):
    """Then ridge is the identity, and pursuit with as many atoms as the width spans every row."""
    own = jax.random.normal(jax.random.key(1), (290, DONOR))
    base = np.zeros((262, DONOR), np.float32)
    base[given.match.shared[:, 0]] = np.asarray(own)[given.match.shared[:, 1]]
    same = Given(given.match, given.forms, given.shares, None, np.asarray(own))
    for method, setting in (("ridge", 1e-6), ("pursuit", DONOR)):
        np.testing.assert_allclose(transplanted(method, same, jnp.asarray(base), setting), own, atol=2e-3)


def test_input_and_output_tables_are_filled_apart(given, table):
    """Each by its own method and donor; a tied model has no second table to fill."""
    params = {"model": {}, "table": table, "output_table": -table}
    found = transplanted_tables("pieces", given, params, output="zero")
    np.testing.assert_array_equal(found["table"], transplanted("pieces", given, table))
    np.testing.assert_array_equal(found["output_table"], -transplanted("zero", given, table))
    both = transplanted_tables("ridge", replace(given, output_donor=-given.donor), params, 0.1)
    np.testing.assert_allclose(both["output_table"], -both["table"], atol=1e-5)
    with pytest.raises(InvalidConfig, match="donor"):
        transplanted_tables("ridge", given, params, 0.1)
    tied = {"table": table}
    assert transplanted_tables("pieces", given, tied).keys() == {"table"}
    with pytest.raises(InvalidConfig, match=r"output = 'zero' .*tied"):
        transplanted_tables("pieces", given, tied, output="zero")
