"""Plans inside layers: what a reduction hands to a method, padding, the smallest inputs, and what merging duplicates must not change."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.energy import energies, energy_matching
from lexinv.merging.mlerp import fuse
from lexinv.merging.plan import identity, merge, start_sizes, unmerge
from lexinv.merging.ranking import cls_attention, prune_at_random, prune_by_score
from lexinv.merging.reduction import Example, fourier_reduction, reduction
from lexinv.nn.attention import attention_weights, size_bias
from lexinv.nn.reduced import Seen, run_layers
from lexinv.nn.transformer import Block, TransformerConfig

CONFIG = TransformerConfig(
    depth=2, width=16, heads=2, mlp_width=32, positions="none", causal=False, attention="dot_product", bias=True
)


@cache
def layers(config: TransformerConfig = CONFIG):
    one = jnp.zeros((1, 1, config.width))
    initialize = jax.jit(jax.vmap(lambda key: Block(config, False).init(key, one, None)["params"]))
    return initialize(jax.random.split(jax.random.key(1), config.depth))


@pytest.fixture(scope="module", autouse=True)
def made():
    """Compiled before the first test, whose time it is not."""
    return layers()


def tokens(batch: int, time: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch, time, CONFIG.width))


def tome(count: int, protect: int = 1):
    return lambda example: bipartite_matching(example.similarity, count, 2, protect, example.mask)


def seen_by(size: jax.Array, time: int = 6) -> Seen:
    queries, keys = (jax.random.normal(jax.random.key(seed), (2, time, 2, 8)) for seed in (2, 3))
    return Seen(tokens(2, time), queries, keys, size, size_bias(size)[:, None, None])


def test_a_method_sees_the_layer():
    seen, size = seen_by(jnp.ones((2, 6)).at[1, 4].set(3.0)), jnp.ones((2, 6)).at[1, 4].set(3.0)
    told: list[Example] = []

    def look(example: Example):
        told.append(example)
        return prune_by_score(cls_attention(example.attention), 2)

    found = jax.jit(reduction(look))(seen)
    assert told[0].mask is None and told[0].key is None
    weights = attention_weights(seen.queries, seen.keys, seen.bias, causal=False)
    for row in range(2):
        expected = prune_by_score(jnp.mean(weights[row, :, 0], axis=0), 2)
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, row=row: leaf[row], found.kept), expected)
        stream, sizes = merge(expected, seen.stream[row], size[row])
        np.testing.assert_allclose(found.stream[row], stream, atol=1e-6)
        np.testing.assert_allclose(found.size[row], sizes, atol=1e-6)


def test_similarity_is_of_the_mean_key():
    seen = seen_by(jnp.ones((2, 6)))
    found = jax.jit(reduction(tome(2)))(seen).kept
    expected = jax.vmap(lambda k: bipartite_matching(cosine_similarity(jnp.mean(k, axis=1)), 2))(seen.keys)
    chex.assert_trees_all_equal(found, expected)


def test_every_example_draws_for_itself():
    size = jnp.ones((2, 40))
    draw = reduction(lambda example: prune_at_random(example.key, 40, 20), key=jax.random.key(5))
    kept = jax.jit(draw)(seen_by(size, 40)).kept.anchor
    assert not np.array_equal(kept[0], kept[1])
    np.testing.assert_array_equal(kept, jax.jit(draw)(seen_by(size, 40)).kept.anchor)


@pytest.mark.parametrize("proportional", [True, False])
def test_merging_duplicates_is_lossless_with_proportional_attention_only(proportional):
    once = tokens(2, 5)
    twice = jnp.concatenate([once[:, :1], jnp.repeat(once[:, 1:], 2, axis=1)], axis=1)  # CLS, then pairs of equals
    run = jax.jit(partial(run_layers, CONFIG, proportional=proportional), static_argnames=("reductions",))
    whole, *_ = run(layers(), twice, jnp.ones(twice.shape[:2]))
    merged, size, (plans,) = run(layers(), twice, jnp.ones(twice.shape[:2]), (reduction(tome(4)), None))
    np.testing.assert_array_equal(np.sort(size, axis=1), [[1, 2, 2, 2, 2]] * 2)
    restored = jax.vmap(unmerge)(plans, merged)
    difference = float(jnp.max(jnp.abs(restored - whole)))
    assert difference < 1e-5 if proportional else difference > 1e-3


@pytest.mark.parametrize(
    "method",
    [
        tome(3),
        lambda e: energy_matching(e.similarity, energies(e.similarity, 0.5, mask=e.mask), 3, mask=e.mask),
        lambda e: prune_by_score(cls_attention(e.attention), 3, mask=e.mask),
    ],
    ids=["tome", "pitome", "prune"],
)
def test_padding_changes_nothing_real(method):
    """What is written into padding must not matter, and no target mixes it with real tokens."""
    mask = jnp.arange(9)[None] < jnp.array([9, 6])[:, None]
    run = jax.jit(lambda x: run_layers(CONFIG, layers(), x, start_sizes(mask), (reduction(method, padded=True), None)))
    x = jnp.where(mask[..., None], tokens(2, 9), 0.0)
    spoilt = jnp.where(mask[..., None], x, 1e3)
    first, second = run(x), run(spoilt)
    np.testing.assert_array_equal(first[1], second[1])
    real = np.asarray(first[1]) > 0
    np.testing.assert_allclose(np.asarray(first[0])[real], np.asarray(second[0])[real], atol=1e-5)
    assert real[0].all() and not real[1].all()


def test_bfloat16_chooses_in_float32():
    config = TransformerConfig(**{**vars(CONFIG), "dtype": "bfloat16"})
    x = tokens(2, 7).astype(jnp.bfloat16)
    run = jax.jit(lambda x: run_layers(config, layers(config), x, jnp.ones((2, 7)), (reduction(tome(3)), None)))
    stream, size, _ = run(x)
    assert stream.dtype == jnp.bfloat16 and stream.shape == (2, 4, 16) and size.dtype == jnp.float32
    np.testing.assert_array_equal(jnp.sum(size, axis=1), [7, 7])
    assert bool(jnp.all(jnp.isfinite(stream)))


@pytest.mark.parametrize("time, protect", [(1, 1), (1, 0), (4, 4)])
def test_where_nothing_can_go_nothing_does(time, protect):
    x = tokens(2, time)
    run = jax.jit(partial(run_layers, CONFIG), static_argnames=("reductions",))
    whole, *_ = run(layers(), x, jnp.ones((2, time)))
    kept, _, (plans, _) = run(layers(), x, jnp.ones((2, time)), (reduction(tome(2, protect)),) * 2)
    np.testing.assert_allclose(kept, whole, atol=1e-6)
    chex.assert_trees_all_equal(plans, jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), identity(time)))


def test_fused_and_fourier_reductions_keep_their_counts():
    seen = seen_by(jnp.ones((2, 6)))
    fused = jax.jit(reduction(tome(2), partial(fuse, layer=0, depth=2)))(seen)
    np.testing.assert_array_equal(fused.size, jnp.ones((2, 4)))  # pruned in the first half
    shorter = jax.jit(fourier_reduction(3))(seen)
    assert shorter.stream.shape == (2, 4, 16)
    np.testing.assert_array_equal(shorter.stream[:, 0], seen.stream[:, 0])
    np.testing.assert_array_equal(shorter.size, jnp.ones((2, 4)))
