import numpy as np
import pytest

from lexinv.merging.picture import group_picture
from lexinv.validation import InvalidConfig

IMAGE = np.arange(16 * 3, dtype=np.uint8).reshape(4, 4, 3)


def test_groups_have_their_mean_colour_and_pruned_patches_are_white():
    shown = group_picture(IMAGE, np.array([0, 1, 1, -1]))
    both = np.concatenate([IMAGE[:2, 2:].reshape(-1, 3), IMAGE[2:, :2].reshape(-1, 3)]).mean(0)
    assert (shown[:2, :2] == IMAGE[:2, :2].mean((0, 1)).astype(np.uint8)).all()
    assert (shown[:2, 2:] == both.astype(np.uint8)).all() and (shown[2:, :2] == both.astype(np.uint8)).all()
    assert (shown[2:, 2:] == 255).all()


@pytest.mark.parametrize("patches", [3, 9, 0])
def test_patches_must_be_a_grid(patches):
    with pytest.raises(InvalidConfig, match="groups"):
        group_picture(IMAGE, np.zeros(patches, int))
