"""Digits in fonts: what is drawn is what the label says, of the size and brightness asked for, on no grid, and never seen in training."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.subjects import font_characters
from experiments.subjects.font_characters import (
    DARK,
    DIGITS,
    FONTS,
    HELD_OUT_FONTS,
    LIGHT,
    batches,
    draw,
    tiny,
    upright,
)

PLAIN = replace(tiny(), slant=0.0)


@pytest.fixture
def on_grey(monkeypatch):
    """Photographs without contrast, one of them held out."""
    grey = {"train": np.full((60, 80, 3), 200, np.uint8), "coins": np.full((60, 80, 3), 100, np.uint8)}
    monkeypatch.setattr(font_characters, "photographs", lambda: grey)
    draw.cache_clear()
    yield
    draw.cache_clear()


def boxes(pixels):
    """Rows and columns of each digit, whose brightness is far above the background's."""
    for image in pixels[..., 0]:
        rows, columns = (np.flatnonzero((image > 120).any(axis)) for axis in (1, 0))
        yield slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def template(font, digit, shape):
    drawn = upright(font, digit)
    return np.asarray(drawn.crop(drawn.getbbox()).resize(shape[::-1]), np.float64).ravel()


def test_a_digit_is_the_one_of_its_label(on_grey, monkeypatch):
    monkeypatch.setattr(font_characters, "FONTS", FONTS[:1])
    found = draw(PLAIN, 60, 0, False)
    for image, label, box in zip(found.pixels[..., 0], found.labels, boxes(found.pixels), strict=True):
        cut = image[box].astype(np.float64)
        alike = [np.corrcoef(cut.ravel(), template(FONTS[0], digit, cut.shape))[0, 1] for digit in DIGITS]
        assert np.argmax(alike) == label and max(alike) > 0.9


def test_height_place_and_brightness(on_grey):
    size = PLAIN.model.size
    found = draw(PLAIN, 200, 1, False)
    placed = list(boxes(found.pixels))
    heights = np.array([rows.stop - rows.start for rows, _ in placed])
    assert heights.max() <= PLAIN.most * size and heights.min() >= PLAIN.least * size - 2  # faint edges
    assert np.ptp(heights) > 10
    assert {rows.start % PLAIN.model.patch for rows, _ in placed} == set(range(PLAIN.model.patch))
    assert {columns.start % PLAIN.model.patch for _, columns in placed} == set(range(PLAIN.model.patch))
    assert (found.pixels.min(axis=(1, 2, 3)) == int(DARK * 200)).all()
    assert (found.pixels.max(axis=(1, 2, 3)) >= LIGHT - 10).mean() > 0.9  # the thinnest strokes are blurred


def test_held_out_are_other_fonts_on_other_photographs(on_grey):
    assert not set(FONTS) & set(HELD_OUT_FONTS)
    assert len({np.asarray(upright(font, "4")).tobytes() for font in (*FONTS, *HELD_OUT_FONTS)}) == 21
    assert (draw(PLAIN, 20, 0, True).pixels.min(axis=(1, 2, 3)) == int(DARK * 100)).all()


def test_batches_are_of_the_training_images_and_follow_the_seed(on_grey):
    subject = tiny()
    drawn, of_seed = font_characters.to_train_on(subject), batches(subject, subject.training)
    batch, again, other = of_seed(0)[3], of_seed(0)[3], of_seed(1)[3]
    labels = {image.tobytes(): label for image, label in zip(drawn.pixels, drawn.labels, strict=True)}
    assert batch["pixels"].shape == (10, 8, 48, 48, 1)
    assert [labels[i.tobytes()] for i in batch["pixels"].reshape(80, -1)] == batch["labels"].ravel().tolist()
    np.testing.assert_array_equal(batch["labels"], again["labels"])
    assert (batch["labels"] != other["labels"]).any()
