"""Weighted PageRank against linear algebra, the head filter, and the order of the stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.merging import pagerank
from lexinv.merging.plan import sources

weighted_pagerank = jax.jit(pagerank.weighted_pagerank, static_argnums=1)
similarity_prune = jax.jit(pagerank.similarity_prune, static_argnums=(2, 3))
keep_heads = jax.jit(pagerank.keep_heads, static_argnums=(1, 2))
root_mean_square = jax.jit(pagerank.root_mean_square)
zero_shot_prune = jax.jit(pagerank.zero_shot_prune, static_argnums=(2, 3, 4), static_argnames=("ranking",))
importance_first_prune = jax.jit(pagerank.importance_first_prune, static_argnums=(2, 3, 4))
SEEDS = st.integers(0, 10**6)


def attention_of(seed: int, heads: int = 2, tokens: int = 8) -> np.ndarray:
    logits = 1.5 * np.random.default_rng(seed).normal(size=(heads, tokens, tokens))
    weights = np.exp(logits)
    return (weights / weights.sum(2, keepdims=True)).astype(np.float32)


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_votes_are_powers_of_the_transpose(seed):
    """Dense power iteration in float64; the sum over tokens is conserved; one vote from even is the column means."""
    attention = attention_of(seed)
    start = np.random.default_rng(seed).uniform(0.5, 2, 8).astype(np.float32)
    found = np.asarray(weighted_pagerank(jnp.asarray(attention), 5, jnp.asarray(start)))
    for head in range(2):
        expected = start.astype(np.float64) / start.mean()
        for _ in range(5):
            expected = attention[head].astype(np.float64).T @ expected
        np.testing.assert_allclose(found[head], expected, rtol=1e-4)
    np.testing.assert_allclose(found.sum(1), 8, rtol=1e-5)
    once = weighted_pagerank(jnp.asarray(attention), 1)
    np.testing.assert_allclose(once, 8 * attention.mean(1), rtol=1e-5)


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_the_fixed_point_is_the_left_perron_vector(seed):
    attention = attention_of(seed)
    found = np.asarray(weighted_pagerank(jnp.asarray(attention), 1000))  # some graphs mix slowly
    for head in range(2):
        values, vectors = np.linalg.eig(attention[head].astype(np.float64).T)
        perron = np.abs(vectors[:, np.argmax(values.real)].real)
        np.testing.assert_allclose(found[head], 8 * perron / perron.sum(), rtol=1e-4)


def test_head_filter():
    """A constant head has variance 0; (0, 2) alternating has 1; (0.5, 1.5) has 0.25. Scale does not matter."""
    scores = jnp.array([[1.0] * 4, [0, 2, 0, 2], [0.5, 1.5, 0.5, 1.5], [5, 15, 5, 15]])
    assert keep_heads(scores).tolist() == [False, False, True, True]
    assert keep_heads(scores[:2]).tolist() == [True, True]  # none passes: all stay


def test_one_head_is_not_outvoted():
    """A token that matters to 1 of 4 heads has half of that head's score, where the mean would give a quarter."""
    scores = jnp.zeros((4, 3)).at[0, 1].set(3.0)
    np.testing.assert_allclose(root_mean_square(scores, jnp.ones(4, bool)), [0, 1.5, 0])
    np.testing.assert_allclose(root_mean_square(scores, jnp.array([True, False, False, False])), [0, 3, 0])
    drawn = jax.random.uniform(jax.random.key(0), (4, 9))
    assert np.all(np.asarray(root_mean_square(drawn, jnp.ones(4, bool)) - drawn.mean(0)) > -1e-6)


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_duplicates_of_more_important_tokens_are_dropped(seed):
    """Against a loop; CLS is untouched though everything resembles it, and nothing of the more important half goes."""
    rng = np.random.default_rng(seed)
    similarity = rng.permutation(121).reshape(11, 11).astype(np.float32) / 121
    similarity[:, 0] = 2
    scores = rng.permutation(11).astype(np.float32)
    plan = similarity_prune(jnp.asarray(similarity), jnp.asarray(scores), 3)
    ranked = [i for i in np.argsort(-scores) if i]
    upper, lower = ranked[:5], ranked[5:]
    best = {a: max(upper, key=lambda b, a=a: similarity[a, b]) for a in lower}
    gone = sorted(lower, key=lambda a: -similarity[a, best[a]])[:3]
    assert plan.anchor.tolist() == [i for i in range(11) if i not in gone]
    assert np.flatnonzero(np.asarray(plan.weight) == 0).tolist() == sorted(gone)
    assert all(plan.anchor[plan.assign[a]] == best[a] for a in gone)


def majority() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups, attention and similarity of CLS, eight copies of a background, and three parts of an object that attend to each other."""
    groups = np.array([2] + [0] * 8 + [1] * 3)
    weights = np.where(groups[:, None] == groups[None, :], np.where(groups == 1, 5.0, np.e)[:, None], 1.0)
    weights[0, 0] = 1.0
    attention = (weights / weights.sum(1, keepdims=True)).astype(np.float32)[None]
    copies = (groups[:, None] == 0) & (groups[None, :] == 0)
    return groups, attention, np.maximum(copies, np.eye(12)).astype(np.float32)


def test_duplicates_go_before_a_majority_can_vote_for_itself():
    """Attention is symmetric before its softmax, so that importance is its row sum: 8e + 4 against 3 * 5 + 9 before, 6e + 4 against
    3 * 5 + 7 after two copies are gone. PageRank alone or first keeps no part of the object; after the S-stage it keeps all.
    """
    groups, attention, similarity = majority()
    for prune, copies, objects in (
        (zero_shot_prune, 2, 3),
        (zero_shot_prune, 0, 0),
        (importance_first_prune, 2, 0),  # before the S-stage has a say
        (importance_first_prune, 0, 0),
    ):
        plan = prune(jnp.asarray(attention), jnp.asarray(similarity), copies, 7 - copies, 20)
        assert plan.anchor.shape == (5,) and plan.anchor[0] == 0 and np.asarray(sources(plan)).sum() == 5
        assert sum(groups[i] == 1 for i in plan.anchor.tolist()) == objects


def test_rankings_by_head():
    """Without the filter a head that is constant counts; the mean over heads has mean 1 and is never above the root mean square."""
    attention = jnp.asarray(attention_of(5, 3)).at[2].set(1 / 8)
    full, every, mean = (
        jax.jit(rank, static_argnums=1)(attention, 3)
        for rank in (pagerank.importance, pagerank.all_heads, pagerank.mean_importance)
    )
    np.testing.assert_allclose(every, root_mean_square(weighted_pagerank(attention, 3), jnp.ones(3, bool)), rtol=1e-6)
    assert np.abs(np.asarray(full - every)).max() > 0.01
    assert np.all(np.asarray(every) >= np.asarray(mean) - 1e-6) and np.abs(np.asarray(every - mean)).max() > 1e-3
    assert float(mean.mean()) == pytest.approx(1, rel=1e-5)
    assert [pagerank.votes_of_layer(layer, 12) for layer in (0, 2, 3, 8, 9, 11)] == [30, 30, 5, 5, 1, 1]
