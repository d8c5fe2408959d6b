"""Layouts of clusters, the baseline that knows them, and exponents."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.merging.spectral_distance import (
    LAYOUTS,
    PRESETS,
    by_cluster,
    cluster_sizes,
    draw,
    goal_of,
)


@pytest.mark.parametrize("tokens", [32, 64, 200])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tokens):
    sizes = cluster_sizes(layout, tokens)
    assert sum(sizes) == tokens and min(sizes) >= 1 and sizes[0] == max(sizes)
    assert len(set(sizes)) == 1 if layout == "equal" else sizes[0] > sizes[1]
    config = replace(PRESETS["cpu"], tokens=tokens)
    x, labels = draw(layout, config, 0.01, 0)
    assert np.bincount(labels).tolist() == sizes
    assert x.shape == (tokens, config.width)
    if layout == "parity":
        assert set(labels[0::2]) == {0} and 0 not in labels[1::2]
    assert len(sizes) <= goal_of(layout, tokens) < tokens * 7 / 8
    again, _ = draw(layout, config, 0.1, 0)
    centres = x - (again - x) * 0.01 / 0.09
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-9)


def test_the_oracle_merges_within_clusters_the_largest_first():
    labels = np.array([1, 0, 0, 2, 0, 1, 0])
    assert by_cluster(labels, 5).tolist() == [0, 1, 1, 3, 1, 5, 6]
    assert by_cluster(labels, 3).tolist() == [0, 1, 1, 3, 1, 0, 1]
