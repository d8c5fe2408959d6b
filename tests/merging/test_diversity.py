"""Greedy dispersion against a plain loop and enumeration; ToDRE's two stages."""

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
from lexinv.nn.attention import size_bias

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
    for start in (seed % N, isolated(jnp.asarray(distance))):
        found = greedy(jnp.asarray(distance), K, jnp.int32(start), objective)
        assert found.tolist() == by_loop(distance, K, int(start), objective)
    to_others = np.where(np.eye(N, dtype=bool), np.inf, distance)
    assert int(start) == to_others.min(1).argmax()
    assert float(closest_pair(jnp.asarray(distance), found)) == to_others[np.ix_(found, found)].min()
    np.testing.assert_array_equal(to_chosen(jnp.asarray(distance), found), distance[:, found].min(1))


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_greedy_reaches_half_of_the_best(seed):
    """Enumerated, in chord distance, which is a metric: the closest pair, and the sum over pairs."""
    chord = np.sqrt(2 * np.asarray(distances(jnp.asarray(tokens_of(seed)))))
    for objective, total in (("maxmin", min), ("maxsum", sum)):
        chosen = greedy(jnp.asarray(chord), K, jnp.int32(0), objective).tolist()
        found, *others = (
            total(chord[pair] for pair in combinations(subset, 2)) for subset in (chosen, *combinations(range(N), K))
        )
        assert found >= max(others) / 2


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
    weights = jax.nn.softmax(logits + size_bias(size))
    np.testing.assert_allclose(weights[rest], jax.nn.softmax(logits[rest]), rtol=1e-6)
    assert not np.any(weights[1:4])
    np.testing.assert_array_equal(k_center.withdraw(jnp.ones(6), VISUAL, jnp.bool_(False)), 1.0)


def test_stage_two_decides_late():
    assert [k_center.check_layer(layers) for layers in (1, 4, 8, 32)] == [0, 3, 7, 28]
