"""Captioned pictures of two objects on a palette: codes without a quantiser, and a reader that is exact.

"a red ring and a blue bar": 8 x 16 pixels, the two objects side by side, either of them left, unlike in shape and colour. "painted" stands
for a colour that is not named. Each shape has one colour that it never has in training.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from lexinv.data.scenes import SHAPES

ROWS, COLUMNS = 8, 16
SHAPE_NAMES = tuple(SHAPES)[:8]
COLOUR_NAMES = ("red", "green", "blue", "yellow", "cyan", "magenta")
WORDS = ("nothing", "a", "and", "painted", *COLOUR_NAMES, *SHAPE_NAMES)
NULL, LENGTH = (0,) * 7, 7
"""The caption that says nothing, and the words of every caption."""
CODES = 1 + len(COLOUR_NAMES)
"""Background and the colours."""
PAINTED, FIRST_COLOUR, FIRST_SHAPE = 3, 4, 4 + len(COLOUR_NAMES)
BITMAPS = np.stack(
    [
        np.kron([[int(point) for point in row] for row in SHAPES[name].split()], np.ones((2, 2), int))
        for name in SHAPE_NAMES
    ]
)
"""[shapes, 8, 8]"""


class Captioned(NamedTuple):
    """caption: words. codes: pixels. shape, colour: of the objects, in the order of the caption."""

    caption: Int[Array, "batch 7"]
    codes: Int[Array, "batch 8 16"]
    shape: Int[Array, "batch 2"]
    colour: Int[Array, "batch 2"]


def couples(held_out: bool) -> Int[np.ndarray, "couples 4"]:
    """(shape, colour, shape, colour) of all that may stand side by side; both pairs of training, or both of those held out, a sixth."""
    grid = np.indices((len(SHAPE_NAMES), len(COLOUR_NAMES)) * 2).reshape(4, -1).T
    unlike = (grid[:, 0] != grid[:, 2]) & (grid[:, 1] != grid[:, 3])
    kept = (grid[:, ::2] + grid[:, 1::2]) % len(COLOUR_NAMES) == 0
    return grid[unlike & np.all(kept == held_out, axis=1)].astype(np.int32)


def sample_captions(key: Key[Array, ""], count: int, unnamed: float = 0.25, held_out: bool = False) -> Captioned:
    """unnamed: the share of colours that captions do not name."""
    which, side, hidden = jax.random.split(key, 3)
    table = couples(held_out)
    drawn = jnp.asarray(table)[jax.random.randint(which, (count,), 0, len(table))]
    shape, colour = drawn[:, ::2], drawn[:, 1::2]
    named = jax.random.uniform(hidden, (count, 2)) >= unnamed
    said = jnp.where(named, FIRST_COLOUR + colour, PAINTED)
    a, joint = jnp.full((count, 1), 1), jnp.full((count, 1), 2)
    words = [a, said[:, :1], FIRST_SHAPE + shape[:, :1], joint, a, said[:, 1:], FIRST_SHAPE + shape[:, 1:]]
    painted = jnp.asarray(BITMAPS)[shape] * (1 + colour)[..., None, None]
    turned = jnp.where(jax.random.bernoulli(side, shape=(count, 1, 1, 1)), painted, painted[:, ::-1])
    codes = jnp.concatenate([turned[:, 0], turned[:, 1]], axis=-1)
    return Captioned(jnp.concatenate(words, axis=1).astype(jnp.int32), codes.astype(jnp.int32), shape, colour)


def read(codes: Int[np.ndarray, "batch 8 16"]) -> tuple[Int[np.ndarray, "batch 2"], Int[np.ndarray, "batch 2"]]:
    """(shapes, colours) of the left and the right half: those of the rendering that agrees with it in most pixels."""
    halves = np.stack([codes[..., : COLUMNS // 2], codes[..., COLUMNS // 2 :]], axis=1)
    renderings = BITMAPS[:, None] * (1 + np.arange(len(COLOUR_NAMES)))[None, :, None, None]
    agree = [(halves == one).sum(axis=(2, 3)) for one in renderings.reshape(-1, ROWS, ROWS)]
    return np.divmod(np.argmax(agree, axis=0), len(COLOUR_NAMES))


def shows(
    codes: Int[np.ndarray, "batch 8 16"], shape: Int[np.ndarray, "batch 2"], colour: Int[np.ndarray, "batch 2"]
) -> Bool[np.ndarray, " batch"]:
    """Whether a picture has both objects in their colours, either of them left."""
    found = np.stack(read(np.asarray(codes)), axis=-1)
    wanted = np.stack([np.asarray(shape), np.asarray(colour)], axis=-1)
    return (found == wanted).all(axis=(1, 2)) | (found == wanted[:, ::-1]).all(axis=(1, 2))
