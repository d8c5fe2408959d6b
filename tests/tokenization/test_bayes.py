"""The Bayes predictor against ratios of marginal likelihoods, and its optimality by enumeration."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln

from lexinv.data.markov import random_kernel
from lexinv.data.markov_sampling import sample
from lexinv.tokenization.bayes import predictive_log_probs
from lexinv.validation import InvalidConfig


def log_marginal(sequence, order, symbols, alpha):
    """log of the integral of p(sequence | kernel) over Dirichlet rows, by Gamma functions."""
    counts = np.zeros((symbols,) * (order + 1))
    for t in range(order, len(sequence)):
        counts[tuple(sequence[t - order : t + 1])] += 1
    counts = counts.reshape(-1, symbols)
    rows = gammaln(symbols * alpha) - gammaln(symbols * alpha + counts.sum(axis=1))
    rows += (gammaln(alpha + counts) - gammaln(alpha)).sum(axis=1)
    return rows.sum() - min(order, len(sequence)) * np.log(symbols)


@pytest.mark.parametrize("order, symbols, alpha", [(0, 2, 1.0), (1, 2, 1.0), (2, 2, 0.5), (1, 3, 2.0), (2, 3, 1.0)])
def test_predictions_are_ratios_of_marginal_likelihoods(order, symbols, alpha):
    tokens = np.random.default_rng(0).integers(symbols, size=(2, 20))
    found = predictive_log_probs(jnp.asarray(tokens), order, symbols, alpha)
    for row, sequence in enumerate(tokens.tolist()):
        for t in range(len(sequence)):
            past = log_marginal(sequence[:t], order, symbols, alpha)
            want = [log_marginal([*sequence[:t], a], order, symbols, alpha) - past for a in range(symbols)]
            np.testing.assert_allclose(found[row, t], want, atol=1e-5)


def test_no_predictor_is_better_on_average_at_any_position():
    """By enumeration of all sequences, weighted by their probability when the kernel is drawn from the prior."""
    sequences = np.array(list(product(range(2), repeat=8)))
    weights = np.exp([log_marginal(sequence, 1, 2, 1.0) for sequence in sequences.tolist()])
    assert weights.sum() == pytest.approx(1.0)

    def losses(order, alpha):
        log_probs = np.asarray(predictive_log_probs(jnp.asarray(sequences), order, 2, alpha))
        return weights @ -np.take_along_axis(log_probs, sequences[..., None], axis=2)[..., 0]

    best = losses(1, 1.0)
    for order, alpha in ((0, 1.0), (1, 0.5), (1, 3.0), (2, 1.0)):
        worse = losses(order, alpha) - best
        assert worse.min() > -1e-6
        assert worse[-1] > 1e-3, (order, alpha)


def test_the_prior_is_the_law_of_random_kernels():
    def draw(key):
        kernel_key, sample_key = jax.random.split(key)
        return sample(sample_key, random_kernel(kernel_key, 1, 2), jnp.full(2, 0.5), 5)

    drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 40_000)))
    counts = np.bincount(drawn @ 2 ** np.arange(4, -1, -1), minlength=32)
    expected = np.exp([log_marginal(sequence, 1, 2, 1.0) for sequence in product(range(2), repeat=5)])
    deviation = (counts - 40_000 * expected) / np.sqrt(40_000 * expected * (1 - expected))
    assert np.abs(deviation).max() < 4.5


@pytest.mark.parametrize(
    "tokens, field", [([[0, 1], [1, 2]], "tokens[1, 1]"), ([[0, -1]], "tokens[0, 1]"), ([[]], "tokens")]
)
def test_other_symbols_are_refused(tokens, field):
    with pytest.raises(InvalidConfig) as error:
        predictive_log_probs(jnp.array(tokens, jnp.int32), 0, 2)
    assert error.value.field == field


@pytest.mark.parametrize(
    "field, arguments",
    [("order", (-1, 2)), ("order", (13, 2)), ("order", (11, 2)), ("symbols", (1, 1)), ("alpha", (1, 2, 0.0))],
)
def test_impossible_sources_are_refused(field, arguments):
    with pytest.raises(InvalidConfig) as error:
        predictive_log_probs(jnp.zeros((1, 10), jnp.int32), *arguments)
    assert error.value.field == field
