"""Generated images of one glyph that tells the class, beside one that does not, on a flat noisy background."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.randomness import threefry
from lexinv.validation import require

CELLS = 3
"""A glyph is a square of CELLS x CELLS cells."""

BACKGROUND, GLYPH, DISTRACTOR = 0, 1, 2
"""What a patch shows, in `Images.regions`."""

MOST_CLASSES = 17


@dataclass(frozen=True)
class GlyphConfig:
    """Square RGB images of `size` pixels, cut into patches of `patch` pixels.

    The glyph of the class is red, the distractor, of a class drawn for itself, blue. The background has one grey level per image.
    aligned: glyphs lie on the grid of patches, so that a patch is background, or of a cell, and never parts of both.
    noise: standard deviation of white noise on every pixel and channel.
    cell: patches along the side of a glyph's cell. distractor: whether there is one. plate: the empty cells of a glyph are green, not
    background, so that all its cells are the object: with cell 2 and no distractor, 36 of the 64 patches.
    """

    size: int = 32
    patch: int = 4
    classes: int = 10
    noise: float = 0.1
    aligned: bool = True
    cell: int = 1
    distractor: bool = True
    plate: bool = False

    def __post_init__(self):
        require(self.patch >= 1, "data.patch", self.patch, "at least 1 pixel")
        divides = self.size > 0 and self.size % self.patch == 0
        require(divides, "data.size", self.size, f"a positive multiple of data.patch = {self.patch}")
        require(self.cell >= 1, "data.cell", self.cell, "at least 1 patch")
        drawn = 1 + self.distractor
        least = drawn * CELLS * self.cell
        room = self.size // self.patch >= least
        require(room, "data.size", self.size, f"at least {least} patches of {self.patch} pixels, for {drawn} glyphs")
        allowed = f"2 to {MOST_CLASSES}: the next glyph is another one in another place"
        require(2 <= self.classes <= MOST_CLASSES, "data.classes", self.classes, allowed)
        require(self.noise >= 0, "data.noise", self.noise, "zero or more")


class Images(NamedTuple):
    """Pictures about 0 to 1, before noise, which class each shows, and which of its patches show the glyph, where that is known.

    regions: GLYPH where any pixel is of the class's glyph, otherwise DISTRACTOR where any is of the other, BACKGROUND elsewhere.
    """

    pixels: Float[Array, "images size size channels"]
    labels: Int[Array, " images"]
    regions: Int[Array, "images patches"] | None = None


def glyphs(classes: int) -> Bool[np.ndarray, "classes cells cells"]:
    """One pattern for each class: the first, in binary order, that differ from all before and from the empty one in three cells or more."""
    found = [np.zeros(CELLS * CELLS, bool)]
    for cells in itertools.product((False, True), repeat=CELLS * CELLS):
        if all((np.array(cells) != known).sum() >= 3 for known in found):
            found.append(np.array(cells))
    return np.stack(found[1 : classes + 1]).reshape(classes, CELLS, CELLS)


def sample_images(config: GlyphConfig, count: int, key: Key[Array, ""]) -> Images:
    """Independent images; classes, positions, grey levels and noise are all uniform or Gaussian draws from `key`."""
    label_key, place_key, grey_key, noise_key = jax.random.split(threefry(key), 4)
    shown, distracting = jax.random.randint(label_key, (2, count), 0, config.classes)
    grey = jax.random.uniform(grey_key, (count, 1, 1, 1), minval=0.2, maxval=0.6)
    places = jax.vmap(lambda one: _two_places(config, one))(jax.random.split(place_key, count))
    scale = config.cell * config.patch
    cells = jnp.kron(jnp.asarray(glyphs(config.classes), jnp.float32), jnp.ones((1, scale, scale)))

    def painted(first: Array, second: Array, place: Array) -> Array:
        empty, whole = jnp.zeros((config.size, config.size)), jnp.ones_like(cells[0])

        def put(pattern: Array, which: int) -> Array:
            return jax.lax.dynamic_update_slice(empty, pattern, (place[which, 0], place[which, 1]))

        red = put(cells[first], 0)
        blue = put(cells[second], 1) if config.distractor else empty
        squares = put(whole, 0) + put(whole, 1) if config.distractor else put(whole, 0)
        return jnp.stack([red, squares - red - blue if config.plate else empty, blue], axis=-1)

    paint = jax.vmap(painted)(shown, distracting, places)
    covered = jnp.max(paint, axis=-1, keepdims=True)
    noise = config.noise * jax.random.normal(noise_key, paint.shape)
    return Images(paint + (1 - covered) * grey + noise, shown, _regions(config, places, paint))


def _regions(
    config: GlyphConfig, places: Int[Array, "images 2 2"], paint: Float[Array, "images size size 3"]
) -> Int[Array, "images patches"]:
    """What each patch shows, row by row: a glyph where it is painted, green cells included, and not all of its square."""
    across, extent = config.size // config.patch, CELLS * config.cell * config.patch
    pixel = jnp.arange(config.size)[None, None, None]
    inside = (pixel >= places[:, :, :, None]) & (pixel < places[:, :, :, None] + extent)  # image, glyph, axis, pixel
    squares = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]
    shown = squares & (jnp.max(paint, axis=-1) > 0)[:, None]
    by_patch = (
        shown.reshape(-1, 2, across, config.patch, across, config.patch).any(axis=(3, 5)).reshape(-1, 2, across**2)
    )
    return jnp.where(by_patch[:, 0], GLYPH, jnp.where(by_patch[:, 1], DISTRACTOR, BACKGROUND)).astype(jnp.int32)


def _two_places(config: GlyphConfig, key: Key[Array, ""]) -> Int[Array, "2 2"]:
    """Upper left corners, in pixels, of two glyphs that do not overlap, uniform over such pairs; the same twice without distractor."""
    step, extent = (config.patch if config.aligned else 1), CELLS * config.cell * config.patch
    corners = np.stack(
        np.meshgrid(*[np.arange(0, config.size - extent + 1, step)] * 2, indexing="ij"), axis=-1
    ).reshape(-1, 2)
    if config.distractor:
        pairs = np.argwhere((np.abs(corners[:, None] - corners[None]) >= extent).any(axis=-1))
    else:
        pairs = np.repeat(np.arange(len(corners))[:, None], 2, axis=1)
    drawn = jnp.asarray(pairs)[jax.random.randint(key, (), 0, len(pairs))]
    return jnp.asarray(corners)[drawn]
