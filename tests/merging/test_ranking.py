"""Pruning and merging by rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging import ranking
from lexinv.merging.plan import merge

rank_matching = jax.jit(ranking.rank_matching, static_argnames=("num_prune", "num_merge", "protect"))
prune_by_score = jax.jit(ranking.prune_by_score, static_argnames=("num_prune", "protect"))

SCORES = jnp.array([0.0, 0.4, 0.1, 0.3, 0.2, 0.5])  # token 0 is CLS; from high to low: 5 1 3 4 2


def test_the_least_important_are_pruned_and_the_next_merged():
    """2 is dropped; 4 and 3 go to the nearer of 1 and 5, weighted by similarity; CLS is nearest of all and no destination."""
    similarity = jnp.full((6, 6), 0.9).at[3, 5].set(0.8).at[3, 1].set(0.2).at[4, 5].set(-0.5).at[4, 1].set(-0.2)
    plan = rank_matching(similarity, SCORES, 1, 2)
    assert plan.anchor.tolist() == [0, 1, 5]
    assert plan.assign.tolist() == [0, 1, 3, 2, 1, 2]
    np.testing.assert_allclose(plan.weight, [1, 1, 0, 0.8, 0, 1])
    x = jnp.arange(6.0)[:, None]
    y, size = jax.jit(merge)(plan, x, jnp.array([1.0, 2, 1, 5, 1, 1]))
    np.testing.assert_allclose(y[:, 0], [0, 1, (0.8 * 5 * 3 + 5) / 5], rtol=1e-6)
    np.testing.assert_allclose(size, [1, 2, 5])


def test_pruning_keeps_the_highest_in_their_order():
    plan = prune_by_score(SCORES, 3)
    assert plan.anchor.tolist() == [0, 1, 5]
    assert plan.assign.tolist() == [0, 1, 3, 3, 3, 2]
    assert prune_by_score(jnp.ones(4), 2).anchor.tolist() == [0, 1]  # of equal ones the last go
    assert prune_by_score(SCORES, 6, protect=0).anchor.shape == (0,)


def test_random_pruning_takes_every_token_alike():
    prune = jax.jit(jax.vmap(lambda key: ranking.prune_at_random(key, 6, 2).anchor))
    kept = np.asarray(prune(jax.random.split(jax.random.key(0), 2000)))
    counts = np.bincount(kept.reshape(-1), minlength=6)
    assert counts[0] == 2000
    # A kept share of 3/5 of 2000 draws: five standard deviations.
    np.testing.assert_allclose(counts[1:], 1200, atol=5 * np.sqrt(2000 * 0.24))


def test_scores_of_attention():
    attention = jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, 5, 5)))
    np.testing.assert_allclose(ranking.cls_attention(attention), np.asarray(attention).mean(0)[0], rtol=1e-6)
    received = ranking.received_attention(attention)
    np.testing.assert_allclose(received, np.asarray(attention).mean((0, 1)), rtol=1e-6)
    assert float(received.sum()) == pytest.approx(1.0)
