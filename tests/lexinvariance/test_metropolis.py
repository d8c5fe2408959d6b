"""The sampling decipherer against full recomputation, enumeration and the true key."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.markov_first_order import encipher, sample_tokens
from lexinv.lexinvariance.bayes import all_keys, key_accuracy
from lexinv.lexinvariance.metropolis import (
    count_text,
    key_log_likelihood,
    metropolis_decipher,
    start_chain,
    swap_delta,
)
from lexinv.precision import double_precision


def test_counts_are_those_of_the_prefix():
    counts = count_text(jnp.array([2, 0, 0, 1, 2]), 3, 4)
    np.testing.assert_array_equal(counts.first, [0, 0, 1])
    np.testing.assert_array_equal(counts.bigrams, [[1, 1, 0], [0, 0, 0], [1, 0, 0]])


def test_swap_delta_equals_full_recomputation(markov_source):
    with double_precision():
        source = markov_source(0, 7, 0.5)
        counts = count_text(sample_tokens(jax.random.key(1), source, 50), 7, 50, jnp.float64)
        key = jax.random.permutation(jax.random.key(2), jnp.arange(7, dtype=jnp.int32))
        swap, likelihood = jax.jit(swap_delta), jax.jit(key_log_likelihood)
        for pair in combinations(range(7), 2):
            swapped, delta = swap(source, counts, key, np.array(pair, np.int32))
            expected = np.array(key)
            expected[list(pair)] = expected[list(pair[::-1])]
            np.testing.assert_array_equal(swapped, expected)
            change = likelihood(source, counts, swapped) - likelihood(source, counts, key)
            assert delta == pytest.approx(float(change), abs=1e-10)
            assert abs(delta) > 1e-6


def test_chain_starts_at_the_frequency_ranks(markov_source):
    source = markov_source(3, 4, 1.0)
    counts = count_text(jnp.array([3, 3, 3, 1, 1, 1, 3, 0, 0, 2]), 4, 10)
    by_rank = np.argsort(-np.asarray(source.log_initial))
    np.testing.assert_array_equal(np.asarray(start_chain(source, counts).key)[[3, 1, 0, 2]], by_rank)


@pytest.mark.long
def test_finds_the_most_likely_of_all_keys(markov_source):
    source = markov_source(7, 6, 1.0)
    text = encipher_text(jax.random.key(8), source, 30)[0]
    counts = count_text(text, 6, 30)
    best = float(jax.vmap(partial(key_log_likelihood, source, counts))(all_keys(6)).max())
    found = metropolis_decipher(jax.random.key(9), source, text, proposals=1000, restarts=4)
    assert found.log_likelihood == pytest.approx(best, abs=1e-3)
    assert float(start_chain(source, counts).log_likelihood) < best - 0.1


@pytest.mark.long
def test_deciphers_an_alphabet_too_large_to_enumerate(markov_source):
    source = markov_source(10, 26, 0.3)
    text, key = encipher_text(jax.random.key(11), source, 500)
    counts = jnp.zeros(26).at[text].add(1)
    found = metropolis_decipher(jax.random.key(12), source, text, proposals=20_000)
    by_rank = start_chain(source, count_text(text, 26, 500))
    assert float(key_accuracy(found.key, key, counts).positions) > 0.99
    assert float(key_accuracy(by_rank.key, key, counts).positions) < 0.9


def encipher_text(rng, source, length):
    """A cipher text of the source and the key that reads it."""
    key_rng, text_rng = jax.random.split(rng)
    key = jax.random.permutation(key_rng, jnp.arange(source.log_initial.shape[0], dtype=jnp.int32))
    return sample_tokens(text_rng, encipher(source, key), length), key
