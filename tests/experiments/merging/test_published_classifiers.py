"""Models of others on images of others: what is read, what is refused, and their place among the results."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.subjects import published_classifiers
from experiments.subjects.published_classifiers import PublishedModel, open_published
from lexinv.data.images import Crop
from lexinv.nn.vision_transformer import VisionConfig, initialize
from lexinv.validation import InvalidConfig

MODEL = VisionConfig(size=8, patch=4, classes=3)
PUBLISHED = PublishedModel("tiny", "weights", 4, crop=Crop(size=8), images=4)


class Pictures:
    """Ten pictures, each filled with its own number."""

    identity = "ten pictures"

    def __init__(self, classes: int = 3):
        self.classes = classes

    def __len__(self) -> int:
        return 10

    def batch(self, rows, crop):
        pixels = np.ones((1, crop.size, crop.size, 3), np.float32) * np.asarray(rows, np.float32)[:, None, None, None]
        return pixels, (np.asarray(rows) % 3).astype(np.int32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/model.safetensors").write_bytes(b"tensors")
    monkeypatch.chdir(tmp_path)
    params = initialize(MODEL, jax.random.key(0))
    monkeypatch.setattr(published_classifiers, "load_vision_transformer", lambda path, heads: (MODEL, params))
    pictures = {PUBLISHED.dataset: Pictures(), "of 1000 classes": Pictures(1000)}
    monkeypatch.setattr(published_classifiers, "open_images", lambda dataset, split: pictures[dataset])
    return tmp_path / "weights"


def test_seeds_are_different_images(folder):
    found = open_published(PUBLISHED, 2)
    shown = [np.asarray(images.pixels[:, 0, 0, 0]).astype(int) for images in found.images]
    assert [len(one) for one in shown] == [4, 4] and len(set(np.concatenate(shown))) == 8
    for images, numbers in zip(found.images, shown, strict=True):
        np.testing.assert_array_equal(images.labels, numbers % 3)
    again = open_published(PUBLISHED, 2)
    np.testing.assert_array_equal(again.images[1].pixels, found.images[1].pixels)
    assert again.fingerprint == found.fingerprint


def test_the_fingerprint_is_of_the_weights(folder):
    before = open_published(PUBLISHED, 1).fingerprint
    (folder / "model.safetensors").write_bytes(b"others")
    assert open_published(PUBLISHED, 1).fingerprint != before


@pytest.mark.parametrize(
    "change, field",
    [
        ({"weights": "nowhere"}, "published.weights"),
        ({"crop": Crop(size=16)}, "published.crop.size"),
        ({"images": 6}, "published.images"),
        ({"dataset": "of 1000 classes"}, "published.dataset"),
    ],
)
def test_what_does_not_fit_is_refused(folder, change, field):
    with pytest.raises(InvalidConfig, match=field):
        open_published(replace(PUBLISHED, **change), 2)
