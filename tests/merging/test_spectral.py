"""Spectra of coarse and lifted graphs, and what was found about the theorem on spectral distance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.energy import energies, energy_matching
from lexinv.merging.plan import merge
from lexinv.merging.spectral import (
    coarsen,
    laplacian_spectrum,
    lift,
    normalised_laplacian,
    purity,
    spectral_bound,
    spectral_distance,
    token_graph,
)
from lexinv.validation import InvalidConfig

SEEDS = st.integers(0, 10**6)
UNEQUAL = np.array([0, 0, 0, 0, 1, 1, 2, 3, 3])
EQUAL = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])


def graph_of(seed: int, tokens: int = 9) -> np.ndarray:
    return token_graph(np.random.default_rng(seed).normal(size=(tokens, 4)))


def distance_to_set(values: np.ndarray, among: np.ndarray) -> float:
    """How far the farthest of `values` is from its nearest of `among`."""
    return float(np.abs(values[:, None] - among[None, :]).min(1).max())


def test_graph_by_hand():
    x = np.array([[1.0, 0], [0, 2], [3, 3], [0, 0]])
    half = 1 - np.sqrt(0.5)
    expected = [[0, 1, half, 1], [1, 0, half, 1], [half, half, 0, 1], [1, 1, 1, 0]]
    np.testing.assert_allclose(token_graph(x), expected, atol=1e-12)
    with pytest.raises(InvalidConfig, match="row 2"):
        token_graph(np.array([[1.0], [2.0], [np.nan]]))


def test_spectra_of_known_graphs():
    """Complete graph: 0 and N/(N-1). A path of two: 0 and 2. A node without weight adds a 0."""
    np.testing.assert_allclose(laplacian_spectrum(1 - np.eye(5)), [0] + [1.25] * 4, atol=1e-12)
    pair = np.zeros((3, 3))
    pair[0, 1] = pair[1, 0] = 4.0
    np.testing.assert_allclose(laplacian_spectrum(pair), [0, 0, 2], atol=1e-12)
    assert not np.any(normalised_laplacian(np.zeros((3, 3))))


def test_coarse_and_lifted_by_hand():
    weights = np.array([[0.0, 2, 4], [2, 0, 6], [4, 6, 0]])
    assign = np.array([0, 1, 0])
    np.testing.assert_array_equal(coarsen(weights, assign, 2), [[8, 8], [8, 0]])
    np.testing.assert_array_equal(coarsen(weights, assign, 2, "mean"), [[2, 4], [4, 0]])
    np.testing.assert_array_equal(lift(weights, assign, 2), [[2, 4, 2], [4, 0, 4], [2, 4, 2]])


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_lifted_spectrum_is_that_of_the_sums_and_ones(seed):
    """Finding 1: the lemma holds for sums of weights between groups, whatever their sizes."""
    weights = graph_of(seed)
    for assign, targets in ((UNEQUAL, 4), (EQUAL, 3)):
        lifted = laplacian_spectrum(lift(weights, assign, targets))
        coarse = laplacian_spectrum(coarsen(weights, assign, targets))
        np.testing.assert_allclose(lifted, np.sort([*coarse, *[1.0] * (9 - targets)]), atol=1e-9)


def test_means_of_weights_do_not_have_that_spectrum():
    """Finding 1: unless all groups are equal."""
    for seed in range(5):
        weights = graph_of(seed)
        means = laplacian_spectrum(coarsen(weights, UNEQUAL, 4, "mean"))
        assert distance_to_set(means, laplacian_spectrum(lift(weights, UNEQUAL, 4))) > 0.01
        means = laplacian_spectrum(coarsen(weights, EQUAL, 3, "mean"))
        assert distance_to_set(means, laplacian_spectrum(lift(weights, EQUAL, 3))) < 1e-9


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_single_tokens_and_duplicates_keep_the_spectrum(seed):
    x = np.random.default_rng(seed).normal(size=(5, 4))
    weights = token_graph(x)
    assert spectral_distance(weights, np.arange(5), 5) < 1e-9
    copies = np.array([0, 0, 0, 1, 2, 2, 3, 4])
    assert (
        spectral_distance(token_graph(x[copies]), copies, 5) < 1e-5
    )  # rounding: W of copies is 1e-16, its root counts
    assert spectral_distance(weights, np.array([0, 1, 2, 3, 0]), 4) > 1e-3
    assert spectral_distance(token_graph(np.ones((4, 3))), np.array([0, 0, 1, 1]), 2) == 0


def test_the_bound_can_be_broken():
    """Finding 2: in a narrow cone all weights shrink with its square. The bound does too, the distance of normalised spectra stays."""
    rng = np.random.default_rng(0)
    axis, spread = np.eye(16)[0] * 10, rng.normal(size=(9, 16)) * (np.arange(16) > 0)
    distances, bounds = [], []
    for width in (1.0, 0.1, 0.01):
        weights = token_graph(axis + width * spread)
        distances.append(spectral_distance(weights, np.array([0, 0, 1, 2, 3, 4, 5, 6, 7]), 8))
        bounds.append(spectral_bound(weights, [(0, 1)]))
    assert distances[2] == pytest.approx(distances[1], rel=0.02) and distances[2] > 0.05
    assert bounds[1] < 0.02 * bounds[0] and bounds[2] < 0.02 * bounds[1]
    assert bounds[2] < distances[2]


METHODS = {
    "tome": lambda c, r, mask: bipartite_matching(c, r, protect=0, mask=mask),
    "protect": lambda c, r, mask: energy_matching(c, energies(c, 0.5, mask=mask), r, "protect", 0, mask),
    "ordered": lambda c, r, mask: energy_matching(c, energies(c, 0.5, mask=mask), r, "ordered", 0, mask),
}


def clusters(sizes: list[int], noise: float, seed: int) -> np.ndarray:
    """Tokens around orthonormal centres in 32 dimensions, cluster after cluster."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return centres[labels] + noise / np.sqrt(32) * rng.normal(size=(len(labels), 32))


@partial(jax.jit, static_argnums=1)
def shrunk(x, method, steps, goal):
    """`assign` of 64 tokens after steps that each merge an eighth of what is left, matched on current means; no further than `goal`.

    Targets are padded back to 64, so that one compile serves all steps.
    """

    def step(_, carry):
        y, size, assign = carry
        plan = METHODS[method](cosine_similarity(y), 8, size > 0)
        merged, sizes = merge(plan, y, size)
        after = jnp.pad(merged, ((0, 8), (0, 0))), jnp.pad(sizes, (0, 8)), plan.assign[assign]
        return jax.tree.map(lambda new, old: jnp.where(jnp.sum(size > 0) > goal, new, old), after, carry)

    return jax.lax.fori_loop(0, steps, step, (x, jnp.ones(64), jnp.arange(64, dtype=jnp.int32)))[2]


def merged(x: np.ndarray, method: str, steps: int, goal: int = 1) -> np.ndarray:
    """The same, numbered from 0 without gaps."""
    return np.unique(np.asarray(shrunk(jnp.asarray(x, jnp.float32), method, steps, goal)), return_inverse=True)[1]


def odd_first(labels: np.ndarray) -> np.ndarray:
    """Places that put the first half of the tokens, sorted by label, on the odd indices."""
    places = np.empty(len(labels), int)
    half = len(labels) // 2
    places[1::2], places[0::2] = np.arange(half), np.arange(half, len(labels))
    return places


def test_a_layout_against_parity_breaks_only_tome():
    """Finding 4a: the largest cluster fills one side of ToMe's bipartition, so that all its pairs cross clusters."""
    sizes = [32, 16, 8, 4, 2, 1, 1]
    order = odd_first(np.repeat(np.arange(7), sizes))
    labels = np.repeat(np.arange(7), sizes)[order]
    x = clusters(sizes, 0.01, 0)[order]
    weights = token_graph(x)
    for steps in (1, 2):
        found = {method: merged(x, method, steps) for method in METHODS}
        distances = {
            method: spectral_distance(weights, assign, int(assign.max()) + 1) for method, assign in found.items()
        }
        assert distances["tome"] > 0.05
        assert distances["protect"] < 0.005 and distances["ordered"] < 0.005
        assert purity(found["tome"], labels) < 1 and purity(found["protect"], labels) == 1


def test_one_large_cluster_and_singletons_break_only_tome():
    """Finding 4b: 52 tokens alike and 12 alone, down to 13 tokens."""
    sizes, found = [52] + [1] * 12, {"tome": [], "protect": []}
    for seed in range(3):
        x = clusters(sizes, 0.01, seed)[np.random.default_rng(seed).permutation(64)]
        for method, distances in found.items():
            assign = merged(x, method, 30, 13)
            assert assign.max() + 1 == 13
            distances.append(spectral_distance(token_graph(x), assign, 13))
    assert max(found["protect"]) < 0.005 < 0.01 < np.mean(found["tome"])


def test_equal_clusters_break_pitome():
    """Finding 3: four clusters of 16, down to 8 tokens. Every source must go somewhere, so PiToMe merges across; ToMe does not."""
    found = {"tome": [], "protect": []}
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(64)
        x, labels = clusters([16] * 4, 0.01, seed)[order], np.repeat(np.arange(4), 16)[order]
        for method, purities in found.items():
            purities.append(purity(merged(x, method, 30, 8), labels))
    assert np.mean(found["tome"]) > 0.99
    assert np.mean(found["protect"]) < 0.9


def test_pruned_tokens_have_no_spectrum():
    with pytest.raises(InvalidConfig, match="assign"):
        spectral_distance(graph_of(0, 4), np.array([0, 1, 2, 1]), 2)
    with pytest.raises(InvalidConfig, match="assign"):
        spectral_distance(graph_of(0, 4), np.array([0, 2, 2, 0]), 3)
