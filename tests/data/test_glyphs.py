import itertools

import jax
import numpy as np
import pytest

from lexinv.data.glyphs import BACKGROUND, DISTRACTOR, GLYPH, MOST_CLASSES, GlyphConfig, glyphs, sample_images

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


def test_a_class_is_read_off_its_red_glyph(images):
    corners = list(itertools.product(range(6), repeat=2))  # where a glyph of 3 x 3 of the 8 x 8 patches may begin
    classes = {
        np.pad(pattern, ((row, 5 - row), (column, 5 - column))).tobytes(): label
        for label, pattern in enumerate(glyphs(MOST_CLASSES))
        for row, column in corners
    }
    assert len(classes) == MOST_CLASSES * len(corners)  # no glyph is another one elsewhere
    for picture, label in zip(np.asarray(images.pixels), np.asarray(images.labels), strict=True):
        assert classes[read(picture, "red").tobytes()] == label


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
    "config",
    [CLEAN, GlyphConfig(noise=0.0, aligned=False), GlyphConfig(size=48, noise=0.0, cell=2, plate=True)],
)
def test_regions_say_which_patches_show_which_glyph(config):
    found = sample(config, 60, jax.random.key(2))
    across = config.size // config.patch
    patches = np.asarray(found.pixels).reshape(60, across, 4, across, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(60, across**2, 16, 3)
    red, green, blue = (
        (np.ptp(patches, axis=3) > 0.5) & (patches[..., channel] > 0.9) & (patches[..., channel] == patches.max(axis=3))
        for channel in range(3)
    )
    regions = np.asarray(found.regions)
    if not config.plate:
        expected = np.where(red.any(2), GLYPH, np.where(blue.any(2), DISTRACTOR, BACKGROUND))
        np.testing.assert_array_equal(regions, expected)
        assert not green.any()
    else:  # the plate of a glyph is its square of 6 by 6 patches
        assert (regions[red.any(2)] == GLYPH).all()
        assert (regions[blue.any(2)] == DISTRACTOR).all()
        np.testing.assert_array_equal(regions != BACKGROUND, (red | green | blue).any(2))
        assert ((regions == GLYPH).sum(1) == 36).all()
        assert ((regions == DISTRACTOR).sum(1) == 36).all()


def test_a_large_glyph_covers_most_patches_and_has_no_distractor():
    found = sample(GlyphConfig(noise=0.0, cell=2, distractor=False, plate=True), 100, jax.random.key(3))
    pixels, regions = np.asarray(found.pixels), np.asarray(found.regions)
    assert ((regions == GLYPH).sum(1) == 36).all()
    assert not (regions == DISTRACTOR).any()
    assert not ((np.ptp(pixels, axis=-1) > 0.5) & (pixels[..., 2] > 0.9)).any()
    red_share = ((pixels[..., 0] > 0.9) & (pixels[..., 1] < 0.1)).mean((1, 2))
    cells = glyphs(10).sum((1, 2))[np.asarray(found.labels)]
    np.testing.assert_allclose(red_share, cells * 64 / 1024)  # a cell has 8 x 8 of 32 x 32 pixels
