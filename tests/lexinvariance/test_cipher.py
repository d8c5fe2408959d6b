"""Keys against brute force, and against a text whose meaning is known."""

from itertools import permutations

import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.lexinvariance.cipher import (
    elect_key,
    elect_keys,
    encipher_windows,
    frequency_key,
    score_key,
    score_keys,
    vote_shares,
)

KEY = np.array([2, 0, 3, 1], np.int32)


def test_frequencies_are_matched_by_rank():
    found = frequency_key(jnp.array([1.0, 7.0, 3.0]), jnp.array([0.2, 0.3, 0.5]))
    np.testing.assert_array_equal(found, [0, 2, 1])


def test_votes_are_means_by_symbol():
    log_probs = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.25, 0.5, 0.25]]).astype(np.float32)
    votes = vote_shares(log_probs, np.array([2, 0, 2]))
    np.testing.assert_allclose(votes[2], (log_probs[0] + log_probs[2]) / 2, rtol=1e-6)
    np.testing.assert_allclose(votes[0], log_probs[1], rtol=1e-6)
    np.testing.assert_array_equal(votes[1], 0)


def test_the_elected_key_is_the_best_of_all():
    votes = np.random.default_rng(0).normal(size=(5, 5))
    best = max(permutations(range(5)), key=lambda key: votes[range(5), key].sum())
    np.testing.assert_array_equal(elect_key(votes), best)


def test_a_symbol_without_votes_takes_what_is_left():
    votes = np.where(np.eye(4, dtype=bool)[KEY], 0.0, -9.0)
    votes[1] = 0.0
    np.testing.assert_array_equal(elect_key(votes), KEY)


def test_score_weighs_by_position_and_by_symbol():
    found = np.array([2, 0, 1, 3], np.int32)  # right about symbols 0 and 1
    scored = score_key(found, KEY, np.array([0, 0, 0, 2]))
    assert scored == (0.75, 0.5)


def test_windows_are_enciphered_each_with_its_own_key():
    plain = np.random.default_rng(0).integers(0, 29, (6, 40)).astype(np.int32)
    made = encipher_windows(plain, 29, seed=0)
    for window, key, cipher in zip(*made[:2], made.cipher, strict=True):
        np.testing.assert_array_equal(key[cipher], window)
    assert len({tuple(key) for key in made.keys}) == len(plain)
    assert (encipher_windows(plain, 29, seed=1).keys != made.keys).any()


def test_votes_that_know_everything_elect_the_keys():
    plain = np.random.default_rng(0).integers(0, 5, (3, 60)).astype(np.int32)
    made = encipher_windows(plain, 5, seed=0)
    log_probs = np.log(np.where(np.eye(5, dtype=bool)[plain], 0.9, 0.025)).astype(np.float32)
    found = elect_keys(log_probs, made.cipher)
    assert score_keys(found, made.keys, made.cipher) == (1.0, 1.0)
    found[0] = np.roll(found[0], 1)
    assert score_keys(found, made.keys, made.cipher) == pytest.approx((2 / 3, 2 / 3))
