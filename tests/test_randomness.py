"""What is said to depend on a key alone is the same under every implementation of keys, and under `vmap` as without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lexinv.data import markov, markov_first_order, markov_sampling
from lexinv.data.glyphs import GlyphConfig, sample_images
from lexinv.data.scenes import SceneConfig, Scenes, ask, sample_scenes
from lexinv.lexinvariance import metropolis, threads
from lexinv.nn.lexicon import (
    LexiconConfig,
    bank,
    blockwise_nll,
    draw_lexicon,
    gaussian_rows,
    lexicon_rows,
    permutation,
    readout,
    row_keys,
    token_nll,
)
from lexinv.training.population import create_population, member
from lexinv.training.state import create_state
from lexinv.training.step import make_train_step

IMPLEMENTATIONS = ("rbg", "unsafe_rbg")
VOCAB, DIM = 6, 4
TABLE = jnp.arange(VOCAB * DIM, dtype=jnp.float32).reshape(VOCAB, DIM)
KERNEL = jnp.asarray(markov.cyclic_kernel(3, 0.3), jnp.float32)
SOURCE = markov_first_order.MarkovSource(jnp.log(KERNEL), jnp.full(3, -jnp.log(3.0)))
TEXT = jnp.array([0, 1, 2, 1], jnp.int32)
LIMITS = threads.Limits(pairs=3, threads=2, length=2, symbols=8)
SETTING = threads.setting(LIMITS, pairs=3, length=2)
SCENES = SceneConfig(grid=4, sizes=(2, 1, 1, 1))


def rows(kind):
    return lambda key: lexicon_rows(
        LexiconConfig(kind, p_random=0.5), TABLE, row_keys(key, jnp.arange(2)), jnp.array([[3, 5, 3], [0, 3, 1]]), DIM
    )


def asked(key):
    nothing = jnp.zeros((2, 4), jnp.int32)
    return ask(SCENES, Scenes(jnp.zeros((2, 16, 16, 3)), jnp.zeros((2, 16), jnp.int32), nothing, nothing), key)


DRAWS = {
    "gaussian_rows": lambda key: gaussian_rows(key, jnp.array([3, 5, 3]), DIM),
    "permutation": lambda key: permutation(key, VOCAB),
    "lexinvariant": rows("lexinvariant"),
    "semi": rows("semi"),
    "permuted_bank": rows("permuted_bank"),
    "glyphs": lambda key: sample_images(GlyphConfig(size=24), 2, key),
    "scenes": lambda key: sample_scenes(SCENES, 2, key),
    "questions": asked,
    "settings": lambda key: threads.draw_setting(key, LIMITS, 2),
    "threads": lambda key: threads.sample_items(jnp.stack([key, key]), LIMITS, SETTING),
    "symbols": lambda key: markov_first_order.sample_tokens(key, SOURCE, 9),
    "deciphered": lambda key: metropolis.metropolis_decipher(key, SOURCE, TEXT, proposals=3, restarts=2).key,
    "kernel": lambda key: markov.random_kernel(key, 1, 2),
    "sample": lambda key: markov_sampling.sample(key, KERNEL, jnp.full(3, 1 / 3), 8),
    "stream": lambda key: markov_sampling.sample_stream(key, KERNEL, jnp.full(3, 1 / 3), 9, segments=4),
}


def assert_trees_equal(got, wanted):
    for computed, expected in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("name", DRAWS)
def test_draws_under_vmap_and_another_implementation_are_those_of_threefry_alone(name):
    draw = jax.jit(DRAWS[name])
    alone = [draw(jax.random.key(seed)) for seed in (5, 7)]
    with jax.default_prng_impl("unsafe_rbg"):
        together = jax.jit(jax.vmap(DRAWS[name]))(jnp.stack([jax.random.key(seed) for seed in (5, 7)]))
    for index, wanted in enumerate(alone):
        assert_trees_equal(jax.tree.map(lambda leaf, i=index: leaf[i], together), wanted)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_token_has_one_vector(implementation):
    expected, ids = gaussian_rows(jax.random.key(0), jnp.array([3, 5]), DIM), jnp.array([3, 5, 3])
    with jax.default_prng_impl(implementation):
        np.testing.assert_array_equal(gaussian_rows(jax.random.key(0), ids, DIM), expected[jnp.array([0, 1, 0])])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_loss_by_blocks_is_the_whole_one(implementation):
    with jax.default_prng_impl(implementation):
        keys, targets = row_keys(jax.random.key(0), jnp.arange(2)), jnp.array([[0, 5, 3], [1, 1, 2]])
        features = 0.2 * TABLE[targets]
        drawn = draw_lexicon(LexiconConfig("lexinvariant"), None, keys, VOCAB, DIM)
        config = LexiconConfig("lexinvariant", vocab_block=4)
        blocks = blockwise_nll(config, None, keys, features, targets, VOCAB)
        np.testing.assert_allclose(blocks, token_nll(readout(features, drawn), targets), atol=1e-5)


def test_the_bank_is_the_same_in_every_run():
    wanted = bank(VOCAB, DIM)
    for implementation in IMPLEMENTATIONS:
        with jax.default_prng_impl(implementation):
            np.testing.assert_array_equal(bank(VOCAB, DIM), wanted)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_member_of_a_population_is_trained_as_it_would_be_alone(implementation):
    def loss(params, batch, key):
        return jnp.sum(params * jax.random.normal(key, params.shape)) + jnp.sum(batch), {}

    optimizer = optax.sgd(1.0)

    def trained(population, seeds):
        step = make_train_step(loss, optimizer, population=population)
        start = create_population(lambda key: create_state(jnp.zeros(3), optimizer, key), seeds)
        return step(start, jnp.zeros((2, len(seeds), 1)))[0]

    with jax.default_prng_impl(implementation):
        together = trained("vmap", (5, 7))
        for index, seed in enumerate((5, 7)):
            np.testing.assert_array_equal(member(together, index).params, trained("map", (seed,)).params[0])
