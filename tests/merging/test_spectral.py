"""Spectra of coarse and lifted graphs, and two findings about the theorem on spectral distance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.merging.spectral import (
    coarsen,
    laplacian_spectrum,
    lift,
    normalised_laplacian,
    spectral_bound,
    spectral_distance,
    token_graph,
)

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
