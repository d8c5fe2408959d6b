"""Bipartite soft matching against loops, brute force and hand-made cases."""

from itertools import combinations, product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.merging import bipartite
from lexinv.merging import plan as plans
from lexinv.merging.bipartite import weigh_by_importance

merge = jax.jit(plans.merge)
cosine_similarity = jax.jit(bipartite.cosine_similarity)
bipartite_matching = jax.jit(bipartite.bipartite_matching, static_argnames=("num_merge", "every", "protect"))
grid_matching = jax.jit(bipartite.grid_matching, static_argnums=(1, 2, 3, 4), static_argnames="protect")
complete_graph_matching = jax.jit(bipartite.complete_graph_matching, static_argnums=2)

SEEDS = st.integers(0, 10**6)


def similarity_of(tokens: int, seed: int) -> np.ndarray:
    """Similarities with no two alike."""
    rng = np.random.default_rng(seed)
    return rng.permutation(tokens * tokens).reshape(tokens, tokens).astype(np.float32) / tokens**2


def by_loop(x: np.ndarray, similarity: np.ndarray, r: int, protect: int) -> np.ndarray:
    """ToMe: even indices into odd ones, unmerged even ones before the odd ones, and before both what is protected."""
    tokens = len(x)
    even, odd = ([i for i in range(protect, tokens) if i % 2 == parity] for parity in (0, 1))
    r = min(r, (tokens - protect) // 2)
    best = {a: max(odd, key=lambda b, a=a: similarity[a, b]) for a in even}
    gone = sorted(even, key=lambda a: -similarity[a, best[a]])[:r]
    groups = {b: [x[b], *(x[a] for a in gone if best[a] == b)] for b in odd}
    return np.stack([*x[:protect], *(x[a] for a in even if a not in gone), *(np.mean(groups[b], axis=0) for b in odd)])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tokens, r, protect", [(9, 3, 1), (2, 1, 1), (6, 1, 0), (7, 100, 0), (6, 1, 2), (7, 100, 2)])
@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_loop_over_the_sets_of_the_released_code_merges_the_same(tokens, r, protect, masked, seed):
    """Of 6 tokens without CLS {0, 2, 4} go into {1, 3, 5}; with one or two protected tokens these are left out of their set."""
    x, similarity = np.random.default_rng(seed).normal(size=(tokens, 3)).astype(np.float32), similarity_of(tokens, seed)
    similarity[:, :protect] = 2.0  # most similar of all, and no destinations
    mask = jnp.ones(tokens, bool) if masked else None
    plan = bipartite_matching(jnp.asarray(similarity), r, protect=protect, mask=mask)
    np.testing.assert_allclose(merge(plan, jnp.asarray(x))[0], by_loop(x, similarity, r, protect), atol=1e-6)


@pytest.mark.parametrize(
    "source, destination, r",
    [
        ("001010101", "010101010", 2),
        ("001010101", "010101010", 4),
        ("110100100", "001000010", 3),
        ("000000010", "100000000", 1),
        ("011111111", "100000000", 5),
    ],
)
def test_known_sets_give_the_plan_of_sets_drawn_while_running(source, destination, r):
    sets = [np.array(list(part)) == "1" for part in (source, destination)]
    known = jax.jit(lambda c: bipartite.match_known(c, *sets, r))
    drawn = jax.jit(lambda c, s, d: bipartite.match(c, s, d, r))
    for seed in range(5):
        similarity = jnp.asarray(similarity_of(9, seed))
        chex.assert_trees_all_equal(known(similarity), drawn(similarity, *map(jnp.asarray, sets)))


def test_the_most_similar_is_the_first_largest():
    """Among equal ones, in a row with NaN, and without any."""
    rows = [[1, 3, 3, 2], [9, 1, 2, 2], [1, np.nan, 3, np.nan], [-np.inf] * 4]
    best, nearest = bipartite.most_similar(jnp.array(rows, jnp.float32), jnp.array([False, True, True, True]))
    np.testing.assert_array_equal(best, np.array([3, 2, np.nan, -np.inf], np.float32))
    assert nearest.tolist() == [1, 2, 1, 1]
    best, nearest = bipartite.most_similar(jnp.zeros((2, 3)), jnp.zeros(3, bool))
    assert best.tolist() == [-np.inf] * 2 and nearest.tolist() == [3, 3]


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_no_other_choice_of_edges_is_more_similar(seed):
    """All sets of two edges of different sources, of 3 x 4."""
    similarity = similarity_of(8, seed)
    plan = bipartite_matching(jnp.asarray(similarity), 2)
    even, odd = (2, 4, 6), (1, 3, 5, 7)
    edges = list(product(even, odd))
    best = max((p for p in combinations(edges, 2) if p[0][0] != p[1][0]), key=lambda p: sum(similarity[e] for e in p))
    anchor, assign = np.asarray(plan.anchor), np.asarray(plan.assign)
    found = {(a, int(anchor[assign[a]])) for a in even if anchor[assign[a]] != a}
    assert found == set(best)


def test_grid_has_a_destination_in_each_cell():
    """5 x 6 tokens in cells of 2 x 3: four whole cells; the last row is in none."""
    similarity = jnp.asarray(similarity_of(31, 4))
    first = grid_matching(similarity, 100, 5, 6, (2, 3), protect=1)
    assert [a - 1 for a in first.anchor.tolist()] == [-1, 0, 3, 12, 15]
    drawn = np.asarray(grid_matching(similarity, 100, 5, 6, (2, 3), protect=1, key=jax.random.key(0)).anchor)[1:] - 1
    assert {(place // 6 // 2, place % 6 // 3) for place in drawn} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert set(drawn.tolist()) != {0, 3, 12, 15}


def test_complete_graph_merges_into_what_stays():
    """Most similar to a more important one: 3 and 2 go. Token 3's favourite was 2, which is gone, so it takes the next."""
    similarity = np.full((5, 5), 0.1, np.float32)
    for i, j, value in ((3, 2, 0.9), (2, 1, 0.8), (3, 4, 0.5), (4, 1, 0.3)):
        similarity[i, j] = similarity[j, i] = value
    importance = jnp.array([0.0, 4.0, 3.0, 2.0, 1.0])
    plan = complete_graph_matching(jnp.asarray(similarity), importance, 2)
    anchor, assign = np.asarray(plan.anchor), np.asarray(plan.assign)
    assert sorted(anchor.tolist()) == [0, 1, 4]
    assert anchor[assign].tolist() == [0, 1, 1, 4, 4]
    assert complete_graph_matching(jnp.asarray(similarity), importance, 100).anchor.shape == (2,)


def test_importance_and_size_make_a_pair_less_eligible():
    similarity = jnp.asarray([[1.0, 0.5], [0.5, 1.0]])
    weighed = weigh_by_importance(similarity, jnp.array([0.5, 0.25]), jnp.array([2.0, 4.0]))
    np.testing.assert_allclose(weighed, [[1, 0.75], [0.75, 1]])
    more = weigh_by_importance(similarity, jnp.array([0.5, 0.5]), jnp.array([2.0, 4.0]))
    assert more[0, 1] == 0.75 / 2


def test_cosines():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    x[2] = 0
    found = np.asarray(cosine_similarity(jnp.asarray(x)))
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    np.testing.assert_allclose(found, unit @ unit.T, atol=1e-6)
    assert np.all(found[2] == 0)
    spoilt = np.asarray(cosine_similarity(jnp.asarray(x).at[1].set(jnp.nan)))
    assert np.all(spoilt[1] == -1) and np.all(spoilt[:, 1] == -1) and np.all(np.isfinite(spoilt))
    assert cosine_similarity(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(
    "matching, all_pairs",
    [
        (lambda c: bipartite.bipartite_matching(c, 5), False),
        (lambda c: bipartite.bipartite_matching(c, 5, every=3, protect=0), False),
        (lambda c: bipartite.grid_matching(c, 9, 5, 5), False),
        (lambda c: bipartite.bipartite_matching(c, 5, key=jax.random.key(1)), True),
        (lambda c: bipartite.grid_matching(c, 9, 5, 5, key=jax.random.key(1)), False),
    ],
)
def test_cosines_across_the_sets_alone_give_the_same_plan(matching, all_pairs):
    """With a token of zeros and one that is not finite; and where the sets are known, no product of all tokens with all is made."""
    x = np.random.default_rng(0).standard_normal((25, 4)).astype(np.float32)
    x[3], x[8] = 0, np.inf

    def across(x):
        return matching(bipartite.cosines(x))

    chex.assert_trees_all_equal(jax.jit(across)(jnp.asarray(x)), jax.jit(matching)(cosine_similarity(jnp.asarray(x))))
    assert ("f32[25,25]" in str(jax.make_jaxpr(across)(jnp.asarray(x)))) == all_pairs


@pytest.mark.parity
@pytest.mark.parametrize(
    "height, width, cell, r", [(4, 6, (2, 2), 7), (4, 6, (2, 2), 100), (5, 7, (2, 3), 9), (8, 8, (4, 2), 20)]
)
def test_tomesd_merges_the_same_on_a_grid(height, width, cell, r):
    torch, tomesd = pytest.importorskip("torch"), pytest.importorskip("tomesd")
    x = np.random.default_rng(r).normal(size=(height * width, 5)).astype(np.float32)
    plan = grid_matching(cosine_similarity(jnp.asarray(x)), r, height, width, cell)
    there = torch.from_numpy(x)[None]
    do, undo = tomesd.merge.bipartite_soft_matching_random2d(there, width, height, cell[1], cell[0], r, no_rand=True)
    assert do(there).shape[1] == plan.anchor.shape[0]
    ours = plans.unmerge(plan, merge(plan, jnp.asarray(x))[0])
    np.testing.assert_allclose(ours, undo(do(there))[0].numpy(), atol=1e-6)
