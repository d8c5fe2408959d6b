"""Density peaks on clusters that are there, and every quantity against a loop in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging import density_peaks as peaks
from lexinv.merging.plan import merge

density_peaks = jax.jit(peaks.density_peaks, static_argnames=("num_clusters", "neighbours"))
distances = jax.jit(peaks.euclidean_distance)
X = np.random.default_rng(0).normal(size=(15, 6)).astype(np.float32)


def test_density_and_distance_to_denser_tokens_by_loops():
    distance = np.asarray(peaks.euclidean_distance(jnp.asarray(X)), np.float64)
    density = [np.exp(-np.mean(np.sort(np.delete(distance[i], i))[:4] ** 2)) for i in range(15)]
    found = peaks.local_density(jnp.asarray(distance, jnp.float32), 4)
    np.testing.assert_allclose(found, density, rtol=1e-5)
    delta = [
        min((distance[i, j] for j in range(15) if density[j] > density[i]), default=max(distance[i])) for i in range(15)
    ]
    np.testing.assert_allclose(peaks.denser_distance(jnp.asarray(distance, jnp.float32), found), delta, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_found_whatever_their_order(seed):
    """Four tight clusters of 12, 8, 7 and 6: exactly their members are merged, and the means are theirs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(4), (12, 8, 7, 6)))
    x = jnp.asarray(4 * np.eye(4, 9)[labels] + 0.1 * rng.normal(size=(33, 9)), jnp.float32)
    plan = density_peaks(distances(x), 4, 4)
    assign = np.asarray(plan.assign)
    assert np.array_equal(assign[:, None] == assign[None], labels[:, None] == labels[None])
    assert np.asarray(plan.anchor).tolist() == sorted(plan.anchor.tolist())
    means, sizes = jax.jit(merge)(plan, x)
    for target in range(4):
        members = assign == target
        assert float(sizes[target]) == members.sum() and members[plan.anchor[target]]
        np.testing.assert_allclose(means[target], np.asarray(x)[members].mean(axis=0), rtol=1e-4, atol=1e-5)
