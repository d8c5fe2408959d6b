"""Captioned pictures and their reader, and the codes of parities and of larger patches."""

import jax
import numpy as np

from experiments.subjects.captions import (
    COLOUR_NAMES,
    FIRST_COLOUR,
    PAINTED,
    SHAPE_NAMES,
    WORDS,
    couples,
    sample_captions,
    shows,
)
from experiments.subjects.coded_images import Images, as_patches, digits, every_parity, larger_patches, transformed
from lexinv.merging.token_shuffle import code_windows


def test_the_reader_is_exact():
    """Every picture shows its caption, and none the caption with its colours swapped."""
    drawn = jax.tree.map(np.asarray, sample_captions(jax.random.key(0), 300))
    assert shows(drawn.codes, drawn.shape, drawn.colour).all()
    assert not shows(drawn.codes, drawn.shape, drawn.colour[:, ::-1]).any()
    speckled = drawn.codes.copy()
    speckled[:, 3:5, 3:5] = 0  # a window that went wrong
    assert shows(speckled, drawn.shape, drawn.colour).mean() > 0.9


def test_captions_name_what_is_there():
    drawn = jax.tree.map(np.asarray, sample_captions(jax.random.key(1), 400))
    words = [[WORDS[word] for word in caption] for caption in drawn.caption]
    for text, shape, colour in zip(words, drawn.shape, drawn.colour, strict=True):
        assert [text[0], text[3], text[4]] == ["a", "and", "a"]
        assert [text[2], text[6]] == [SHAPE_NAMES[one] for one in shape]
        assert all(said in ("painted", COLOUR_NAMES[one]) for said, one in zip(text[1::4], colour, strict=True))
    assert 0.18 < (drawn.caption[:, [1, 5]] == PAINTED).mean() < 0.32
    assert (np.asarray(sample_captions(jax.random.key(1), 50, 0.0).caption)[:, 1] >= FIRST_COLOUR).all()


def test_a_sixth_of_the_pairs_is_held_out():
    pairs = [{tuple(pair) for row in couples(kind) for pair in row.reshape(2, 2)} for kind in (False, True)]
    assert [len(found) for found in pairs] == [40, 8] and not pairs[0] & pairs[1]


def test_all_parities_are_there_once():
    images = np.asarray(every_parity().codes)
    assert len(np.unique(images.reshape(4096, -1), axis=0)) == 4096
    windows = code_windows(images, 2, 2)
    np.testing.assert_array_equal(windows[..., :3].sum(axis=-1) % 2, windows[..., 3])


def test_larger_patches_that_lose_nothing_cost_nothing_beside_their_codes():
    """Two patterns, two centres; what smoothing gives to the other 16 levels is all that is left."""
    patterns = np.array([[0, 16, 16, 0], [5, 5, 0, 0]])
    tiles = np.random.default_rng(0).integers(0, 2, (60, 4, 4))
    codes = patterns[tiles].reshape(60, 4, 4, 2, 2).swapaxes(2, 3).reshape(60, 8, 8).astype(np.int32)
    images = Images(np.zeros((60, 1), np.int32), codes)
    centres, rest = larger_patches(2, images, images)
    assert 0 < rest < -np.log2(1 - 17 * 0.5 / 400)
    same = np.asarray(as_patches(centres, images).codes) == tiles
    assert same.all() or not same.any()


def test_forms_of_a_digit_are_near_it_and_differ():
    images = jax.tree.map(lambda leaf: leaf[:200], digits(450)[0])
    one, other = (np.asarray(transformed(images, jax.random.key(seed)).codes) for seed in (0, 1))
    assert one.min() >= 0 and one.max() <= 16
    assert (one != other).any(axis=(1, 2)).all()
    near, far = (np.abs(one - codes).mean() for codes in (images.codes, np.roll(images.codes, 1, axis=0)))
    assert near < 0.5 * far
