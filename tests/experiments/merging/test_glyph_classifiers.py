"""What the small Vision Transformers are trained and judged on."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.subjects.glyph_classifiers import (
    DIGITS,
    GLYPHS,
    TRAIN_DIGITS,
    VisionSubject,
    digits,
    draw,
    held_out,
)
from lexinv.nn.vision_transformer import VisionConfig
from lexinv.validation import InvalidConfig


def test_digits_are_split_once_and_for_all():
    pixels, labels = digits()
    assert pixels.shape == (1797, 8, 8, 1)
    assert (pixels.min(), pixels.max()) == (0, 1)
    one, other = held_out(DIGITS, 0, 700), held_out(DIGITS, 1, 700)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.labels, labels[TRAIN_DIGITS : TRAIN_DIGITS + 700])
    assert np.bincount(labels[:TRAIN_DIGITS]).min() > 80  # the order is random, not by class
    with pytest.raises(InvalidConfig, match="count"):
        held_out(DIGITS, 0, 798)


def test_training_digits_are_moved_and_never_of_the_test_set():
    drawn = draw(DIGITS, 200, jax.random.key(0))
    pixels, labels = digits()
    padded = np.pad(pixels[..., 0], ((0, 0), (1, 1), (1, 1)))
    moved = {
        padded[row, down : down + 8, right : right + 8].tobytes(): (int(labels[row]), down, right)
        for row in range(TRAIN_DIGITS)
        for down in range(3)
        for right in range(3)
    }
    found = [moved[np.asarray(image[..., 0]).tobytes()] for image in drawn.pixels]
    assert [label for label, _, _ in found] == drawn.labels.tolist()
    assert len({(down, right) for _, down, right in found}) == 9


@pytest.mark.parametrize(
    "field, change",
    [
        ("data", {"data": "cats"}),
        ("model", {"model": VisionConfig(classes=12)}),
        ("model", {"data": "digits"}),
        ("model.patch", {"model": replace(GLYPHS.model, patch=8)}),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(field, change):
    with pytest.raises(InvalidConfig, match=rf"^{field} = "):
        VisionSubject(**change)
