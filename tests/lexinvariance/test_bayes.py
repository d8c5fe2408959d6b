"""The exact decipherer against brute force, its bounds on sequences of any kind, its invariances."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.markov_first_order import (
    MarkovSource,
    dirichlet_source,
    encipher,
    predictions,
    sample_tokens,
    stationary_distribution,
)
from lexinv.lexinvariance.bayes import all_keys, bayes_decipher, key_accuracy, l1_bound, regret_bound
from lexinv.precision import double_precision


@pytest.fixture(autouse=True)
def float64():
    with double_precision():
        yield


def log_likelihood(source: MarkovSource, tokens) -> np.ndarray:
    """ln p(tokens) by the definition, in NumPy."""
    transition, initial = np.asarray(source.log_transition), np.asarray(source.log_initial)
    return initial[tokens[..., 0]] + transition[tokens[..., :-1], tokens[..., 1:]].sum(-1)


def brute_force_log_probability(source: MarkovSource, tokens: np.ndarray) -> float:
    """ln (1/d!) Σ_π p(πx), in NumPy."""
    keys = np.array(list(permutations(range(len(source.log_initial)))))
    return float(np.log(np.mean([np.exp(log_likelihood(source, key[tokens])) for key in keys])))


def chosen(log_probs, tokens) -> np.ndarray:
    """The entries of log_probs [..., time, vocab] that belong to the tokens [..., time]."""
    return np.take_along_axis(np.asarray(log_probs), np.asarray(tokens)[..., None], -1)[..., 0]


def test_equals_brute_force_over_all_texts(markov_source):
    source = markov_source(0, 3, 0.5)
    texts = np.stack(np.meshgrid(*[np.arange(3, dtype=np.int32)] * 5, indexing="ij"), -1).reshape(-1, 5)
    log_probs = chosen(jax.vmap(bayes_decipher, (None, 0))(source, texts).log_probs, texts).sum(-1)
    assert log_probs.dtype == np.float64
    expected = [brute_force_log_probability(source, text) for text in texts]
    np.testing.assert_allclose(np.exp(log_probs), np.exp(expected), rtol=1e-12)
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-12)  # p' is a distribution over texts


def test_key_posterior_equals_brute_force(markov_source):
    source = markov_source(1, 4, 0.5)
    text = sample_tokens(jax.random.key(2), source, 6)
    posterior = bayes_decipher(source, text).key_posterior
    keys = np.array(list(permutations(range(4))))
    for length in range(1, 7):
        weights = np.exp([log_likelihood(source, key[np.asarray(text[:length])]) for key in keys])
        expected = [
            [weights[keys[:, cipher] == plain].sum() / weights.sum() for plain in range(4)] for cipher in range(4)
        ]
        np.testing.assert_allclose(posterior[length - 1], expected, atol=1e-12)


def adversarial_texts(rng: np.random.Generator, vocab: int, length: int, count: int) -> np.ndarray:
    """Texts that no source has produced: constant, uniform over 1 to all symbols, cycles, one change late."""
    texts = rng.integers(0, rng.integers(1, vocab + 1, (count, 1)), (count, length))
    texts[::7] = rng.integers(0, vocab, (len(texts[::7]), 1))
    texts[1::7] = np.arange(length) % rng.integers(1, vocab + 1, (len(texts[1::7]), 1))
    texts[2::7, : length - 1] = 0
    return rng.permuted(np.tile(np.arange(vocab), (count, 1)), axis=1)[np.arange(count)[:, None], texts].astype(
        np.int32
    )


@pytest.mark.parametrize("vocab, concentration", [(3, 0.1), (4, 0.3), (5, 1.0)])
def test_regret_on_any_text_against_any_key(markov_source, vocab, concentration):
    """1000 texts a source, half of them adversarial: p' never loses more than ln(d!/(d-m)!) to p under the best of all keys."""
    source = markov_source(8, vocab, concentration)
    drawn = jax.vmap(sample_tokens, (0, None, None))(jax.random.split(jax.random.key(9), 500), source, 48)
    texts = np.concatenate([drawn, adversarial_texts(np.random.default_rng(0), vocab, 48, 500)])
    ours = chosen(jax.vmap(bayes_decipher, (None, 0))(source, texts).log_probs, texts).sum(-1)
    best = np.max([log_likelihood(source, key[texts]) for key in all_keys(vocab)], axis=0)
    symbols = np.array([len(set(text)) for text in texts])
    assert set(symbols) == set(range(1, vocab + 1))
    regret, bound = best - ours, regret_bound(vocab, symbols)
    assert np.all(regret <= bound + 1e-9)
    assert np.all(regret >= -1e-9)
    # Attained, so that a bound smaller by any constant would have failed.
    assert np.max(regret - bound) > -1e-3


def test_regret_is_all_of_the_bound_on_a_deterministic_cycle():
    """After the first symbol's ln d nothing is left to chance but which symbol comes next: ln 3 + ln 2 more until the key is known."""
    transition = np.full((4, 4), 1e-12)
    transition[np.arange(4), [1, 2, 3, 0]] = 1 - 3e-12
    source = MarkovSource(jnp.log(transition), jnp.log(jnp.full(4, 0.25)))
    text = jnp.arange(8) % 4
    regret = np.cumsum(chosen(predictions(source, text), text) - chosen(bayes_decipher(source, text).log_probs, text))
    np.testing.assert_allclose(regret, np.log([1, 3, 6, 6, 6, 6, 6, 6]), atol=1e-6)


def test_bounds():
    assert regret_bound(4, 4) == pytest.approx(np.log(24))
    np.testing.assert_allclose(regret_bound(5, np.array([0, 1, 2])), np.log([1, 5, 20]))
    assert l1_bound(4, 8) == pytest.approx(np.sqrt(np.log(24) / 4))


def test_source_is_stationary_and_sampled_by_its_own_law():
    source = jax.jit(dirichlet_source, static_argnums=1)(jax.random.key(14), 4, 0.5)
    transition, initial = np.exp(source.log_transition), np.exp(source.log_initial)
    np.testing.assert_allclose(transition.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(initial @ transition, initial, atol=1e-12)
    np.testing.assert_allclose(stationary_distribution(jnp.asarray([[0.9, 0.1], [0.3, 0.7]])), [0.75, 0.25], atol=1e-12)
    text = np.asarray(sample_tokens(jax.random.key(15), source, 20_000))
    np.testing.assert_allclose(np.bincount(text, minlength=4) / len(text), initial, atol=0.03)
    observed = np.zeros((4, 4))
    np.add.at(observed, (text[:-1], text[1:]), 1)
    np.testing.assert_allclose(observed / observed.sum(1, keepdims=True), transition, atol=0.03)


@pytest.mark.parametrize("concentration", [0.3, 3.0])
def test_rows_are_dirichlet(concentration):
    """E p² of a symmetric Dirichlet coordinate is (a + 1) / (d (d a + 1))."""
    draw = jax.jit(jax.vmap(lambda rng, a: dirichlet_source(rng, 4, a), (0, None)))
    transition = np.exp(draw(jax.random.split(jax.random.key(17), 1000), concentration).log_transition)
    expected = (concentration + 1) / (4 * (4 * concentration + 1))
    assert np.mean(transition**2) == pytest.approx(expected, rel=0.03)


def test_enciphered_source_is_the_law_of_cipher_texts(markov_source):
    source = markov_source(16, 4, 0.5)
    key = jnp.array([2, 0, 3, 1], jnp.int32)
    cipher_text = np.array([0, 3, 3, 1, 2, 0])
    assert log_likelihood(encipher(source, key), cipher_text) == pytest.approx(log_likelihood(source, key[cipher_text]))


def test_key_accuracy_counts_only_symbols_that_occur():
    accuracy = key_accuracy(jnp.array([0, 1, 3, 2]), jnp.array([0, 1, 2, 3]), jnp.array([6.0, 1.0, 3.0, 0.0]))
    assert accuracy.positions == pytest.approx(0.7)
    assert accuracy.symbols == pytest.approx(2 / 3)
