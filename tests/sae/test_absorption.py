"""Absorption by hand: parent along the first axis, child along the second."""

import jax
import numpy as np
import pytest

from lexinv.sae.absorption import absorption, hierarchy
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens
from lexinv.validation import InvalidConfig

DICTIONARY = np.eye(3)[:2]
TRUTH = np.array([[1, 0], [2, 0], [1, 1], [2, 1], [0, 0]], float)
"""Parent alone twice, both twice, nothing once."""


def test_an_autoencoder_that_absorbs():
    """The child's latent is (parent + child) / sqrt 2: at z = sqrt 2 it carries 1, all of the parent at token 2 and half of it at 3."""
    decoder = np.array([[1, 0, 0], [1, 1, 0]]) / np.array([[1], [np.sqrt(2)]])
    codes = np.array([[1, 0], [2, 0], [0, np.sqrt(2)], [0, np.sqrt(2)], [0, 0]])
    found = absorption(decoder, DICTIONARY, codes, TRUTH, [(0, 1)], share=0.49)
    assert [int(counts[0]) for counts in found] == [0, 1, 4, 2, 0, 2, 2]
    assert found.rates() == {
        "absorbed": 0.5,
        "absorbed_with_child": 1.0,
        "silent_alone": 0.0,
        "silent_with_child": 1.0,
    }
    assert absorption(decoder, DICTIONARY, codes, TRUTH, [(0, 1)], share=0.51).absorbed[0] == 1


@pytest.mark.parametrize(
    "decoder, codes, silent",
    [
        # the true dictionary and codes: the parent's latent fires
        (DICTIONARY, TRUTH, [0, 0]),
        # the parent's latent misses token 3, but the child's says nothing of the parent
        (DICTIONARY, TRUTH * [[1, 1], [1, 1], [1, 1], [0, 1], [1, 1]], [0, 1]),
        # the child's latent carries the parent and is silent itself where the parent's is
        (np.array([[1, 0, 0], [0.7, 0.7, 0]]), TRUTH * [[0, 1], [1, 1], [1, 1], [0, 0], [1, 1]], [1, 1]),
        # the child's latent points away from the parent
        (np.array([[1, 0, 0], [-0.5, 0.8, 0]]), TRUTH * [[1, 1], [1, 1], [0, 9], [0, 9], [1, 1]], [0, 2]),
    ],
)
def test_what_is_not_absorption(decoder, codes, silent):
    found = absorption(decoder, DICTIONARY, codes.astype(float), TRUTH, [(0, 1)])
    assert found.absorbed[0] == 0 and [found.silent_alone[0], found.silent_with_child[0]] == silent


def test_directions_that_are_not_orthogonal_do_not_count():
    """The child's true direction has cosine 0.8 to the parent's: a latent along it carries nothing of the parent."""
    dictionary = np.array([[1, 0, 0], [0.8, 0.6, 0]])
    codes = TRUTH * [[1, 1], [1, 1], [0, 10], [0, 10], [1, 1]]
    found = absorption(dictionary, dictionary, codes, TRUTH, [(0, 1)])
    assert found.silent_with_child[0] == 2 and found.absorbed[0] == 0


def test_dead_latents_are_no_main_latents():
    decoder = np.array([[1, 0, 0], [0.9, 0, 0.1], [0, 1, 0]])
    codes = np.insert(TRUTH, 0, 0.0, axis=1)
    found = absorption(decoder, DICTIONARY, codes, TRUTH, [(0, 1)])
    assert (found.parent_latent[0], found.child_latent[0], found.silent_alone[0]) == (1, 2, 0)


def test_the_truth_absorbs_nothing():
    config = SyntheticConfig(width=12, features=20, l0=4.0, parents=3)
    assert hierarchy(config) == [(0, 17), (1, 18), (2, 19)]
    dictionary = make_dictionary(config, jax.random.key(0))
    codes = np.asarray(sample_tokens(config, dictionary, 2000, jax.random.key(1)).codes)
    decoder = np.asarray(dictionary)
    found = absorption(decoder, decoder, codes, codes, hierarchy(config))
    np.testing.assert_array_equal(found.parent_latent, [0, 1, 2])
    np.testing.assert_array_equal(found.child_latent, [17, 18, 19])
    assert (found.with_child > 0).all() and sum(found.rates().values()) == 0.0

    # the same data told by latents that absorb: child's rows are parent + child, the parent's latents silent there
    absorbing, told = decoder.copy(), codes.copy()
    for parent, child in hierarchy(config):
        absorbing[child] += decoder[parent]
        told[:, parent] *= codes[:, child] == 0
    rates = absorption(absorbing, decoder, told, codes, hierarchy(config)).rates()
    assert rates["silent_with_child"] == 1.0 and rates["silent_alone"] == 0.0 and rates["absorbed_with_child"] > 0.99


@pytest.mark.parametrize(
    "pairs, dictionary, message",
    [([], DICTIONARY, "at least one"), ([(0, 2)], DICTIONARY, "0 to 1"), ([(0, 1)], np.ones((2, 3)), "parallel")],
)
def test_bad_input_is_named(pairs, dictionary, message):
    with pytest.raises(InvalidConfig, match=message):
        absorption(np.eye(3), dictionary, np.ones((5, 3)), TRUTH, pairs)
