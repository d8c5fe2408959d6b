"""Plans inside layers: what a reduction hands to a method, padding, and what merging duplicates must not change."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.plan import merge, start_sizes, unmerge
from lexinv.merging.ranking import cls_attention, prune_by_score
from lexinv.merging.reduction import Example, reduction
from lexinv.nn.attention import attention_weights, size_bias
from lexinv.nn.reduced import Seen, run_layers
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.validation import InvalidConfig

CONFIG = TransformerConfig(
    depth=2, width=16, heads=2, mlp_width=32, positions="none", causal=False, attention="dot_product", bias=True
)


@pytest.fixture(scope="module")
def layers():
    one = jnp.zeros((1, 1, CONFIG.width))
    initialize = jax.jit(jax.vmap(lambda key: Block(CONFIG, False).init(key, one, None)["params"]))
    return initialize(jax.random.split(jax.random.key(1), CONFIG.depth))


def tokens(batch: int, time: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch, time, CONFIG.width))


def tome(count: int):
    return lambda example: bipartite_matching(example.similarity, count, mask=example.mask)


def seen_by(size: jax.Array) -> Seen:
    queries, keys = (jax.random.normal(jax.random.key(seed), (2, 6, 2, 8)) for seed in (2, 3))
    return Seen(tokens(2, 6), queries, keys, size, size_bias(size)[:, None, None])


def test_a_method_sees_the_layer():
    size = jnp.ones((2, 6)).at[1, 4].set(3.0)
    seen = seen_by(size)
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


@pytest.mark.parametrize("proportional", [True, False])
def test_merging_duplicates_is_lossless_with_proportional_attention_only(layers, proportional):
    once = tokens(2, 5)
    twice = jnp.concatenate([once[:, :1], jnp.repeat(once[:, 1:], 2, axis=1)], axis=1)  # CLS, then pairs of equals
    run = jax.jit(partial(run_layers, CONFIG, proportional=proportional), static_argnames=("reductions",))
    whole, *_ = run(layers, twice, jnp.ones(twice.shape[:2]))
    merged, size, (plans,) = run(layers, twice, jnp.ones(twice.shape[:2]), (reduction(tome(4)), None))
    np.testing.assert_array_equal(np.sort(size, axis=1), [[1, 2, 2, 2, 2]] * 2)
    restored = jax.vmap(unmerge)(plans, merged)
    difference = float(jnp.max(jnp.abs(restored - whole)))
    assert difference < 1e-5 if proportional else difference > 1e-3


def test_a_reduction_that_leaves_no_token_is_refused(layers):
    everything = reduction(lambda example: prune_by_score(example.stream[:, 0], 5, protect=0))
    with pytest.raises(InvalidConfig, match=r"reductions\[1\] = \(2, 0, 16\).*at least one token left"):
        run_layers(CONFIG, layers, tokens(2, 5), None, (None, everything))


def test_padding_changes_nothing_real(layers):
    """What is written into padding must not matter, and no target mixes it with real tokens."""
    mask = jnp.arange(9)[None] < jnp.array([9, 6])[:, None]
    run = jax.jit(lambda x: run_layers(CONFIG, layers, x, start_sizes(mask), (reduction(tome(3), padded=True), None)))
    x = jnp.where(mask[..., None], tokens(2, 9), 0.0)
    spoilt = jnp.where(mask[..., None], x, 1e3)
    first, second = run(x), run(spoilt)
    np.testing.assert_array_equal(first[1], second[1])
    real = np.asarray(first[1]) > 0
    np.testing.assert_allclose(np.asarray(first[0])[real], np.asarray(second[0])[real], atol=1e-5)
    assert real[0].all() and not real[1].all()
