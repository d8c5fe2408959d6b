"""Absorption by hand: parent along the first axis, child along the second."""

import jax
import numpy as np
import pytest

from lexinv.sae.absorption import absorption, hierarchy
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens

DICTIONARY, OBLIQUE = np.eye(3)[:2], np.array([[1, 0, 0], [0.8, 0.6, 0]])
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
    "decoder, dictionary, codes, silent",
    [
        # the true dictionary and codes: the parent's latent fires
        (DICTIONARY, DICTIONARY, TRUTH, [0, 0]),
        # the parent's latent misses token 3, but the child's says nothing of the parent
        (DICTIONARY, DICTIONARY, TRUTH * [[1, 1], [1, 1], [1, 1], [0, 1], [1, 1]], [0, 1]),
        # the child's latent carries the parent and is silent itself where the parent's is
        ([[1, 0, 0], [0.7, 0.7, 0]], DICTIONARY, TRUTH * [[0, 1], [1, 1], [1, 1], [0, 0], [1, 1]], [1, 1]),
        # the child's latent points away from the parent
        ([[1, 0, 0], [-0.5, 0.8, 0]], DICTIONARY, TRUTH * [[1, 1], [1, 1], [0, 9], [0, 9], [1, 1]], [0, 2]),
        # the child's true direction has cosine 0.8 to the parent's: a latent along it carries nothing of the parent
        (OBLIQUE, OBLIQUE, TRUTH * [[1, 1], [1, 1], [0, 10], [0, 10], [1, 1]], [0, 2]),
    ],
)
def test_what_is_not_absorption(decoder, dictionary, codes, silent):
    found = absorption(np.array(decoder), dictionary, codes.astype(float), TRUTH, [(0, 1)])
    assert found.absorbed[0] == 0 and [found.silent_alone[0], found.silent_with_child[0]] == silent


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
