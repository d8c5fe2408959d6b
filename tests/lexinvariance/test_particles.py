"""The particle filter over keys against enumeration of all keys, and what holds however few particles there are."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.automata import markov_automaton, read_text
from lexinv.data.markov_first_order import MarkovSource, sample_tokens
from lexinv.lexinvariance import particles
from lexinv.lexinvariance.bayes import bayes_decipher
from lexinv.lexinvariance.particles import FilterConfig, filter_keys, first_occurrence

MANY = FilterConfig(particles=360)
"""Half of the keys of six symbols."""
ALL = FilterConfig(particles=2160, every=16, restarts=1)
"""As many as three populations of them."""
FEW = FilterConfig(particles=4, restarts=1)


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


@pytest.mark.filterwarnings("ignore:the particles are lost")
@pytest.mark.parametrize("surprise", [np.inf, -1.0], ids=["at once", "restarted from other places"])
def test_all_keys_are_exact(markov_source, monkeypatch, surprise):
    """Where there are particles for all keys nothing is left to chance; nor is it if populations that read in another order join them."""
    monkeypatch.setattr(particles, "SURPRISE", surprise)
    source = markov_source(5, 6, 0.5)
    text = np.asarray(sample_tokens(jax.random.key(1), source, 40))
    jax.clear_caches()  # the constant is no argument
    found = filter_keys(jax.random.key(2), markov_automaton(source), text[None], ALL)
    exact = bayes_decipher(source, jnp.asarray(text))
    np.testing.assert_allclose(np.exp(found.log_probs[0]), np.exp(exact.log_probs), atol=1e-5)
    present = exact.key_posterior[np.arange(40), text]
    np.testing.assert_allclose(found.posterior[0], present, atol=1e-5)


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
    """The product of their predictions is an unbiased estimate of p'(x), whichever branches are kept."""
    source = markov_source(3, 4, 0.5)
    text = np.asarray(sample_tokens(jax.random.key(3), source, 8))
    config = FilterConfig(particles=2, restarts=0)
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


def test_few_particles_lost_in_noise_still_give_a_distribution(filtered):
    """A text that the language did not write surprises them on and on."""
    noise = np.random.default_rng(0).integers(6, size=(1, 40))
    with pytest.warns(UserWarning, match="the particles are lost at the end of 1 of 1 texts"):
        found = filter_keys(jax.random.key(0), markov_automaton(filtered[0]), noise, FEW)
    np.testing.assert_allclose(jax.nn.logsumexp(found.log_probs, axis=-1), 0.0, atol=1e-5)
    assert found.lost[0, -1]


def test_symbols_are_placed_by_first_occurrence():
    np.testing.assert_array_equal(first_occurrence(np.array([3, 1, 3, 4, 1]), 6), [3, 1, 4, 0, 2, 5])


@pytest.mark.long
def test_deciphers_an_alphabet_too_large_to_enumerate(markov_source):
    """By the end; what it costs to get there is above ln(d!/(d-m)!), which only all keys attain.

    With the fewer restarts of the default one of these four texts stays lost, and is said to be.
    """
    source = markov_source(10, 20, 0.2)
    plain = np.asarray(jax.vmap(lambda key: sample_tokens(key, source, 160))(jax.random.split(jax.random.key(5), 4)))
    key = np.random.default_rng(1).permutation(20)
    cipher = np.argsort(key)[plain]
    found = filter_keys(jax.random.key(6), markov_automaton(source), cipher, FilterConfig(every=4, restarts=8))
    language = read_text(markov_automaton(source), jnp.asarray(plain))
    lost = language - np.take_along_axis(found.log_probs, cipher[..., None], 2)[..., 0]
    assert abs(lost[:, -32:]).mean() < 0.02
    read = np.take_along_axis(np.asarray(found.meaning)[:, -1], cipher, axis=1)
    assert (read == plain).mean() > 0.99


def test_a_flat_language_says_nothing_of_keys():
    """Every branch counts alike."""
    flat = markov_automaton(MarkovSource(jnp.full((3, 3), -jnp.log(3)), jnp.full(3, -jnp.log(3))))
    found = filter_keys(jax.random.key(0), flat, np.array([[0, 1, 2, 0]]), FilterConfig(6))
    np.testing.assert_allclose(found.log_probs, -np.log(3), atol=1e-5)
    np.testing.assert_allclose(found.effective, [[3, 6, 6, 6]], rtol=1e-4)
