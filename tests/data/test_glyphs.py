import itertools

import jax
import numpy as np
import pytest

from lexinv.data.glyphs import MOST_CLASSES, GlyphConfig, glyphs, sample_images
from lexinv.validation import InvalidConfig

CLEAN = GlyphConfig(noise=0.0)
sample = jax.jit(sample_images, static_argnums=(0, 1))


@pytest.fixture(scope="module")
def images():
    return sample(CLEAN, 400, jax.random.key(0))


def read(picture, channel, patch=4):
    """The pattern of a channel's glyph: brightness 1 in it and 0 in the other one, the same grey level elsewhere."""
    red, blue = picture[..., 0], picture[..., 2]
    own = (red if channel == "red" else blue) - picture[..., 1]
    return (own > 0.5)[::patch, ::patch]


def test_any_two_patterns_differ_in_three_cells():
    patterns = glyphs(MOST_CLASSES).reshape(MOST_CLASSES, -1)
    assert min((a != b).sum() for a, b in itertools.combinations(patterns, 2)) >= 3
    assert patterns.sum(axis=1).min() >= 3


def test_a_class_is_read_off_its_red_glyph(images):
    known = {
        tuple(np.argwhere(p)[:, 0] * 100 + np.argwhere(p)[:, 1]): label for label, p in enumerate(glyphs(MOST_CLASSES))
    }

    def key(pattern):
        cells = np.argwhere(pattern)
        found = set()
        for corner in itertools.product(range(6), repeat=2):  # every place where a glyph may begin
            moved = cells - corner
            if ((moved >= 0) & (moved < 3)).all():
                found.add(known.get(tuple(moved[:, 0] * 100 + moved[:, 1])))
        return found

    pixels, labels = np.asarray(images.pixels), np.asarray(images.labels)
    for picture, label in zip(pixels[:50], labels[:50], strict=True):
        assert key(read(picture, "red")) - {None} == {label}


def test_the_distractor_tells_nothing(images):
    labels = np.asarray(images.labels)
    sizes = np.array([read(picture, "blue").sum() for picture in np.asarray(images.pixels)])
    means = [sizes[labels == label].mean() for label in range(10)]
    assert np.ptp(means) < 2  # the glyphs' own sizes range over 3 to 6 cells and more
    assert np.bincount(labels, minlength=10).min() > 20


@pytest.mark.parametrize("aligned", [True, False])
def test_glyphs_lie_on_the_grid_of_patches_only_if_aligned(aligned):
    config = GlyphConfig(noise=0.0, aligned=aligned)
    pixels = np.asarray(sample(config, 20, jax.random.key(1)).pixels)
    patches = pixels.reshape(20, 8, 4, 8, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(20, 64, 16, 3)
    uniform = np.ptp(patches, axis=2).max(axis=-1) < 1e-6
    assert uniform.all() == aligned


def test_red_and_blue_do_not_overlap_and_noise_is_as_large_as_said(images):
    pixels = np.asarray(images.pixels)
    assert not ((pixels[..., 0] > 0.9) & (pixels[..., 2] > 0.9)).any()
    noisy = sample(GlyphConfig(noise=0.3), 400, jax.random.key(0)).pixels
    assert np.std(np.asarray(noisy) - pixels) == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize(
    "field, settings",
    [
        ("data.size", {"size": 30}),
        ("data.size", {"size": 20}),
        ("data.patch", {"patch": 0}),
        ("data.classes", {"classes": 32}),
        ("data.classes", {"classes": 1}),
        ("data.noise", {"noise": -0.1}),
    ],
)
def test_impossible_images_are_refused(field, settings):
    with pytest.raises(InvalidConfig, match=field):
        GlyphConfig(**settings)
