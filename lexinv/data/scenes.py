"""Generated scenes of coloured shapes on a large flat background, and questions about them with exact answers.

An object is a square of patches that all show its shape in its colour, each in a cell of its own: some objects are a single patch, others
many. Objects lie on the grid of patches, so that a patch is background, or one object's, and never parts of both.
"""

from dataclasses import dataclass
from math import comb, isqrt
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.randomness import threefry
from lexinv.validation import require

SHAPES = {
    "square": "1111 1111 1111 1111",
    "ring": "1111 1001 1001 1111",
    "disc": "0110 1111 1111 0110",
    "cross": "1001 0110 0110 1001",
    "bar": "0000 1111 1111 0000",
    "pillar": "0110 0110 0110 0110",
    "triangle": "1000 1100 1110 1111",
    "stripes": "1111 0000 1111 0000",
    "columns": "1010 1010 1010 1010",
    "checks": "1010 0101 1010 0101",
    "blocks": "1100 1100 0011 0011",
    "slope": "0001 0011 0111 1111",
    "flag": "1111 1110 1000 1000",
    "hook": "0011 0001 1001 0110",
    "wave": "0100 1010 0101 0010",
    "tee": "1111 1111 0110 0110",
}
"""Drawn in points, of which a patch has 4 by 4."""

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}

DRAWN = 4
QUESTIONS = {
    "colour": "in this picture what colour is the _",
    "count": "in this picture how many objects are _",
    "presence": "in this picture can you see a _",
}
"""By kind, with a place for the shape or the colour that is asked about."""
KINDS = tuple(QUESTIONS)
LENGTH = 8
"""Words of a question."""
FUNCTION_WORDS = tuple(dict.fromkeys(word for asked in QUESTIONS.values() for word in asked.split() if word != "_"))
BACKGROUND = -1


@dataclass(frozen=True)
class SceneConfig:
    """Square RGB images of `grid` by `grid` patches of `patch` pixels.

    sizes: of the objects, in patches along a side. The image is divided into as few cells, as many along either side, as hold one object
        each at most; which cell gets which is drawn. The shapes of a scene are all different, colours are not. noise: standard deviation
        of white noise on every pixel and channel.
    """

    grid: int = 9
    patch: int = 4
    shapes: int = 16
    colours: int = 4
    sizes: tuple[int, ...] = (3, 2, 1, 1, 1, 1, 1, 1)
    noise: float = 0.1

    def __post_init__(self):
        require(len(self.sizes) >= 1, "data.sizes", self.sizes, "at least one object")
        divides = self.grid >= 1 and self.grid % self.across == 0
        require(divides, "data.grid", self.grid, f"a multiple of the {self.across} cells along a side")
        drawable = self.patch >= DRAWN and self.patch % DRAWN == 0
        require(drawable, "data.patch", self.patch, f"a positive multiple of the {DRAWN} points of a shape")
        fits = all(1 <= size <= self.cell for size in self.sizes)
        require(fits, "data.sizes", self.sizes, f"from 1 patch to the {self.cell} of a cell")
        known = f"from {len(self.sizes)}, one for each object, to {len(SHAPES)}"
        require(len(self.sizes) <= self.shapes <= len(SHAPES), "data.shapes", self.shapes, known)
        require(2 <= self.colours <= len(COLOURS), "data.colours", self.colours, f"from 2 to {len(COLOURS)}")
        require(self.noise >= 0, "data.noise", self.noise, "zero or more")

    @property
    def patches(self) -> int:
        return self.grid**2

    @property
    def across(self) -> int:
        """Cells along a side."""
        return isqrt(len(self.sizes) - 1) + 1

    @property
    def cell(self) -> int:
        """Patches along a side of a cell."""
        return self.grid // self.across

    @property
    def words(self) -> int:
        """How many different words questions have: their own, the shapes, the colours."""
        return len(FUNCTION_WORDS) + self.shapes + self.colours

    @property
    def answers(self) -> int:
        """How many different answers there are: the colours, the counts from 0 to all objects, no and yes."""
        return self.colours + len(self.sizes) + 1 + 2

    @property
    def no(self) -> int:
        """The answer no; yes is the next one."""
        return self.answers - 2


class Scenes(NamedTuple):
    """pixels: about 0 to 1, before noise. owner: the object that each patch shows, row by row, `BACKGROUND` for none.

    shape, colour: of each object, in the order of the configuration's sizes.
    """

    pixels: Float[Array, "scenes side side 3"]
    owner: Int[Array, "scenes patches"]
    shape: Int[Array, "scenes objects"]
    colour: Int[Array, "scenes objects"]


class Questions(NamedTuple):
    """Several of each scene. words: those of `FUNCTION_WORDS` by their places, then the shapes, then the colours.

    kind: its place in `KINDS`. about: the object in question; -1 for counts and for shapes that are not there.
    """

    words: Int[Array, "scenes questions words"]
    answer: Int[Array, "scenes questions"]
    kind: Int[Array, "scenes questions"]
    about: Int[Array, "scenes questions"]


def bitmaps(config: SceneConfig) -> Bool[np.ndarray, "shapes points points"]:
    """The shapes, as which of their points are painted."""
    drawn = [[[point == "1" for point in row] for row in text.split()] for text in SHAPES.values()]
    return np.array(drawn[: config.shapes])


def sample_scenes(config: SceneConfig, count: int, key: Key[Array, ""]) -> Scenes:
    """Independent scenes: shapes, colours, cells, places in them and the grey of the background are uniform draws from `key`."""
    shape_key, colour_key, place_key, grey_key, noise_key = jax.random.split(threefry(key), 5)
    objects = len(config.sizes)
    order = jax.vmap(lambda one: jax.random.permutation(one, config.shapes))(jax.random.split(shape_key, count))
    shape = order[:, :objects]
    colour = jax.random.randint(colour_key, (count, objects), 0, config.colours)
    owner = jax.vmap(lambda one: _place(config, one))(jax.random.split(place_key, count))
    palette = np.array(list(COLOURS.values()), np.float32)[: config.colours]
    grey = jax.random.uniform(grey_key, (count, 1, 1, 1), minval=0.3, maxval=0.6)
    scale = config.patch // DRAWN
    points = jnp.asarray(np.kron(bitmaps(config), np.ones((scale, scale))), jnp.float32)

    there = jnp.maximum(owner, 0)
    painted = jnp.where((owner >= 0)[..., None, None], points[jnp.take_along_axis(shape, there, axis=1)], 0.0)
    tint = jnp.asarray(palette)[jnp.take_along_axis(colour, there, axis=1)]

    def whole(patches: Float[Array, "scenes patches patch patch"]) -> Float[Array, "scenes side side"]:
        side = config.grid * config.patch
        parts = patches.reshape(count, config.grid, config.grid, config.patch, config.patch)
        return parts.swapaxes(2, 3).reshape(count, side, side)

    channels = [whole(painted * tint[..., channel, None, None]) for channel in range(3)]
    picture = jnp.stack(channels, axis=-1) + (1 - whole(painted))[..., None] * grey
    noise = config.noise * jax.random.normal(noise_key, picture.shape)
    return Scenes(picture + noise, owner, shape.astype(jnp.int32), colour)


def _place(config: SceneConfig, key: Key[Array, ""]) -> Int[Array, " patches"]:
    """The owner of each patch: objects in cells in a random order, each at a uniform place in its own."""
    order_key, corner_key = jax.random.split(key)
    across, side, sizes = config.across, config.cell, np.array(config.sizes, np.int32)
    cell = jax.random.permutation(order_key, across**2)[: len(sizes)]
    corner = jax.random.randint(corner_key, (2, len(sizes)), 0, jnp.asarray(side - sizes + 1)[None])
    top, left = corner[0] + side * (cell // across), corner[1] + side * (cell % across)
    row, column = np.divmod(np.arange(config.patches, dtype=np.int32), np.int32(config.grid))
    down, across = row[:, None] - top[None], column[:, None] - left[None]
    inside = (down >= 0) & (down < sizes[None]) & (across >= 0) & (across < sizes[None])
    return jnp.where(jnp.any(inside, axis=1), jnp.argmax(inside, axis=1), BACKGROUND).astype(jnp.int32)


def ask(config: SceneConfig, scenes: Scenes, key: Key[Array, ""], counts: int = 2, presences: int = 4) -> Questions:
    """The colour of each object by its shape, in order; then the number of objects of random colours; then whether random shapes are there.

    Shapes that are asked about are drawn without replacement, so `presences` is at most their number; `counts` at most that of colours.
    """
    require(0 <= counts <= config.colours, "counts", counts, f"from 0 to the {config.colours} colours")
    require(0 <= presences <= config.shapes, "presences", presences, f"from 0 to the {config.shapes} shapes")
    scenes_, objects = scenes.shape.shape
    count_key, presence_key = jax.random.split(threefry(key))

    def draws(key: Key[Array, ""], number: int, of: int) -> Int[Array, "scenes number"]:
        order = jax.vmap(lambda one: jax.random.permutation(one, of))(jax.random.split(key, scenes_))
        return order[:, :number].astype(jnp.int32)

    colours, shapes = draws(count_key, counts, config.colours), draws(presence_key, presences, config.shapes)
    number = jnp.sum(scenes.colour[:, None] == colours[..., None], axis=2, dtype=jnp.int32)
    same = scenes.shape[:, None] == shapes[..., None]
    there = jnp.any(same, axis=2)
    found = jnp.where(there, jnp.argmax(same, axis=2), -1).astype(jnp.int32)
    answer = jnp.concatenate([scenes.colour, config.colours + number, config.no + there.astype(jnp.int32)], axis=1)
    subject = jnp.concatenate([scenes.shape, config.shapes + colours, shapes], axis=1) + len(FUNCTION_WORDS)
    kind = np.repeat(np.arange(len(KINDS), dtype=np.int32), (objects, counts, presences))
    words = jnp.asarray(_templates()[kind])[None]
    kinds = jnp.broadcast_to(jnp.asarray(kind)[None], answer.shape)
    itself = jnp.broadcast_to(jnp.arange(objects, dtype=jnp.int32)[None], (scenes_, objects))
    about = jnp.concatenate([itself, jnp.full_like(colours, -1), found], axis=1)
    return Questions(jnp.where(words < 0, subject[..., None], words), answer.astype(jnp.int32), kinds, about)


def _templates() -> Int[np.ndarray, "kinds words"]:
    """The words of each kind of question, -1 for what is asked about."""
    places = {word: place for place, word in enumerate(FUNCTION_WORDS)} | {"_": -1}
    return np.array([[places[word] for word in asked.split()] for asked in QUESTIONS.values()], np.int32)


def chance(config: SceneConfig) -> dict[str, float]:
    """The share of right answers, by kind of question, of the best guess that has not seen the scene."""
    objects, share = len(config.sizes), 1 / config.colours
    counts = [comb(objects, k) * share**k * (1 - share) ** (objects - k) for k in range(objects + 1)]
    there = objects / config.shapes
    return {"colour": share, "count": max(counts), "presence": max(there, 1 - there)}
