"""What names stand for, on cases made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.methods import SELECTIONS, behind, keep, merge_restarting, reductions
from lexinv.merging.plan import Plan, merge, sources
from lexinv.nn.reduced import Seen


def seen_with(keys: jax.Array) -> Seen:
    batch, tokens = keys.shape[:2]
    return Seen(jnp.zeros((batch, tokens, 8)), keys, keys, jnp.ones((batch, tokens)), None)


def test_inverted_energy_merges_the_isolated_tokens():
    """Eight equal tokens and three others: by energy equal ones merge, inverted the others do."""
    angles = jnp.array([0.0] * 8 + [1.5, 3.0, 4.5])
    keys = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    keys = jnp.concatenate([keys[:1], keys])[None, :, None]
    for name, same in (("pitome", True), ("pitome_inverted", False)):
        (found,) = reductions(name, (1,), 1)
        plan = jax.jit(found)(seen_with(keys)).kept
        groups = np.asarray(sources(jax.tree.map(lambda leaf: leaf[0], plan)))
        merged = np.flatnonzero(groups[groups.sum(1) > 1][0])
        assert (merged < 9).all() == same
        assert (merged >= 9).all() != same


@pytest.mark.parametrize("name", ["random_bipartite", "prune_random"])
def test_methods_that_draw_follow_the_key_the_layer_and_the_example(name):
    keys = jnp.repeat(jax.random.normal(jax.random.key(0), (1, 24, 1, 4)), 2, axis=0)

    def plans(seed):
        layers = reductions(name, (8, 8), 2, key=jax.random.key(seed))
        return [layer(seen_with(keys)).kept.assign for layer in layers]

    (one, second), (same, _), (other, _) = (jax.jit(plans, static_argnums=0)(seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other) and not np.array_equal(one, second) and not np.array_equal(*one)


def test_a_restarting_merge_forgets_sizes():
    size = jnp.array([1.0, 3.0, 1.0, 2.0, 0.0, 0.0])
    x = jax.random.normal(jax.random.key(1), (6, 4))

    @jax.jit
    def both(x, size):
        plan = bipartite_matching(cosine_similarity(x), 2, mask=size > 0)
        return *merge_restarting(plan, x, size), merge(plan, x, (size > 0).astype(jnp.float32))[0]

    merged, sizes, alike = both(x, size)
    np.testing.assert_allclose(merged, alike)
    assert sorted(sizes.tolist()) == [0.0, *[1.0] * (len(sizes) - 1)]


def test_behind_leaves_the_first_tokens_alone():
    plan = Plan(jnp.array([1, 0, 2]), jnp.array([1.0, 0.5, 0.0]), jnp.array([1, 0]))  # the third goes nowhere
    whole = behind(plan, 2)
    np.testing.assert_array_equal(whole.assign, [0, 1, 3, 2, 4])
    np.testing.assert_array_equal(whole.weight, [1, 1, 1, 0.5, 0])
    np.testing.assert_array_equal(whole.anchor, [0, 1, 3, 2])


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections_keep_as_many_tokens(name):
    """The highest scores of "top"; pivots are the highest; ToMe merges all, in several steps, and conserves their sum."""
    x, scores = jax.random.normal(jax.random.key(0), (16, 8)), jnp.arange(16.0)

    @jax.jit
    def select(x, scores):
        plan = keep(name, x, scores, 3, jax.random.key(1))
        return plan, *merge(plan, x)

    plan, y, size = select(x, scores)
    assert y.shape == (3, 8)
    if name == "tome":
        np.testing.assert_allclose((y * size[:, None]).sum(0), x.sum(0), atol=1e-4)
        assert float(size.sum()) == 16
        return
    np.testing.assert_allclose(y, x[plan.anchor])
    if name == "top":
        assert plan.anchor.tolist() == [13, 14, 15]
    if name in ("maxsum", "kcenter"):
        assert 15 in plan.anchor.tolist()
