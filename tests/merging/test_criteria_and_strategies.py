"""Criteria, pruning and merging by rank, strategies and selective losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging import criteria, ranking, selective_loss, strategies
from lexinv.merging import plan as plans
from lexinv.nn.lexicon import token_nll

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (12, 5))
rank_matching = jax.jit(ranking.rank_matching, static_argnames=("num_prune", "num_merge", "protect"))
prune_by_score = jax.jit(ranking.prune_by_score, static_argnames=("num_prune", "protect"))
package = jax.jit(strategies.package, static_argnames=("budget", "protect"))
top_share = jax.jit(selective_loss.top_share, static_argnames="rate")
merge, sources, unmerge = jax.jit(plans.merge), jax.jit(plans.sources), jax.jit(plans.unmerge)
entropy = jax.jit(criteria.predictive_entropy)
selective = jax.jit(selective_loss.selective_cross_entropy)


def test_entropy_of_even_logits_is_that_of_the_vocabulary():
    logits = jnp.stack(
        [jnp.zeros(7), jnp.full(7, -jnp.inf).at[2].set(3.0), jnp.log(jnp.array([0.5, 0.25, 0.25, 0, 0, 0, 0]))]
    )
    np.testing.assert_allclose(entropy(logits), [np.log(7), 0, 1.5 * np.log(2)], rtol=1e-6, atol=1e-7)


def test_what_is_asked_is_most_relevant():
    x = jnp.array([[1.0, 0, 0], [2.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0]])
    np.testing.assert_allclose(criteria.relevance(x, jnp.array([3.0, 4.0, 0])), [0.6, 0.6, 0.8, 0], atol=1e-6)


@pytest.mark.parametrize("budget", [2, 5, 11])
def test_the_package_is_the_mean_of_what_does_not_fit(budget):
    scores = jax.random.normal(jax.random.key(1), (12,))
    size = jnp.arange(1.0, 13.0)
    plan = package(scores, budget)
    y, sizes = merge(plan, X, size)
    kept = [0, *sorted(1 + np.argsort(-np.asarray(scores)[1:])[: budget - 2])]
    gone = [i for i in range(12) if i not in kept]
    assert y.shape[0] == budget
    np.testing.assert_allclose(y[:-1], X[np.array(kept)], rtol=1e-6)
    np.testing.assert_allclose(y[-1], np.average(X[np.array(gone)], axis=0, weights=size[np.array(gone)]), rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(sizes), jnp.sum(size))
    assert np.flatnonzero(sources(plan)[-1]).tolist() == gone
    np.testing.assert_allclose(unmerge(plan, y)[np.array(gone)], np.tile(y[-1], (len(gone), 1)))


def test_a_budget_of_all_is_the_identity():
    for plan in (package(X[:, 0], 12), prune_by_score(X[:, 0], 0)):
        np.testing.assert_array_equal(merge(plan, X)[0], X)


def test_all_weights_one_is_the_mean_cross_entropy_and_the_oracle_mask_the_clean_loss():
    logits, targets = jax.random.normal(KEY, (2, 6, 4)), jnp.array([[0, 1, 2, 3, 0, 1], [3, 3, 2, 2, 1, 1]])
    losses = token_nll(logits, targets)
    np.testing.assert_allclose(selective(losses, jnp.ones((2, 6))), jnp.mean(losses), rtol=1e-6)
    clean = jnp.array([[1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 1]]) > 0
    noisy = jnp.where(clean, losses, jnp.nan)
    found, slope = jax.value_and_grad(selective)(noisy, clean.astype(jnp.float32))
    np.testing.assert_allclose(found, np.asarray(losses)[np.asarray(clean)].mean(), rtol=1e-6)
    np.testing.assert_allclose(slope, np.asarray(clean) / 8)
    assert selective(losses, jnp.zeros((2, 6))) == 0


@pytest.mark.parametrize("rate, count", [(0.6, 7), (0.2, 2), (1.0, 12), (0.01, 1)])
def test_as_many_weights_as_the_rate_says(rate, count):
    scores = X[:, 0].reshape(3, 4)
    weights = top_share(scores, rate)
    assert sorted(scores[weights > 0].tolist()) == sorted(scores.reshape(-1).tolist())[-count:]
    assert jnp.sum(top_share(jnp.zeros((3, 4)), rate)) == count  # ties are no more than k


def test_padding_and_nan_are_taken_last():
    scores = jnp.array([5.0, jnp.nan, -jnp.inf, 1.0, 9.0])
    mask = jnp.array([True, True, True, True, False])
    assert top_share(scores, 0.4, mask).tolist() == [1, 0, 0, 1, 0]
    assert top_share(scores, 1.0, mask).tolist() == [1, 1, 1, 1, 0]


def test_excess_loss_has_no_gradient():
    slope = jax.grad(lambda x: jnp.sum(selective_loss.excess_loss(x, X)))(2 * X)
    assert not slope.any()
    np.testing.assert_allclose(selective_loss.excess_loss(2 * X, X), X, rtol=1e-6)


SCORES = jnp.array([0.0, 0.4, 0.1, 0.3, 0.2, 0.5])  # token 0 is CLS; from high to low: 5 1 3 4 2


def test_the_least_important_are_pruned_and_the_next_merged():
    """2 is dropped; 4 and 3 go to the nearer of 1 and 5, weighted by similarity; CLS is nearest of all and no destination."""
    similarity = jnp.full((6, 6), 0.9).at[3, 5].set(0.8).at[3, 1].set(0.2).at[4, 5].set(-0.5).at[4, 1].set(-0.2)
    plan = rank_matching(similarity, SCORES, 1, 2)
    assert plan.anchor.tolist() == [0, 1, 5]
    assert plan.assign.tolist() == [0, 1, 3, 2, 1, 2]
    np.testing.assert_allclose(plan.weight, [1, 1, 0, 0.8, 0, 1])
    x = jnp.arange(6.0)[:, None]
    y, size = merge(plan, x, jnp.array([1.0, 2, 1, 5, 1, 1]))
    np.testing.assert_allclose(y[:, 0], [0, 1, (0.8 * 5 * 3 + 5) / 5], rtol=1e-6)
    np.testing.assert_allclose(size, [1, 2, 5])


def test_pruning_keeps_the_highest_in_their_order():
    plan = prune_by_score(SCORES, 3)
    assert plan.anchor.tolist() == [0, 1, 5]
    assert plan.assign.tolist() == [0, 1, 3, 3, 3, 2]
    assert prune_by_score(jnp.ones(4), 2).anchor.tolist() == [0, 1]  # of equal ones the last go
    assert prune_by_score(SCORES, 6, protect=0).anchor.shape == (0,)


def test_scores_of_attention():
    attention = jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, 5, 5)))
    np.testing.assert_allclose(ranking.cls_attention(attention), np.asarray(attention).mean(0)[0], rtol=1e-6)
    received = ranking.received_attention(attention)
    np.testing.assert_allclose(received, np.asarray(attention).mean((0, 1)), rtol=1e-6)
    assert float(received.sum()) == pytest.approx(1.0)
