"""Merge, prune, unmerge, compose, track sources, and attention that counts sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging import bipartite, energy, mlerp, pagerank, ranking
from lexinv.merging import plan as plans
from lexinv.merging.plan import Plan, attention_bias, identity
from lexinv.validation import InvalidConfig

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


def test_prune_drops_what_would_be_merged():
    y, size = merge(prune(PLAN), X)
    np.testing.assert_array_equal(y[:, 0], [1, 5, 2])
    np.testing.assert_array_equal(size, [1, 1, 1])


def test_unmerge_copies_and_leaves_the_pruned_empty():
    np.testing.assert_array_equal(unmerge(PLAN, jnp.array([[10.0], [20.0], [30.0]]))[:, 0], [10, 30, 0, 30, 20])
    np.testing.assert_array_equal(unmerge(PLAN, jnp.array([1, 2, 3])), [1, 3, 0, 3, 2])


def test_sources_are_those_with_weight():
    np.testing.assert_array_equal(np.asarray(sources(PLAN)), [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 1, 0]])
    assert np.asarray(sources(prune(PLAN))).sum(1).tolist() == [1, 1, 1]


def test_in_order_sorts_targets_by_place():
    ordered = in_order(PLAN)
    assert ordered.anchor.tolist() == [0, 1, 4]
    np.testing.assert_allclose(merge(ordered, X)[0][:, 0], merge(PLAN, X)[0][jnp.array([0, 2, 1]), 0])
    assert ordered.assign[2] == 3


def test_composed_is_one_after_the_other():
    """Four layers of different methods: same tokens, sizes, places and sources as layer by layer."""
    methods = (
        lambda c: bipartite.bipartite_matching(c, 4),
        lambda c: energy.energy_matching(c, energy.energies(c, 0.3), 3),
        lambda c: ranking.rank_matching(c, c[0], 1, 2),
        lambda c: ranking.prune_by_score(c[0], 2),
    )

    @jax.jit
    def layers(x, size):
        y, sizes, places, whole = x, size, jnp.arange(20), identity(20)
        for method in methods:
            plan = method(bipartite.cosine_similarity(y))
            y, sizes = plans.merge(plan, y, sizes)
            places, whole = places[plan.anchor], plans.compose(plan, whole)
        return (y, sizes, places), whole, plans.merge(whole, x, size), plans.sources(whole)

    rng = np.random.default_rng(0)
    x, size = rng.normal(size=(20, 4)).astype(np.float32), rng.uniform(0.5, 1.5, 20).astype(np.float32)
    (y, sizes, places), whole, (at_once, at_once_sizes), made_of = layers(jnp.asarray(x), jnp.asarray(size))
    np.testing.assert_allclose(at_once, y, atol=1e-5)
    np.testing.assert_allclose(at_once_sizes, sizes, rtol=1e-5)
    np.testing.assert_array_equal(whole.anchor, places)
    assign, weight = np.asarray(whole.assign), np.asarray(whole.weight)
    np.testing.assert_array_equal(assign[np.asarray(places)], np.arange(8))
    assert np.asarray(made_of).sum() == (weight > 0).sum() < 20
    assert np.all(weight[assign == 8] == 0)


@jax.jit
def attend(x, tokens, size=None):
    """Attention of the queries `x` on `tokens`, with their sizes if given."""
    logits = x @ tokens.T
    if size is not None:
        logits = logits + attention_bias(size)[None, :]
    return jax.nn.softmax(logits) @ tokens


def test_merging_duplicates_is_lossless_with_proportional_attention():
    """Copies of tokens, merged with their sizes: every token's attention is as before; without sizes it is not."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(9, 6)), jnp.float32)
    doubled = jnp.concatenate([x, x[3:6], x[3:5], jnp.full((2, 6), 7.0)])
    start = jnp.asarray([1.0] * 14 + [0.0] * 2)  # and two of padding
    pairs = Plan(
        jnp.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 3, 4, 9, 9]),
        jnp.ones(16),
        jnp.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 14]),
    )
    expected = attend(x, doubled[:14])
    np.testing.assert_allclose(attend(x, doubled, start), expected, atol=1e-5)
    merged, size = merge(pairs, doubled, start)
    np.testing.assert_array_equal(size, [1, 1, 1, 3, 3, 2, 1, 1, 1, 0])
    np.testing.assert_allclose(attend(x, merged, size), expected, atol=1e-5)
    assert np.abs(attend(x, merged[:9]) - expected).max() > 1e-2


DUPLICATES = {
    "bipartite": lambda c: bipartite.bipartite_matching(c, 3, protect=0),
    "protect": lambda c: energy.energy_matching(c, energy.energies(c, 0.5), 3, "protect", 0),
    "ordered": lambda c: energy.energy_matching(c, energy.energies(c, 0.5), 3, "ordered", 0),
}


@pytest.mark.parametrize("method", DUPLICATES)
def test_methods_merge_exact_duplicates_first(method):
    """Six tokens far apart, three of them copied: nine tokens, three merges, no loss.

    A copy stands beside its original, so that they are of different parity; energies of copies are equal, and beside each other too.
    """
    rng = np.random.default_rng(5)
    base = 3 * np.eye(6) + 0.1 * rng.normal(size=(6, 6))
    x = jnp.asarray(base[[0, 0, 1, 1, 2, 2, 3, 4, 5]], jnp.float32)

    @jax.jit
    def before_and_after(x):
        y, size = plans.merge(DUPLICATES[method](bipartite.cosine_similarity(x)), x)
        return attend(x, x), attend(x, y, size)

    before, after = before_and_after(x)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_attention_bias_hides_what_has_no_size():
    weights = jax.nn.softmax(jnp.array([0.3, 5.0, 0.3]) + attention_bias(jnp.array([1.0, 0.0, 2.0])))
    np.testing.assert_allclose(weights, [1 / 3, 0, 2 / 3], rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda size: attention_bias(size)[0]))(jnp.array([0.0, 1.0]))
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
    with pytest.raises(InvalidConfig, match="layer"):
        mlerp.fuse(PLAN, x, None, 4, 4)
