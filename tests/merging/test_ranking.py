"""Pruning and merging by rank, and rates that are learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from lexinv.merging import ranking, rates
from lexinv.merging.costs import block_flops
from lexinv.merging.plan import merge
from lexinv.validation import InvalidConfig

rank_matching = jax.jit(ranking.rank_matching, static_argnames=("num_prune", "num_merge", "protect"))
prune_by_score = jax.jit(ranking.prune_by_score, static_argnames=("num_prune", "protect"))

kept_count, survival, survival_mask, threshold_mask = (
    jax.jit(rates.kept_count),
    jax.jit(rates.survival, static_argnums=2),
    jax.jit(rates.survival_mask, static_argnums=2),
    jax.jit(rates.threshold_mask, static_argnames="temperature"),
)

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


COUNTS = rates.candidates(9, 2)


def test_candidates_count_down():
    assert COUNTS.tolist() == [9, 7, 5, 3, 1]
    assert rates.candidates(4, 3).tolist() == [4, 1]
    with pytest.raises(InvalidConfig, match="granularity"):
        rates.candidates(4, 0)


def test_proxies_of_a_sure_choice():
    """All probability on 5: five tokens are kept, softly and hard alike."""
    logits = jnp.array([0.0, 0.0, 100.0, 0.0, 0.0])
    assert float(kept_count(logits, COUNTS)) == 5
    np.testing.assert_allclose(survival(logits, COUNTS, 9), [1] * 5 + [0] * 4, atol=1e-6)
    np.testing.assert_allclose(survival_mask(logits, COUNTS, 9), [1] * 5 + [0] * 4)


def test_proxies_of_an_even_choice():
    """The mean of 9 7 5 3 1 is 5; rank i survives with the share of candidates above i; the gradients are those of the soft forms."""
    logits = jnp.zeros(5)
    expected = [1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2]
    np.testing.assert_allclose(survival(logits, COUNTS, 9), expected, rtol=1e-6)
    assert float(jnp.sum(survival(logits, COUNTS, 9))) == pytest.approx(5)  # the mean count
    mean_gradient = 0.2 * (np.array([9, 7, 5, 3, 1]) - 5.0)  # of a softmax mean: p_k (c_k - mean)
    np.testing.assert_allclose(jax.jit(jax.grad(rates.kept_count))(logits, COUNTS), mean_gradient, atol=1e-6)
    summed = jax.jit(jax.grad(lambda x: rates.survival_mask(x, COUNTS, 9).sum()))(logits)
    np.testing.assert_allclose(summed, mean_gradient, atol=1e-6)
    assert kept_count(jnp.log(jnp.array([1.0, 1, 1, 1, 2])), COUNTS) == 5  # 26/6 is rounded up


def test_masked_softmax_is_softmax_of_what_is_left():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4)) * 5, jnp.float32)
    mask, softmax = jnp.array([1.0, 0.0, 1.0, 1.0]), jax.jit(rates.masked_softmax)
    found = np.asarray(softmax(logits, mask))
    np.testing.assert_allclose(
        found[:, [0, 2, 3]], scipy.special.softmax(np.asarray(logits)[:, [0, 2, 3]], axis=1), rtol=1e-5
    )
    assert not np.any(found[:, 1])
    assert not np.any(softmax(logits, jnp.zeros(4)))
    gradient = jax.jit(jax.grad(lambda m: rates.masked_softmax(logits, m)[0, 1]))(mask)
    assert gradient[1] > 0  # so that a masked token can come back


def test_rates_learn_to_keep_what_matters_within_the_flops():
    """Only the first 4 of 9 ranks lower the loss. Without a target all are kept that help; with one, FLOPs settle at it."""
    counts = rates.candidates(9)
    useful = jnp.array([1.0, 1, 1, 1, 0, 0, 0, 0, 0])

    def loss(logits, target, strength):
        kept = rates.kept_count(logits, counts)
        flops = jnp.asarray(block_flops(9, kept, 4, 16)) / block_flops(9, 9, 4, 16)
        task = -jnp.sum(useful * rates.survival_mask(logits, counts, 9)) / 4
        return task + strength * (flops - target) ** 2

    step = jax.jit(lambda logits, target: logits - 0.3 * jax.grad(loss)(logits, target, 100.0))
    for goal in (4, 7):
        target = block_flops(9, goal, 4, 16) / block_flops(9, 9, 4, 16)
        logits = jnp.zeros(9)
        for _ in range(300):
            logits = step(logits, target)
        assert abs(float(rates.kept_count(logits, counts)) - goal) <= 1
        assert np.all(np.asarray(survival_mask(logits, counts, 9))[:4] > 0)


def test_learned_thresholds():
    scores = jnp.array([0.1, 0.3, 0.5])
    np.testing.assert_allclose(threshold_mask(scores, jnp.float32(0.2)), [0, 1, 1])
    gradient = jax.jit(jax.grad(lambda t: rates.threshold_mask(scores, t, 0.1).sum()))(jnp.float32(0.2))
    soft = 1 / (1 + np.exp(-(np.array([0.1, 0.3, 0.5]) - 0.2) / 0.1))
    assert float(gradient) == pytest.approx(-10 * (soft * (1 - soft)).sum(), rel=1e-5)
    with pytest.raises(InvalidConfig, match="temperature"):
        rates.threshold_mask(scores, jnp.float32(0.2), 0.0)
