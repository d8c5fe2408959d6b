"""The particle filter over keys against enumeration of all keys, and what holds however few particles there are."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.automata import markov_automaton, read_text
from lexinv.data.markov_first_order import MarkovSource, sample_tokens
from lexinv.lexinvariance.bayes import bayes_decipher
from lexinv.lexinvariance.particles import FilterConfig, filter_keys, first_occurrence

MANY = FilterConfig(particles=3072, swaps=1, every=4, anneal_after=(8,), annealed=256, rungs=20)

FEW = FilterConfig(particles=12, swaps=1, every=8, anneal_after=(16,), annealed=4, rungs=3)


@pytest.fixture(scope="module")
def filtered(markov_source):
    """(source, text, what 16 independent filters believe of it): 6 symbols, 40 of them, of a source of middling entropy."""
    source = markov_source(5, 6, 0.5)
    text = np.asarray(sample_tokens(jax.random.key(1), source, 40))
    return source, text, filter_keys(jax.random.key(2), markov_automaton(source), np.tile(text, (16, 1)), MANY)


def test_predictions_are_those_of_enumeration(filtered):
    """Of every symbol that could come, at every position, in nats; by the mean over filters and the standard error that they show."""
    source, text, found = filtered
    exact = np.exp(bayes_decipher(source, jnp.asarray(text)).log_probs)
    probs = np.exp(found.log_probs)
    error = probs.std(axis=0, ddof=1) / np.sqrt(len(probs))
    assert error.max() < 5e-3
    np.testing.assert_array_less(abs(probs.mean(axis=0) - exact), 1e-3 + 5 * error)
    came = np.log(
        np.take_along_axis(probs.mean(axis=0), text[:, None], 1) / np.take_along_axis(exact, text[:, None], 1)
    )
    assert abs(came).mean() < 1e-2
    assert abs(exact[1:] - 1 / 6).max() > 0.5  # there is something to get wrong


def test_meanings_are_the_modes_of_enumeration(filtered):
    source, text, found = filtered
    posterior = np.asarray(bayes_decipher(source, jnp.asarray(text)).key_posterior)
    ahead = np.diff(np.sort(posterior, axis=2)[..., -2:], axis=2)[..., 0]
    seen = np.stack([np.isin(np.arange(6), text[: t + 1]) for t in range(len(text))])
    clear = seen & (ahead > 0.1)
    assert clear.sum() > 100
    for meaning in np.asarray(found.meaning):
        np.testing.assert_array_equal(meaning[clear], posterior.argmax(axis=2)[clear])
        assert (meaning[~seen] == -1).all()


def test_two_particles_are_right_on_average(markov_source):
    """The product of their predictions is an unbiased estimate of p'(x), whatever is resampled and swapped (but for annealing)."""
    source = markov_source(3, 4, 0.5)
    text = np.asarray(sample_tokens(jax.random.key(3), source, 8))
    config = FilterConfig(particles=2, swaps=1, every=2, anneal_after=(8,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = filter_keys(jax.random.key(4), markov_automaton(source), np.tile(text, (1000, 1)), config)
    estimates = np.exp(np.asarray(found.log_probs)[:, np.arange(8), text].sum(axis=1, dtype=np.float64))
    exact = np.exp(bayes_decipher(source, jnp.asarray(text)).log_probs[np.arange(8), text].sum())
    error = estimates.std() / np.sqrt(len(estimates))
    assert error < 0.1 * exact
    assert abs(estimates.mean() - exact) < 4 * error


def test_renaming_the_symbols_renames_the_predictions(filtered):
    source, text, found = filtered
    names = np.random.default_rng(0).permutation(6)
    renamed = filter_keys(jax.random.key(2), markov_automaton(source), np.tile(names[text], (16, 1)), MANY)
    np.testing.assert_array_equal(np.asarray(renamed.log_probs)[..., names], found.log_probs)
    np.testing.assert_array_equal(np.asarray(renamed.meaning)[..., names], found.meaning)


def test_few_particles_still_give_a_distribution(filtered):
    source, text, _ = filtered
    with pytest.warns(UserWarning, match="fewer than 8 particles counted at .* % of the positions"):
        found = filter_keys(jax.random.key(0), markov_automaton(source), text[None], FEW)
    np.testing.assert_allclose(jax.nn.logsumexp(found.log_probs, axis=-1), 0.0, atol=1e-5)


def test_symbols_are_placed_by_first_occurrence():
    np.testing.assert_array_equal(first_occurrence(np.array([3, 1, 3, 4, 1]), 6), [3, 1, 4, 0, 2, 5])


@pytest.mark.long
def test_deciphers_an_alphabet_too_large_to_enumerate(markov_source):
    """By the end; what it costs to get there is above ln(d!/(d-m)!), which only all keys attain."""
    source = markov_source(10, 20, 0.2)
    plain = np.asarray(jax.vmap(lambda key: sample_tokens(key, source, 160))(jax.random.split(jax.random.key(5), 4)))
    key = np.random.default_rng(1).permutation(20)
    cipher = np.argsort(key)[plain]
    found = filter_keys(jax.random.key(6), markov_automaton(source), cipher, FilterConfig(512, rungs=500))
    language = read_text(markov_automaton(source), jnp.asarray(plain))
    lost = language - np.take_along_axis(found.log_probs, cipher[..., None], 2)[..., 0]
    assert abs(lost[:, -32:]).mean() < 0.02
    read = np.take_along_axis(np.asarray(found.meaning)[:, -1], cipher, axis=1)
    assert (read == plain).mean() > 0.99


def test_a_flat_language_says_nothing_of_keys():
    """Swaps are all accepted, and keys an even number of them apart must not all have the same parity."""
    flat = markov_automaton(MarkovSource(jnp.full((3, 3), -jnp.log(3)), jnp.full(3, -jnp.log(3))))
    found = filter_keys(jax.random.key(0), flat, np.array([[0, 1, 2, 0]]), FilterConfig(600, 8, 1, (2,), 20, 8))
    np.testing.assert_allclose(found.log_probs, -np.log(3), atol=1e-5)
    np.testing.assert_allclose(found.effective, 600, rtol=1e-4)
