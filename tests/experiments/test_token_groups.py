import numpy as np

from experiments.harness.token_groups import group_means

IMAGE = np.arange(16 * 3, dtype=np.uint8).reshape(4, 4, 3)
GROUPS = np.array([0, 1, 1, -1])


def test_means_are_of_the_groups_pixels():
    means = group_means(IMAGE, GROUPS.reshape(2, 2))
    np.testing.assert_allclose(means[0, 0], IMAGE[:2, :2].mean((0, 1)))
    both = np.concatenate([IMAGE[:2, 2:].reshape(-1, 3), IMAGE[2:, :2].reshape(-1, 3)]).mean(0)
    np.testing.assert_allclose(means[0, 1], both)
    np.testing.assert_allclose(means[1, 0], both)
