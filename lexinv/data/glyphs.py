"""Generated images of one small glyph that tells the class, beside one that does not, on a flat noisy background."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.validation import require

CELLS = 3
"""A glyph is a square of CELLS x CELLS cells, each as large as a patch."""

MOST_CLASSES = 17


@dataclass(frozen=True)
class GlyphConfig:
    """Square RGB images of `size` pixels, cut into patches of `patch` pixels.

    The glyph of the class is red, the distractor, of a class drawn for itself, blue. The background has one grey level per image.
    aligned: glyphs lie on the grid of patches, so that a patch is background, or a cell, and never parts of both.
    noise: standard deviation of white noise on every pixel and channel.
    """

    size: int = 32
    patch: int = 4
    classes: int = 10
    noise: float = 0.1
    aligned: bool = True

    def __post_init__(self):
        require(self.patch >= 1, "data.patch", self.patch, "at least 1 pixel")
        divides = self.size > 0 and self.size % self.patch == 0
        require(divides, "data.size", self.size, f"a positive multiple of data.patch = {self.patch}")
        room = self.size // self.patch >= 2 * CELLS
        require(
            room, "data.size", self.size, f"at least {2 * CELLS} patches of {self.patch} pixels: two glyphs must fit"
        )
        allowed = f"2 to {MOST_CLASSES}: the next glyph is another one in another place"
        require(2 <= self.classes <= MOST_CLASSES, "data.classes", self.classes, allowed)
        require(self.noise >= 0, "data.noise", self.noise, "zero or more")


class Images(NamedTuple):
    """Pictures about 0 to 1, before noise, and which class each shows."""

    pixels: Float[Array, "images size size 3"]
    labels: Int[Array, " images"]


def glyphs(classes: int) -> Bool[np.ndarray, "classes cells cells"]:
    """One pattern for each class: the first, in binary order, that differ from all before and from the empty one in three cells or more."""
    found = [np.zeros(CELLS * CELLS, bool)]
    for cells in itertools.product((False, True), repeat=CELLS * CELLS):
        if all((np.array(cells) != known).sum() >= 3 for known in found):
            found.append(np.array(cells))
    return np.stack(found[1 : classes + 1]).reshape(classes, CELLS, CELLS)


def sample_images(config: GlyphConfig, count: int, key: Key[Array, ""]) -> Images:
    """Independent images; classes, positions, grey levels and noise are all uniform or Gaussian draws from `key`."""
    label_key, place_key, grey_key, noise_key = jax.random.split(key, 4)
    shown, distracting = jax.random.randint(label_key, (2, count), 0, config.classes)
    grey = jax.random.uniform(grey_key, (count, 1, 1, 1), minval=0.2, maxval=0.6)
    places = jax.vmap(lambda one: _two_places(config, one))(jax.random.split(place_key, count))
    patterns = jnp.asarray(glyphs(config.classes), jnp.float32)
    cells = jnp.kron(patterns, jnp.ones((1, config.patch, config.patch)))

    def painted(first: Array, second: Array, place: Array) -> Array:
        empty = jnp.zeros((config.size, config.size))
        red, blue = (
            jax.lax.dynamic_update_slice(empty, cells[label], (place[which, 0], place[which, 1]))
            for which, label in enumerate((first, second))
        )
        return jnp.stack([red, jnp.zeros_like(red), blue], axis=-1)

    paint = jax.vmap(painted)(shown, distracting, places)
    covered = jnp.max(paint, axis=-1, keepdims=True)
    noise = config.noise * jax.random.normal(noise_key, paint.shape)
    return Images(paint + (1 - covered) * grey + noise, shown)


def _two_places(config: GlyphConfig, key: Key[Array, ""]) -> Int[Array, "2 2"]:
    """Upper left corners, in pixels, of two glyphs that do not overlap, uniform over such pairs."""
    step, extent = (config.patch if config.aligned else 1), CELLS * config.patch
    corners = np.stack(
        np.meshgrid(*[np.arange(0, config.size - extent + 1, step)] * 2, indexing="ij"), axis=-1
    ).reshape(-1, 2)
    apart = (np.abs(corners[:, None] - corners[None]) >= extent).any(axis=-1)
    pairs = np.argwhere(apart)
    drawn = jnp.asarray(pairs)[jax.random.randint(key, (), 0, len(pairs))]
    return jnp.asarray(corners)[drawn]
