"""Merge, prune, unmerge, compose, track sources, and attention that counts sizes."""

import jax
import jax.numpy as jnp
import numpy as np

from lexinv.merging import mlerp, pagerank
from lexinv.merging import plan as plans
from lexinv.merging.plan import Plan
from lexinv.nn.attention import size_bias

merge, prune, unmerge, compose, sources = map(
    jax.jit, (plans.merge, plans.prune, plans.unmerge, plans.compose, plans.sources)
)
in_order, mlerp_jitted = jax.jit(pagerank.in_order), jax.jit(mlerp.mlerp)

# Five tokens: 0 alone, 3 into 1 with half its weight, 2 pruned, 4 alone; targets stand in the places 0, 4, 1.
PLAN = Plan(jnp.array([0, 2, 3, 2, 1]), jnp.array([1.0, 1.0, 0.0, 0.5, 1.0]), jnp.array([0, 4, 1]))
X = jnp.array([[1.0], [2.0], [50.0], [8.0], [5.0]])


def test_merge_by_hand():
    y, size = merge(PLAN, X)
    np.testing.assert_allclose(y[:, 0], [1, 5, (2 + 0.5 * 8) / 1.5], rtol=1e-6)
    np.testing.assert_allclose(size, [1, 1, 1.5])
    y, size = merge(PLAN, X, jnp.array([1.0, 3.0, 9.0, 2.0, 7.0]))
    np.testing.assert_allclose(y[:, 0], [1, 5, (3 * 2 + 1 * 8) / 4], rtol=1e-6)
    np.testing.assert_allclose(size, [1, 7, 4])


def test_prune_drops_what_would_be_merged_and_sources_are_those_with_weight():
    y, size = merge(prune(PLAN), X)
    np.testing.assert_array_equal(y[:, 0], [1, 5, 2])
    np.testing.assert_array_equal(size, [1, 1, 1])
    np.testing.assert_array_equal(np.asarray(sources(PLAN)), [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 1, 0]])
    assert np.asarray(sources(prune(PLAN))).sum(1).tolist() == [1, 1, 1]


def test_unmerge_copies_and_leaves_the_pruned_empty():
    np.testing.assert_array_equal(unmerge(PLAN, jnp.array([[10.0], [20.0], [30.0]]))[:, 0], [10, 30, 0, 30, 20])
    np.testing.assert_array_equal(unmerge(PLAN, jnp.array([1, 2, 3])), [1, 3, 0, 3, 2])


def test_in_order_sorts_targets_by_place():
    ordered = in_order(PLAN)
    assert ordered.anchor.tolist() == [0, 1, 4]
    np.testing.assert_allclose(merge(ordered, X)[0][:, 0], merge(PLAN, X)[0][jnp.array([0, 2, 1]), 0])
    assert ordered.assign[2] == 3


def test_size_bias_hides_what_has_no_size():
    weights = jax.nn.softmax(jnp.array([0.3, 5.0, 0.3]) + size_bias(jnp.array([1.0, 0.0, 2.0])))
    np.testing.assert_allclose(weights, [1 / 3, 0, 2 / 3], rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda size: size_bias(size)[0]))(jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(gradient, [0, 0])


def test_mlerp_has_the_direction_of_the_mean_and_the_largest_norm():
    x = jnp.array([[3.0, 0.0], [0.0, 1.0], [5.0, 5.0], [0.0, 4.0], [1.0, 1.0]])
    y, size = mlerp_jitted(PLAN, x)
    mean = (np.array([0.0, 1.0]) + 0.5 * np.array([0.0, 4.0])) / 1.5
    np.testing.assert_allclose(y[2], 4 * mean / np.linalg.norm(mean), rtol=1e-6)
    np.testing.assert_allclose(y[:2], x[jnp.array([0, 4])], rtol=1e-6)
    np.testing.assert_allclose(size, [1, 1, 1.5])
    opposite = Plan(jnp.array([0, 0]), jnp.ones(2), jnp.array([0]))
    gradient = jax.jit(jax.grad(lambda t: mlerp.mlerp(opposite, t)[0].sum()))(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(mlerp_jitted(opposite, jnp.array([[1.0, 0.0], [-1.0, 0.0]]))[0], 0.0)
    assert np.all(np.isfinite(gradient))


def test_token_fusion_prunes_early_and_keeps_norms_late():
    x = jnp.array([[3.0, 0.0], [0.0, 1.0], [5.0, 5.0], [2.0, 0.0], [1.0, 1.0]])
    for layer, expected in ((1, 1.0), (2, 2.0)):
        y, _ = jax.jit(lambda t, layer=layer: mlerp.fuse(PLAN, t, None, layer, 4))(x)
        np.testing.assert_allclose(jnp.linalg.norm(y[2]), expected, rtol=1e-6)
