"""Composite tokens against loops, ends that do not leak, entropies with analytic values, and gradients that go where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.composite import (
    attention_entropy,
    binding_loss,
    emptied,
    excitation_loss,
    merge_words,
    object_maps,
    refine,
    substitute_end,
)
from lexinv.validation import InvalidConfig

TOKENS, WIDTH, LENGTH = 10, 6, 7
EMBEDDINGS = jax.random.normal(jax.random.key(0), (TOKENS, WIDTH))
NOUNS = jnp.asarray([2, 6])


def groups(*objects):
    found = np.zeros((len(objects), TOKENS), np.float32)
    for row, words in zip(found, objects, strict=True):
        for place, weight in words.items():
            row[place] = weight
    return jnp.asarray(found)


PAIRS = groups({1: 1.2, 2: 1.1}, {5: 1.0, 6: 1.0})


def test_merging_is_what_a_loop_gives():
    expected = np.array(EMBEDDINGS)
    expected[2] = 1.2 * expected[1] + 1.1 * expected[2]
    expected[6] = expected[5] + expected[6]
    expected[1] = expected[5] = 0
    np.testing.assert_allclose(merge_words(EMBEDDINGS, PAIRS, NOUNS, LENGTH), expected, atol=1e-6)
    assert np.flatnonzero(np.asarray(emptied(PAIRS, NOUNS))).tolist() == [1, 5]


def test_nouns_alone_are_left_as_they_are_and_sums_are_kept():
    np.testing.assert_array_equal(merge_words(EMBEDDINGS, groups({2: 1.0}, {6: 1.0}), NOUNS, LENGTH), EMBEDDINGS)
    merged = merge_words(EMBEDDINGS, groups({1: 1.0, 2: 1.0}, {5: 1.0, 6: 1.0}), NOUNS, LENGTH)
    np.testing.assert_allclose(jnp.sum(merged, axis=0), jnp.sum(EMBEDDINGS, axis=0), atol=1e-5)


def test_other_ends_change_nothing_before_and_nothing_twice():
    other = -EMBEDDINGS
    found = substitute_end(EMBEDDINGS, other, LENGTH)
    np.testing.assert_array_equal(found[:LENGTH], EMBEDDINGS[:LENGTH])
    np.testing.assert_array_equal(found[LENGTH:], other[LENGTH:])
    np.testing.assert_array_equal(substitute_end(found, other, LENGTH), found)


def test_entropies_of_known_maps():
    even, point = jnp.full((1, 4, 8), 0.3), jnp.zeros((1, 4, 8)).at[0, 1, 2].set(0.7)
    assert attention_entropy(even) == pytest.approx(np.log(32), abs=1e-5)
    assert attention_entropy(point) == pytest.approx(0, abs=1e-6)
    both = jnp.concatenate([even, point])
    assert attention_entropy(both) == pytest.approx(np.log(32), abs=1e-5)
    drawn = jax.random.uniform(jax.random.key(1), (2, 4, 8))
    assert attention_entropy(5 * drawn) == pytest.approx(float(attention_entropy(drawn)), rel=1e-4)
    np.testing.assert_allclose(object_maps(drawn).sum(axis=(1, 2)), 1.0, rtol=1e-5)
    assert excitation_loss(jnp.stack([0.9 * even[0], point[0]])) == pytest.approx(1 - 0.27)


def test_descent_lowers_the_entropy_of_attention():
    queries = jax.random.normal(jax.random.key(2), (8, WIDTH))

    def entropy(text):
        return attention_entropy(jax.nn.softmax(queries @ text.T, axis=1).T[NOUNS])

    found = [entropy(refine(entropy, EMBEDDINGS, 0.05, steps)) for steps in (0, 3, 10)]
    assert found[2] < found[1] < found[0] == entropy(EMBEDDINGS)


def test_binding_draws_the_token_to_its_phrase():
    weights = jax.random.normal(jax.random.key(3), (WIDTH, 5))

    def predict(said):
        return jnp.mean(said, axis=0) @ weights

    token, anchor = EMBEDDINGS[2:3], EMBEDDINGS[:3]
    assert binding_loss(predict, token, token) == 0
    assert binding_loss(predict, token, anchor) == pytest.approx(
        float(np.mean((np.asarray(token[0] - anchor.mean(axis=0)) @ np.asarray(weights)) ** 2)), rel=1e-4
    )
    assert not np.asarray(jax.grad(lambda a: binding_loss(predict, token, a))(anchor)).any()
    moved = refine(lambda t: binding_loss(predict, t, anchor), token, 0.05, 3)
    assert binding_loss(predict, moved, anchor) < 0.9 * binding_loss(predict, token, anchor)


def test_a_tree_goes_down_with_a_rate_for_each_leaf():
    found = refine(lambda now: jnp.sum(now[0] ** 2) + now[1] ** 2, (jnp.ones(2), jnp.ones(())), (0.25, 0.0), 2)
    np.testing.assert_allclose(found[0], 0.25)
    assert found[1] == 1


@pytest.mark.parametrize(
    ("objects", "nouns", "field"),
    [
        (({1: 1.0, 2: 1.0}, {2: 1.0, 6: 1.0}), [1, 6], "groups"),
        (({1: 1.0, 2: 1.0}, {6: 1.0, 8: 1.0}), [2, 6], "groups"),
        (({1: 1.0, 2: 1.0}, {5: 1.0, 6: 1.0}), [2, 4], "nouns"),
    ],
)
def test_bad_groups_are_refused(objects, nouns, field):
    with pytest.raises(InvalidConfig, match=field):
        merge_words(EMBEDDINGS, groups(*objects), jnp.asarray(nouns), LENGTH)


def test_a_prompt_without_ends_is_refused():
    with pytest.raises(InvalidConfig, match="length"):
        substitute_end(EMBEDDINGS, EMBEDDINGS, TOKENS)
