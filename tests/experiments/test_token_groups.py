import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from experiments.harness.token_groups import draw_groups, group_means

IMAGE = np.arange(16 * 3, dtype=np.uint8).reshape(4, 4, 3)
GROUPS = np.array([0, 1, 1, -1])


def test_means_are_of_the_groups_pixels():
    means = group_means(IMAGE, GROUPS.reshape(2, 2))
    np.testing.assert_allclose(means[0, 0], IMAGE[:2, :2].mean((0, 1)))
    both = np.concatenate([IMAGE[:2, 2:].reshape(-1, 3), IMAGE[2:, :2].reshape(-1, 3)]).mean(0)
    np.testing.assert_allclose(means[0, 1], both)
    np.testing.assert_allclose(means[1, 0], both)


def test_dots_mark_shared_groups_and_pruned_patches_are_white():
    axes = Figure().subplots()
    draw_groups(axes, IMAGE, GROUPS)
    shown = np.asarray(axes.images[0].get_array())
    assert (shown[2:, 2:] == 255).all()
    assert (shown[:2, :2] == IMAGE[:2, :2].mean((0, 1)).astype(np.uint8)).all()
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    (dot,) = dots
    assert sorted(zip(*dot.get_data(), strict=True)) == [(0.5, 2.5), (2.5, 0.5)]
    assert to_rgb(dot.get_color()) != (1, 1, 1)
    (edges,) = axes.collections
    assert len(edges.get_segments()) == 4  # every neighbour is of another group
