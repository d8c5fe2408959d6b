"""Greedy dispersion against a plain loop, enumeration and its guarantees; ToDRE's two stages."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from lexinv.merging import diversity, k_center
from lexinv.merging.diversity import cosine_distance, isolated_token
from lexinv.merging.plan import attention_bias
from lexinv.validation import InvalidConfig

greedy = jax.jit(diversity.greedy_dispersion, static_argnums=(1, 3))
diversity_prune = jax.jit(diversity.diversity_prune, static_argnums=1)
pivot_prune = jax.jit(k_center.pivot_prune, static_argnums=(2, 3))
distances, isolated = jax.jit(cosine_distance), jax.jit(isolated_token)
closest_pair, to_chosen = jax.jit(diversity.closest_pair), jax.jit(diversity.distance_to_chosen)
SEEDS = st.integers(0, 10**6)
N, K = 12, 4


def tokens_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, 3)).astype(np.float32)


def by_loop(distance: np.ndarray, k: int, start: int, objective: str) -> list[int]:
    """Each step recomputed from all chosen."""
    chosen = [start]
    while len(chosen) < k:
        rest = [i for i in range(len(distance)) if i not in chosen]
        far = distance[:, chosen].min(1) if objective == "maxmin" else distance[:, chosen].sum(1)
        chosen.append(max(rest, key=lambda i, far=far: far[i]))
    return chosen


@pytest.mark.parametrize("objective", ["maxmin", "maxsum"])
@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_loop_chooses_the_same(objective, seed):
    x = tokens_of(seed)
    distance = np.asarray(distances(jnp.asarray(x)))
    np.testing.assert_allclose(distance, np.maximum(cdist(x, x, "cosine"), 0), atol=1e-5)
    found = greedy(jnp.asarray(distance), K, jnp.int32(seed % N), objective)
    assert found.tolist() == by_loop(distance, K, seed % N, objective)


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_greedy_is_within_its_bound_of_the_best(seed):
    """Enumerated: half of the best closest pair in chord distance, which is a metric, so a quarter in cosine distance, same choice."""
    distance = np.asarray(distances(jnp.asarray(tokens_of(seed))))
    chord = np.sqrt(np.maximum(2 * distance, 0))
    chosen = greedy(jnp.asarray(distance), K, isolated(jnp.asarray(distance)), "maxmin")
    assert set(chosen.tolist()) == set(greedy(jnp.asarray(chord), K, chosen[0], "maxmin").tolist())

    def closest(of: np.ndarray, subset: tuple[int, ...]) -> float:
        return min(of[i, j] for i, j in combinations(subset, 2))

    best = max(closest(chord, subset) for subset in combinations(range(N), K))
    found = closest(chord, tuple(chosen.tolist()))
    assert found >= best / 2
    assert float(closest_pair(jnp.asarray(distance), chosen)) == pytest.approx(found**2 / 2, abs=1e-5)
    assert found**2 / 2 >= best**2 / 2 / 4
    total = {s: sum(chord[i, j] for i, j in combinations(s, 2)) for s in combinations(range(N), K)}
    sums = tuple(sorted(greedy(jnp.asarray(chord), K, jnp.int32(0), "maxsum").tolist()))
    assert total[sums] >= max(total.values()) / 2


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_insertion_distances_fall_and_cover(seed):
    distance = distances(jnp.asarray(tokens_of(seed)))
    chosen = greedy(distance, N, isolated(distance), "maxmin")
    assert sorted(chosen.tolist()) == list(range(N))
    d = np.asarray(distance)
    insertion = [d[chosen[k], np.asarray(chosen[:k])].min() for k in range(1, N)]
    assert np.all(np.diff(insertion) <= 1e-6)
    first = greedy(distance, K, isolated(distance), "maxmin")
    assert first.tolist() == chosen[:K].tolist()
    assert float(to_chosen(distance, first).max()) <= insertion[K - 2] + 1e-6
    others = np.where(np.eye(N, dtype=bool), np.inf, d).min(1)
    assert int(chosen[0]) == int(others.argmax())


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_lengths_do_not_matter(seed):
    x = tokens_of(seed)
    scale = np.random.default_rng(seed).uniform(0.1, 10, (N, 1)).astype(np.float32)
    for plan, scaled in zip(
        diversity_prune(jnp.asarray(x), K), diversity_prune(jnp.asarray(x * scale), K), strict=True
    ):
        np.testing.assert_array_equal(plan, scaled)


def test_copies_are_chosen_last():
    """Eight copies of one token and four others: those and one copy, then no token twice."""
    x = jnp.concatenate([jnp.ones((8, 3)), jnp.asarray(tokens_of(0)[:4])])
    distance = distances(x)
    chosen = greedy(distance, N, isolated(distance), "maxmin").tolist()
    assert sum(c < 8 for c in chosen[:5]) == 1
    assert len(set(chosen)) == N


def test_the_farthest_pair_follows_from_one_end():
    distance = distances(jnp.asarray(tokens_of(3)))
    end = jnp.argmax(jnp.max(distance, axis=1)).astype(jnp.int32)
    pair = greedy(distance, K, end, "maxmin")[:2]
    assert float(distance[pair[0], pair[1]]) == float(distance.max())


def test_real_tokens_come_before_padding():
    x, mask = jnp.asarray(tokens_of(4)), jnp.arange(N) % 4 == 0
    plan = diversity_prune(x, K, mask)
    assert plan.anchor.tolist()[:4] != [] and {0, 4, 8} < set(plan.anchor.tolist())
    assert np.asarray(plan.weight).sum() == 3


def test_kept_tokens_stay_in_order_and_the_others_know_their_nearest():
    x = jnp.asarray(tokens_of(5))
    plan, distance = diversity_prune(x, K), np.asarray(distances(x))
    anchor = np.asarray(plan.anchor)
    assert anchor.tolist() == sorted(anchor.tolist())
    np.testing.assert_array_equal(anchor[np.asarray(plan.assign)], anchor[distance[:, anchor].argmin(1)])
    assert np.flatnonzero(np.asarray(plan.weight)).tolist() == anchor.tolist()


def test_case_that_separates_the_objectives():
    """u and v with cosine -0.9, many copies of each; w with cosine 0.2 to both. After u and v: w for max-min, a copy for max-sum."""
    cosine = -0.9
    u = np.array([1.0, 0, 0])
    v = np.array([cosine, np.sqrt(1 - cosine**2), 0])
    across = (0.2 - 0.2 * cosine) / v[1]
    w = np.array([0.2, across, 0])
    w[2] = np.sqrt(1 - (w**2).sum())
    x = jnp.asarray(np.stack([u] * 5 + [v] * 5 + [w]), jnp.float32)
    np.testing.assert_allclose(distances(x)[10, jnp.array([0, 5])], 0.8, atol=1e-6)
    distance = distances(x)
    assert greedy(distance, 3, jnp.int32(0), "maxmin")[2] == 10
    assert greedy(distance, 3, jnp.int32(0), "maxsum")[2] != 10
    scores = jnp.zeros(11).at[7].set(1.0)
    assert 10 in pivot_prune(x, scores, 3, "maxmin").anchor.tolist()
    kept = pivot_prune(x, scores, 3, "maxsum").anchor.tolist()
    assert 7 in kept and 10 not in kept


def test_pivot_is_real():
    scores = jnp.zeros(N).at[2].set(5.0).at[6].set(1.0)
    kept = pivot_prune(jnp.asarray(tokens_of(6)), scores, 1, "maxsum", jnp.arange(N) != 2).anchor
    assert kept.tolist() == [6]


# Order: one system token, three visual, two of text.
SYSTEM, VISUAL, TEXT = (
    jnp.asarray(np.array(kinds) == 1) for kinds in ([1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1])
)
CAUSAL = (np.tril(np.ones((6, 6))) / np.arange(1, 7)[:, None]).astype(np.float32)


def test_shares_of_even_causal_attention():
    """Text tokens see 5 and 6 tokens, three of them visual; visual tokens see no text at all under a causal mask."""
    attention = jnp.asarray(np.stack([CAUSAL, CAUSAL]))
    to_visual = k_center.attention_share(attention, TEXT, VISUAL)
    assert float(to_visual) == pytest.approx((3 / 5 + 3 / 6) / 2)
    assert float(k_center.attention_share(attention, VISUAL, TEXT)) == 0
    parts = [float(k_center.attention_share(attention, TEXT, kind)) for kind in (SYSTEM, VISUAL, TEXT)]
    assert sum(parts) == pytest.approx(1.0)
    assert float(k_center.attention_share(attention, jnp.zeros(6, bool), VISUAL)) == 0
    assert not k_center.withdraws(attention, VISUAL, TEXT, 0.5)
    assert k_center.withdraws(attention, VISUAL, TEXT, 0.6)


def test_withdrawn_tokens_are_as_good_as_gone():
    """Softmax with the bias of sizes equals softmax over the others."""
    logits = jax.random.normal(jax.random.key(0), (6,))
    size = k_center.withdraw(jnp.ones(6), VISUAL, jnp.bool_(True))
    rest = jnp.array([0, 4, 5])
    weights = jax.nn.softmax(logits + attention_bias(size))
    np.testing.assert_allclose(weights[rest], jax.nn.softmax(logits[rest]), rtol=1e-6)
    assert not np.any(weights[1:4])
    np.testing.assert_array_equal(k_center.withdraw(jnp.ones(6), VISUAL, jnp.bool_(False)), 1.0)


def test_stage_two_decides_late():
    assert [k_center.check_layer(layers) for layers in (1, 4, 8, 32)] == [0, 3, 7, 28]
    with pytest.raises(InvalidConfig, match="threshold"):
        k_center.withdraws(jnp.asarray(CAUSAL)[None], VISUAL, TEXT, -0.1)
    with pytest.raises(InvalidConfig, match="layers"):
        k_center.check_layer(0)


def test_diversity_finds_the_clusters_that_importance_misses():
    """Long-tailed clusters, as in the card's pilot: 16 tokens of 16 clusters; the most central 16 are all of few."""
    rng = np.random.default_rng(0)
    sizes = [60, 30, 16, 8, 4, 2] + [1] * 10
    cluster = np.repeat(np.arange(16), sizes)
    x = np.linalg.qr(rng.normal(size=(32, 32)))[0][cluster] + 0.3 / np.sqrt(32) * rng.normal(size=(len(cluster), 32))
    distance = distances(jnp.asarray(x, jnp.float32))
    chosen = np.asarray(greedy(distance, 16, isolated(distance), "maxmin"))
    central = np.argsort(np.asarray(distance).mean(1))[:16]
    assert len(set(cluster[chosen])) == 16
    assert len(set(cluster[central])) == 1
    assert float(closest_pair(distance, jnp.asarray(chosen))) > 0.6
    assert float(to_chosen(distance, jnp.asarray(chosen)).max()) < 0.3
