"""Branching factors: laws whose entropy is known, texts of unequal length, and words written as two tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.decoding.branching import (
    branching_factor,
    branching_per_unit,
    cumulative_branching,
    halved,
    local_branching,
)
from lexinv.nn.sampling import step_entropy
from lexinv.validation import InvalidConfig

ALL = jnp.ones((8, 60), bool)


@pytest.mark.parametrize("k", [1, 7])
def test_a_uniform_law_over_k_tokens_has_factor_k(k):
    nats = jnp.full(ALL.shape, np.log(k), jnp.float32)
    for estimator in ("entropy", "likelihood", "published"):
        np.testing.assert_allclose(branching_factor(nats, -nats, ALL, estimator), k, rtol=1e-5)
    np.testing.assert_allclose(local_branching(nats, ALL, 7), np.full(9, k), rtol=1e-5)


def test_both_estimators_find_the_entropy_rate_of_a_chain():
    chain = np.array([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.05, 0.05, 0.9]])
    values, vectors = np.linalg.eig(chain.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    of_row = -(chain * np.log(chain)).sum(axis=1)
    rng, texts, time = np.random.default_rng(0), 200, 80
    state, entropy, nats = rng.choice(3, texts, p=stationary), np.zeros((texts, time)), np.zeros((texts, time))
    for t in range(time):
        after = (rng.random((texts, 1)) > chain[state].cumsum(axis=1)).sum(axis=1)
        entropy[:, t], nats[:, t] = of_row[state], np.log(chain[state, after])
        state = after
    alive = jnp.ones((texts, time), bool)
    rates = {"entropy": entropy.mean(axis=1), "likelihood": -nats.mean(axis=1)}
    for estimator, rate in rates.items():
        found = np.log(
            branching_factor(jnp.asarray(entropy, jnp.float32), jnp.asarray(nats, jnp.float32), alive, estimator)
        )
        np.testing.assert_allclose(found, rate.mean(), rtol=1e-5)
        assert abs(found - stationary @ of_row) < 3 * rate.std() / np.sqrt(texts)
    assert rates["entropy"].var() < rates["likelihood"].var()


def test_the_published_rule_changes_its_estimator_after_fifty_tokens():
    entropy, log_probs = jnp.zeros((8, 60)), jnp.full((8, 60), -1.0)
    np.testing.assert_allclose(branching_factor(entropy[:, :50], log_probs[:, :50], ALL[:, :50]), 1.0)
    np.testing.assert_allclose(branching_factor(entropy, log_probs, ALL), np.e, rtol=1e-6)


def test_ended_texts_do_not_count_and_three_are_too_few():
    alive = np.ones((5, 4), bool)
    alive[:1, 1:] = False  # 5, 4, 4 and, since two end there, 2 texts
    alive[1:3, 3:] = False
    entropy = np.where(alive, np.arange(1.0, 6)[:, None], 99.0)
    means = [3.0, 3.5, 3.5]
    found = jax.jit(branching_factor, static_argnums=3)(
        jnp.asarray(entropy, jnp.float32), jnp.zeros((5, 4)), jnp.asarray(alive), "entropy"
    )
    np.testing.assert_allclose(np.log(found), np.mean(means), rtol=1e-6)
    curve = np.log(cumulative_branching(jnp.asarray(entropy, jnp.float32), jnp.asarray(alive)))
    np.testing.assert_allclose(curve, [3.0, 3.25, 10 / 3, 10 / 3], rtol=1e-6)
    local = local_branching(jnp.asarray(entropy, jnp.float32), jnp.asarray(alive), 3)
    assert np.isnan(local[1]) and np.isclose(np.log(local[0]), 10 / 3)


def test_a_word_written_as_two_tokens_has_the_root_of_the_factor():
    log_probs = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (3, 7)) * 2)
    every = jnp.tile(jnp.arange(7), (3, 1))
    entropies, chosen = halved(jnp.repeat(log_probs[:, None], 7, axis=1), every)
    np.testing.assert_allclose(chosen.sum(axis=-1), log_probs, rtol=1e-5)
    expected = jnp.sum(jnp.exp(log_probs)[..., None] * entropies, axis=1)
    np.testing.assert_allclose(expected.sum(axis=-1), step_entropy(log_probs), rtol=1e-5)
    alive, words = jnp.ones((3, 2), bool), jnp.tile(jnp.array([1, 0]), (3, 1))
    by_word, by_token = (
        branching_per_unit(expected, alive, words),
        branching_factor(expected, expected, alive, "entropy"),
    )
    np.testing.assert_allclose(by_token, np.sqrt(by_word), rtol=1e-5)


def test_what_has_no_factor_is_refused():
    nats = jnp.zeros((4, 5))
    alive = jnp.ones((4, 5), bool)
    with pytest.raises(InvalidConfig, match="alive at the start"):
        branching_factor(nats, nats, alive & False)
    with pytest.raises(InvalidConfig, match="window"):
        local_branching(nats, alive, 0)
