"""Synthetic activations have the frequencies, difficulties and structure that their configuration says."""

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, probabilities, sample_tokens


def drawn(config: SyntheticConfig, tokens: int = 20_000):
    dictionary = make_dictionary(config, jax.random.key(0))
    return dictionary, sample_tokens(config, dictionary, tokens, jax.random.key(1))


def test_frequencies_follow_zipf_and_difficulty():
    config = SyntheticConfig(width=16, features=40, l0=2.0)
    _, tokens = drawn(config)
    present = np.asarray(tokens.codes) > 0
    p = np.asarray(probabilities(config))
    assert p[0] / p[9] == pytest.approx(10**0.9, rel=1e-4)
    # p is a mean over hard and easy tokens, so that its own deviation is a little larger than the binomial one
    assert (np.abs(present.mean(axis=0) - p) < 5 * np.sqrt(p / 20_000)).all()
    hard = np.asarray(tokens.difficulty) > 1
    assert present[hard].sum() / present[~hard].sum() * (~hard).sum() / hard.sum() == pytest.approx(
        1.65 / 0.35, rel=0.05
    )


def test_activations_are_codes_times_dictionary():
    config = SyntheticConfig(width=8, features=20, offset=1.5)
    dictionary, tokens = drawn(config, 100)
    np.testing.assert_allclose(tokens.activations, np.asarray(tokens.codes) @ np.asarray(dictionary) + 1.5, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=1), 1.0, rtol=1e-5)
    codes = np.asarray(tokens.codes)
    assert codes[codes > 0].min() >= 1.0


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_children_come_with_their_parents(correlation):
    config = SyntheticConfig(width=8, features=20, l0=4.0, parents=3, correlation=correlation)
    _, tokens = drawn(config)
    present = np.asarray(tokens.codes) > 0
    for child, parent in ((17, 0), (18, 1), (19, 2)):
        assert present[:, child].any() and not (present[:, child] & ~present[:, parent]).any()


@pytest.fixture(scope="module")
def correlated():
    config = SyntheticConfig(width=4, features=10, l0=3.0, difficulty=0.0, correlation=0.6, group=4)
    return config, drawn(config, 100_000)[1]


def test_correlated_features_keep_their_probabilities_and_come_together(correlated):
    """How often two of a group are there at once is the bivariate normal's; features of two groups are independent."""
    config, tokens = correlated
    n, rho = 100_000, config.correlation
    present, p = np.asarray(tokens.codes) > 0, np.asarray(probabilities(config), np.float64)
    assert (np.abs(present.mean(axis=0) - p) < 5 * np.sqrt(p / n)).all()
    normal = multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    for i, j in ((0, 1), (1, 3), (4, 7), (8, 9), (3, 4), (0, 9), (7, 8)):
        grouped = i // 4 == j // 4
        expected = normal.cdf(norm.ppf([p[i], p[j]])) if grouped else p[i] * p[j]
        found = (present[:, i] & present[:, j]).mean()
        assert found == pytest.approx(expected, abs=5 * np.sqrt(expected / n))
        assert not grouped or found > p[i] * p[j] + 5 * np.sqrt(expected / n)


def test_without_correlation_the_draws_are_those_of_the_records():
    """The committed records of `experiments/sae` were made with these."""
    config = SyntheticConfig(width=2, features=6, l0=2.0)
    _, tokens = drawn(config, 5)
    assert [np.flatnonzero(code).tolist() for code in np.asarray(tokens.codes)] == [
        [],
        [0, 1, 2],
        [],
        [0, 1, 2, 3, 5],
        [0, 2],
    ]
    np.testing.assert_array_equal(
        tokens.codes, drawn(SyntheticConfig(width=2, features=6, l0=2.0, group=2), 5)[1].codes
    )
