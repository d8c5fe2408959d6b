"""Cuts are squares of their photograph, drawn again alike; the released model knows which photograph a cut is from."""

import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects import pretrained_vision
from experiments.subjects.pretrained_vision import cuts, open_pretrained_vision, photographs
from lexinv.data.images import IMAGENET_MEAN, IMAGENET_STD
from lexinv.validation import InvalidConfig


def test_cuts_are_squares_of_their_image():
    ramp = np.tile(np.linspace(0, 255, 60, dtype=np.uint8)[None, :, None], (40, 1, 3))
    flat = np.full((30, 30, 3), 128, np.uint8)
    found, numbers = cuts([ramp, flat], 3, 14, seed=0)
    assert found.shape == (6, 14, 14, 3) and numbers.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(
        found[3:], np.broadcast_to((128 / 255 - np.array(IMAGENET_MEAN)) / IMAGENET_STD, (3, 14, 14, 3)), atol=1e-6
    )
    assert (np.diff(found[:3].mean(axis=(1, 3)), axis=1) > 0).all()  # brighter to the right, in every cut
    assert len(np.unique(found[:3].mean(axis=(1, 2, 3)))) == 3
    np.testing.assert_array_equal(cuts([ramp, flat], 3, 14, seed=0)[0], found)
    assert not np.array_equal(cuts([ramp, flat], 3, 14, seed=1)[0], found)


def test_photographs_of_installed_packages(monkeypatch):
    assert {"grace_hopper", "china", "flower"} <= set(photographs())
    monkeypatch.setattr(pretrained_vision, "find_spec", lambda name: None)
    with pytest.raises(InvalidConfig, match="photographs"):
        photographs()


@pytest.mark.long
def test_dinov2_finds_the_other_cuts_of_a_photograph(asset, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained_vision, "asset", lambda name, workspace: asset(name))
    world = open_pretrained_vision(Workspace(tmp_path / "run", "hash", False), size=112)
    images, numbers = cuts(list(photographs().values()), 6, 112, seed=0)
    features = world.features(images)
    similar = features @ features.T - 2 * np.eye(len(features))
    assert (numbers[similar.argmax(axis=1)] == numbers).mean() > 0.9
