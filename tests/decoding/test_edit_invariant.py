"""EISL and the policy gradient: brute force over all texts, cross-entropy as a special case, bounds, shifts, padding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.decoding.edit_invariant import FLOOR, edit_invariant_loss, ngram_scores
from lexinv.decoding.ngram_overlap import ngram_f1
from lexinv.decoding.policy_gradient import overlap_reward, policy_gradient_loss
from lexinv.validation import InvalidConfig

V, T, S = 3, 4, 3
LOG_PROBS = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (1, T, V)))
TARGETS, REAL = jnp.array([[0, 2, 1]]), jnp.ones((1, S), bool)
TEXTS = np.array(list(itertools.product(range(V), repeat=T)))
CHANCE = np.exp(np.asarray(LOG_PROBS[0], np.float64))[np.arange(T), TEXTS].prod(axis=1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_exact_is_the_expected_number_of_matches(n):
    expected = []
    for i in range(S - n + 1):
        gram = np.asarray(TARGETS[0, i : i + n])
        counts = sum((TEXTS[:, t : t + n] == gram).all(axis=1) for t in range(T - n + 1))
        expected.append(-np.log(CHANCE @ counts) / n)
    found = edit_invariant_loss(LOG_PROBS, TARGETS, REAL, n, "exact")
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize("reduce", ["softmax", "exact"])
def test_the_whole_text_as_one_ngram_is_cross_entropy_with_its_gradient(reduce):
    targets = jnp.array([[0, 2, 1, 1]])

    def ours(x):
        return edit_invariant_loss(jax.nn.log_softmax(x), targets, jnp.ones((1, 4), bool), 4, reduce)

    def theirs(x):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), targets[..., None], axis=2))

    np.testing.assert_allclose(ours(LOG_PROBS), theirs(LOG_PROBS), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(ours)(LOG_PROBS), jax.grad(theirs)(LOG_PROBS), atol=1e-6)


def test_softmax_is_never_below_exact_and_noise_changes_it():
    for seed in range(20):
        log_probs = jax.nn.log_softmax(4 * jax.random.normal(jax.random.key(seed), (1, T, V)))
        soft, exact = (edit_invariant_loss(log_probs, TARGETS, REAL, 2, kind) for kind in ("softmax", "exact"))
        assert soft >= exact - 1e-6
        assert edit_invariant_loss(log_probs, TARGETS, REAL, 2, key=jax.random.key(1)) != soft


def test_a_shifted_output_costs_the_same_where_cross_entropy_does_not():
    junk = jnp.full((1, 1, V), FLOOR)
    late, early = (jnp.concatenate(parts, axis=1) for parts in ((junk, LOG_PROBS), (LOG_PROBS, junk)))
    np.testing.assert_allclose(*(edit_invariant_loss(x, TARGETS, REAL, 2) for x in (late, early)), rtol=1e-3)
    plain = [-jnp.mean(x[0, jnp.arange(S), TARGETS[0]]) for x in (late, early)]
    assert abs(float(plain[0] - plain[1])) > 1


def test_padding_neither_costs_nor_pulls():
    padded, real = jnp.array([[0, 2, 1, 0]]), jnp.array([[True, True, True, False]])
    same = (edit_invariant_loss(LOG_PROBS, padded, real, 2), edit_invariant_loss(LOG_PROBS, TARGETS, REAL, 2))
    np.testing.assert_allclose(*same, rtol=1e-6)
    only = jnp.array([[0, 1, 2, 2]]), jnp.array([[True, True, False, False]])
    pull = jax.grad(lambda x: edit_invariant_loss(x, *only, 2))(LOG_PROBS)
    assert np.all(np.asarray(pull)[..., 2] == 0) and np.any(np.asarray(pull)[..., :2] != 0)


def test_diagonals_are_a_convolution_with_the_identity():
    scores = jnp.maximum(jnp.take_along_axis(LOG_PROBS, jnp.broadcast_to(TARGETS[:, None], (1, T, S)), axis=2), FLOOR)
    found = jax.lax.conv_general_dilated(scores[:, None], jnp.eye(2)[None, None] / 2, (1, 1), "VALID")[:, 0]
    np.testing.assert_allclose(ngram_scores(LOG_PROBS, TARGETS, 2), found, rtol=1e-5)


@pytest.mark.parametrize("n", [0, 4])
def test_impossible_ngrams_are_refused(n):
    with pytest.raises(InvalidConfig, match=r"n = .* 1 to 3"):
        ngram_scores(LOG_PROBS, TARGETS, n)


@pytest.mark.parametrize("n", [1, 2])
def test_the_compiled_reward_is_f1_of_ngrams(n):
    generator = np.random.default_rng(0)
    texts, targets = generator.integers(0, 3, (50, 6)), generator.integers(0, 3, (50, 5))
    lengths, others = generator.integers(0, 7, 50), generator.integers(2, 6, 50)
    found = overlap_reward(
        jnp.array(texts),
        jnp.arange(6)[None] < lengths[:, None],
        jnp.array(targets),
        jnp.arange(5)[None] < others[:, None],
        n,
    )
    for row in range(50):
        expected = ngram_f1([texts[row, : lengths[row]].tolist()], [targets[row, : others[row]].tolist()], n)
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


def test_the_policy_gradient_is_that_of_the_expected_reward():
    """Its expectation over all 81 texts, against the gradient of the sum of rewards by chances; a baseline changes nothing."""
    texts, there = jnp.array(TEXTS), jnp.ones(TEXTS.shape, bool)
    reward = overlap_reward(texts, there, *(jnp.broadcast_to(x, (len(TEXTS), S)) for x in (TARGETS, REAL)), 2)

    def log_chance(x):
        return jnp.sum(jax.nn.log_softmax(x)[0][jnp.arange(T)[None], texts], axis=1)

    expected = jax.grad(lambda x: -jnp.sum(jnp.exp(log_chance(x)) * reward))(LOG_PROBS)
    chance = len(TEXTS) * jnp.exp(log_chance(LOG_PROBS))

    def loss(x):
        log_probs = jnp.broadcast_to(jax.nn.log_softmax(x), (len(TEXTS), T, V))
        return policy_gradient_loss(log_probs, texts, there, chance * (reward - 0.3))

    np.testing.assert_allclose(jax.grad(loss)(LOG_PROBS), expected, atol=1e-5)
