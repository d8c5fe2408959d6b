"""Trees against their definition, and drafted texts against those of one token a forward, for good, bad and learning drafts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.decoding.drafts import SmallModel, lookup, recycle, recycled, recycling, small_model, successors
from lexinv.decoding.speculation import Text, speculate
from lexinv.decoding.trees import PUBLISHED, chain, likeliest, tree, verify
from lexinv.nn import language_model
from lexinv.nn.cache import empty_cache, make_extend
from lexinv.nn.generation import generate
from lexinv.nn.language_model import BOS
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.sampling import Sampling
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

VOCAB, STEPS, SLOTS = 11, 40, 64
CONFIG = TransformerConfig(depth=2, width=16, heads=2, mlp_width=32, max_length=SLOTS, unroll=2)
EXTEND = make_extend(CONFIG, VOCAB)
PROMPT, COUNT = jnp.array([[BOS, 1, 2, 3], [BOS, 4, 0, 0]]), jnp.array([4, 2])
KEYS = jax.random.split(jax.random.key(5), 2)
TREE = likeliest(12, PUBLISHED)


def initialized(seed):
    params = jax.jit(lambda key: language_model.initialize(CONFIG, LexiconConfig(), VOCAB, key))(jax.random.key(seed))
    return params | {"table": 3 * params["table"]}  # confident enough that drafts are accepted now and then


@pytest.fixture(scope="module")
def params():
    return initialized(0)


def cache():
    return empty_cache(CONFIG, 2, SLOTS)


def speculated(params, draft, state, sampling, stop=()):
    given = params, params["table"], cache(), PROMPT, COUNT, KEYS, STEPS, sampling
    return speculate(EXTEND, *given, draft, state, stop), generate(EXTEND, *given, stop)


def test_the_published_tree_has_its_nodes_and_each_sees_its_way_to_the_root():
    assert np.bincount(PUBLISHED.depth).tolist() == [1, 8, 21, 25, 15, 8, 3]
    assert PUBLISHED.visible.sum() == np.sum(PUBLISHED.depth + 1)
    for node, path in enumerate(PUBLISHED.paths):
        seen = {PUBLISHED.paths[other] for other in np.nonzero(PUBLISHED.visible[node])[0]}
        assert seen == {path[:depth] for depth in range(len(path) + 1)}
    assert (np.diff(PUBLISHED.depth) >= 0).all()
    assert likeliest(4, PUBLISHED).paths == ((), (0,), (1,), (2,), (0, 0))


@pytest.mark.parametrize("paths", [[(0, 1)], [(0,), (0,)], [(0,), ()], [(-1,)]])
def test_a_tree_that_is_not_closed_is_refused(paths):
    with pytest.raises(InvalidConfig, match="paths"):
        tree(paths)


def test_verification_is_the_walk_from_the_root():
    rng = np.random.default_rng(0)
    tokens, chosen = rng.integers(0, 3, (200, len(TREE))), rng.integers(0, 3, (200, len(TREE)))
    found = verify(TREE, jnp.asarray(tokens), jnp.asarray(chosen))
    for row in range(200):
        right = {0: (0,)}
        for node in range(1, len(TREE)):
            parent = int(TREE.parent[node])
            if parent in right and tokens[row, node] == chosen[row, parent]:
                right[node] = (*right[parent], node)
        best = max(right, key=lambda node: (TREE.depth[node], -node))
        assert found.accepted[row] == len(right[best]) - 1
        assert tuple(found.path[row, : len(right[best])].tolist()) == right[best]
        assert found.bonus[row] == chosen[row, best]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("kind", ["recycled", "adversarial", "accepted only", "lookup", "small model"])
def test_texts_are_those_of_one_token_a_forward(params, kind, temperature):
    zeros = jnp.zeros((VOCAB, 8), jnp.int32)
    draft, state = {
        "recycled": (recycling(TREE), zeros),
        "adversarial": (
            recycling(TREE, learns=False),
            jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, (VOCAB, 8))),
        ),
        "accepted only": (recycling(TREE, rejected=False, kept=False), zeros + 3),
        "lookup": (lookup(5), ()),
        "small model": (small_model(EXTEND, 3), SmallModel(initialized(1), initialized(1)["table"], cache())),
    }[kind]
    found, want = speculated(params, draft, state, Sampling(temperature))
    np.testing.assert_array_equal(found.tokens, want.tokens)
    np.testing.assert_array_equal(found.alive, want.alive)
    assert (found.forwards <= STEPS).all()
    if kind in ("recycled", "lookup") and not temperature:
        assert (found.forwards < STEPS).all()  # a greedy text loops, which its past foretells


def test_a_sequence_ends_with_its_stop_token_in_the_middle_of_a_draft(params):
    sampling = Sampling(1.0)
    free, _ = speculated(params, recycling(TREE), jnp.zeros((VOCAB, 8), jnp.int32), sampling)
    stop = (int(free.tokens[0, 7]),)
    found, want = speculated(params, recycling(TREE), jnp.zeros((VOCAB, 8), jnp.int32), sampling, stop)
    np.testing.assert_array_equal(found.tokens, want.tokens)
    np.testing.assert_array_equal(found.alive, want.alive)
    assert not found.alive[0, 8]


def test_the_model_as_its_own_draft_is_always_right(params):
    found, _ = speculated(params, small_model(EXTEND, 4), SmallModel(params, params["table"], cache()), Sampling(1.0))
    np.testing.assert_array_equal(found.forwards, [STEPS / 5] * 2)


def test_a_matrix_of_true_successors_makes_every_draft_right_and_one_of_none_costs_a_forward_each():
    """A model of first order, here token t + 1 after t, by an `extend` of its own."""

    def extend(params, table, memory, tokens, count, depth=None, visible=None):
        logits = 50.0 * jax.nn.one_hot((jnp.maximum(tokens, 0) + 1) % VOCAB, VOCAB)
        return logits, memory._replace(length=memory.length + count)

    following = jnp.asarray(np.add.outer(np.arange(VOCAB) + 1, np.arange(8)) % VOCAB)
    for matrix, forwards in ((following, -(-STEPS // 7)), (following + 1, STEPS)):
        draft = recycling(PUBLISHED, learns=False)
        wide = empty_cache(TransformerConfig(depth=1, width=4, heads=1, mlp_width=4, max_length=256), 2, 256)
        found = speculate(
            extend, {}, jnp.zeros((VOCAB, 4)), wide, PROMPT, COUNT, KEYS, STEPS, Sampling(0.0), draft, matrix % VOCAB
        )
        np.testing.assert_array_equal(found.forwards, [forwards] * 2)
        np.testing.assert_array_equal(found.tokens[0], (4 + np.arange(STEPS)) % VOCAB)


def test_of_equal_tokens_the_first_in_order_is_recycled():
    matrix = jnp.zeros((5, 2), jnp.int32)
    rows = jnp.array([[1, 1], [2, 2], [3, 3], [4, 4]])
    found = jax.jit(recycle)(matrix, jnp.array([4, 2, 4, BOS]), rows, jnp.array([0, 1, 2, 3]))
    np.testing.assert_array_equal(found, [[0, 0], [0, 0], [2, 2], [0, 0], [3, 3]])
    paths = tree([(0,), (1,), (1, 0)])
    np.testing.assert_array_equal(
        recycled(jnp.array([[1, 2], [3, 4], [0, 3], [3, 3], [2, 0]]), jnp.array([1]), paths), [[1, 3, 4, 2]]
    )


def test_bigrams_are_the_commonest_successors():
    found = successors(np.array([0, 1, 0, 1, 0, 2, 0, 2, 0, 3, 1]), 4, 2)
    np.testing.assert_array_equal(found, [[1, 2], [0, 0], [0, 0], [1, 0]])


def test_lookup_takes_the_longest_then_the_last_match_and_repeats_a_loop():
    text = np.zeros((3, 12), np.int32)
    text[0, :9] = [1, 2, 3, 9, 2, 3, 8, 1, 2]  # then 3: (1, 2, 3) goes on with 9
    text[1, :4] = [5, 6, 5, 6]  # then 5: the loop goes on
    text[2, :4] = [1, 2, 3, 4]  # then 7: nowhere before
    keys = jax.random.split(jax.random.key(0), 3)
    given = Text(jnp.asarray(text), jnp.array([9, 4, 4]), jnp.array([3, 5, 7]), keys, Sampling())
    found, _ = lookup(4).propose((), given)
    np.testing.assert_array_equal(found, [[3, 9, 2, 3, 8], [5, 6, 5, 6, 5], [7, 0, 0, 0, 0]])


def test_too_little_room_is_refused(params):
    given = params, params["table"], cache(), PROMPT, COUNT, KEYS, STEPS, Sampling()
    with pytest.raises(InvalidConfig, match="at least 123 slots"):
        speculate(EXTEND, *given, recycling(PUBLISHED), jnp.zeros((VOCAB, 8), jnp.int32))
    with pytest.raises(InvalidConfig, match="length"):
        chain(0)
