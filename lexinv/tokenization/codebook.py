"""Pictures as sequences of tokens: patches, a codebook of them by k-means, the order in which a grid is read, what its tokens stand for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key, Num

from lexinv.validation import choose, require

SCAN_ORDERS = ("row", "column", "hilbert")
BLOCK = 4096
"""Points whose distances from all centres are held at a time."""


def patches(image: Num[np.ndarray, "height width channels"], size: int) -> Num[np.ndarray, "rows columns values"]:
    """The squares of `size` pixels of an image, each as one vector; what is left at the right and below is dropped.

    Raises `InvalidConfig` for an image that is smaller than a patch.
    """
    rows, columns = (side // size for side in image.shape[:2])
    require(min(rows, columns) >= 1, "image", image.shape, f"at least a patch of {size} pixels along either side")
    cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size, -1)
    return cut.swapaxes(1, 2).reshape(rows, columns, -1)


@jax.jit
def nearest(
    points: Float[Array, "points values"], centres: Float[Array, "codes values"]
) -> tuple[Int[Array, " points"], Float[Array, " points"]]:
    """The nearest centre of each point, and the squared distance from it."""
    squares = jnp.sum(jnp.square(centres), axis=1)

    def one(point: Float[Array, " values"]) -> tuple[Int[Array, ""], Float[Array, ""]]:
        far = squares - 2 * centres @ point
        code = jnp.argmin(far).astype(jnp.int32)
        return code, jnp.maximum(far[code] + jnp.sum(jnp.square(point)), 0)

    return jax.lax.map(one, points, batch_size=BLOCK)


def k_means(
    points: Float[Array, "points values"], codes: int, iterations: int, key: Key[Array, ""]
) -> Float[Array, "codes values"]:
    """Centres after so many of Lloyd's iterations from random points, which they stay without any.

    A centre without points goes to the one farthest from its own, so that none is lost. Raises `InvalidConfig` for too few points.
    """
    require(1 <= codes <= len(points), "codes", codes, f"from 1 to the {len(points)} points")
    return _lloyd(points, points[jax.random.choice(key, len(points), (codes,), replace=False)], iterations)


@partial(jax.jit, static_argnames="iterations")
def _lloyd(points: Array, centres: Array, iterations: int) -> Array:
    codes = len(centres)

    def improve(centres: Array, _: None) -> tuple[Array, None]:
        code, distance = nearest(points, centres)
        count = jnp.zeros(codes, points.dtype).at[code].add(1)
        total = jnp.zeros_like(centres).at[code].add(points)
        far = points[jax.lax.top_k(distance, codes)[1]]
        dead = count == 0
        spare = far[jnp.maximum(jnp.cumsum(dead) - 1, 0)]
        return jnp.where(dead[:, None], spare, total / jnp.maximum(count, 1)[:, None]), None

    return jax.lax.scan(improve, centres, None, iterations)[0]


def scan_order(rows: int, columns: int, kind: str) -> Int[np.ndarray, " cells"]:
    """The numbers of the cells of a grid, row by row, in the order in which they are read: one of `SCAN_ORDERS`.

    Hilbert's curve is that of the smallest square with a power of two on a side that holds the grid, without what lies outside.
    """
    cells = np.arange(rows * columns).reshape(rows, columns)
    if choose("scan order", kind, SCAN_ORDERS) == "row":
        return cells.ravel()
    if kind == "column":
        return cells.T.ravel()
    y = x = np.zeros(1, np.int64)
    side = 1
    while side < max(rows, columns):  # four copies of the curve: turned, as it is twice, turned the other way
        far = 2 * side - 1
        y, x = (
            np.concatenate([x, y, y + side, far - x]),
            np.concatenate([y, x + side, x + side, side - 1 - y]),
        )
        side *= 2
    inside = (y < rows) & (x < columns)
    return cells[y[inside], x[inside]]


def association(
    tokens: Integer[np.ndarray, " places"], classes: Integer[np.ndarray, " places"]
) -> Float[np.ndarray, "types classes"]:
    """Pearson's phi of "the place has this token" with "the place is of this class": 1 where both always meet, 0 by chance.

    Places of a negative class are of none. Tokens and classes that do not occur have 0.
    """
    table = np.zeros((int(tokens.max()) + 1, int(classes.max()) + 1))
    shown = classes >= 0
    np.add.at(table, (tokens[shown], classes[shown]), 1)
    n, own = len(tokens), np.bincount(tokens, minlength=len(table))[:, None]
    there = table.sum(axis=0)[None]
    spread = own * (n - own) * there * (n - there)
    return (n * table - own * there) / np.sqrt(np.where(spread > 0, spread, np.inf))
