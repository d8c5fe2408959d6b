"""Images of codes that need no quantiser: scanned digits of 17 grey levels, larger patches of them, and windows with a parity.

scikit-learn's digits are 1,797 scans of 8 x 8 pixels (Alpaydin and Kaynak 1998), here with the class as a prompt of one word.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lexinv.merging.token_shuffle import code_windows, window_merge, window_partition
from lexinv.validation import require

LEVELS, SIDE, PARITY_SIDE = 17, 8, 4
"""Grey levels of digits, and the codes along a side of digits and of parities."""


class Images(NamedTuple):
    """prompt: [images, words]. codes: [images, rows, columns]."""

    prompt: Any
    codes: Any


def digits(held_out: int) -> tuple[Images, Images]:
    """(those of training, those held out), always the same. Raises `InvalidConfig` where none is left to train with."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    require(held_out < len(found.target), "images", held_out, f"fewer than the {len(found.target)} digits")
    rows = np.random.default_rng(0).permutation(len(found.target))
    labels, codes = found.target[rows, None].astype(np.int32), found.images[rows].astype(np.int32)
    parts = slice(held_out, None), slice(held_out)
    train, test = (Images(labels[part], codes[part]) for part in parts)
    return train, test


def parity_images(bits: Any) -> Images:
    """Windows of three free bits [..., windows, 3] and their parity; the prompt says nothing."""
    whole = jnp.concatenate([bits, jnp.sum(bits, axis=-1, keepdims=True) % 2], axis=-1)
    codes = window_merge(whole, PARITY_SIDE, PARITY_SIDE, 2)[..., 0]
    return Images(jnp.zeros((len(codes), 1), jnp.int32), codes)


def rows_of(images: Images, count: int, key: Array) -> Images:
    """So many of these at random."""
    rows = jax.random.randint(key, (count,), 0, len(images.codes))
    return Images(jnp.asarray(images.prompt)[rows], jnp.asarray(images.codes)[rows])


def random_parities(count: int, key: Array) -> Images:
    return parity_images(jax.random.bernoulli(key, shape=(count, PARITY_SIDE**2 // 4, 3)).astype(jnp.int32))


def every_parity() -> Images:
    """All 4,096 images, so that a mean over them is an expectation."""
    free = 3 * PARITY_SIDE**2 // 4
    return parity_images(jnp.asarray((np.arange(2**free)[:, None] >> np.arange(free)) & 1).reshape(2**free, -1, 3))


def transformed(images: Images, key: Array) -> Images:
    """Each turned by up to a fifth of a radian, a tenth larger or smaller, up to half a pixel to a side, and up to a fifth paler."""
    count, (rows, columns) = len(images.codes), images.codes.shape[1:]
    draws = jax.random.uniform(key, (5, count), minval=-1.0)
    middle = jnp.array([rows - 1, columns - 1], jnp.float32)[:, None] / 2
    places = jnp.indices((rows, columns), dtype=jnp.float32).reshape(2, -1) - middle

    def one(codes: Array, turn: Array, size: Array, down: Array, across: Array, pale: Array) -> Array:
        cos, sin = jnp.cos(0.2 * turn), jnp.sin(0.2 * turn)
        source = jnp.array([[cos, -sin], [sin, cos]]) @ places * jnp.exp(0.1 * size) + middle
        source = source + 0.5 * jnp.stack([down, across])[:, None]
        grey = jax.scipy.ndimage.map_coordinates(codes.astype(jnp.float32), list(source), order=1)
        return jnp.round((0.9 + 0.1 * pale) * grey).astype(jnp.int32).reshape(rows, columns)

    return Images(jnp.asarray(images.prompt), jax.vmap(one)(jnp.asarray(images.codes), *draws))


def as_patches(centres: Any, images: Images) -> Images:
    """As one code, the nearest centre, for 2 x 2 pixels."""
    parts = window_partition(jnp.asarray(images.codes)[..., None], 2).astype(jnp.float32)
    far = jnp.sum((parts[..., None, :] - jnp.asarray(centres, jnp.float32)[None, None]) ** 2, axis=-1)
    return Images(images.prompt, jnp.argmin(far, axis=-1).reshape(len(parts), SIDE // 2, SIDE // 2).astype(jnp.int32))


def larger_patches(count: int, train: Images, test: Images) -> tuple[np.ndarray, float]:
    """(centres of 2 x 2 pixels by k-means, bits of a held-out pixel given its patch's code).

    Pixels are independent given the code, with the shares of the training images, each level half a time more often. Code and pixels
    together cost at least as many bits as the image.
    """
    from sklearn.cluster import KMeans

    parts = [code_windows(np.asarray(images.codes), 2, LEVELS).reshape(-1, 4) for images in (train, test)]
    clusters: Any = KMeans(count, n_init="auto", random_state=0).fit(parts[0].astype(np.float64))
    codes = [np.asarray(as_patches(clusters.cluster_centers_, images).codes).ravel() for images in (train, test)]
    counts = np.full((count, 4, LEVELS), 0.5)
    np.add.at(counts, (codes[0][:, None], np.arange(4), parts[0]), 1)
    shares = counts / counts.sum(axis=-1, keepdims=True)
    rest = -np.log2(shares[codes[1][:, None], np.arange(4), parts[1]]).mean()
    return clusters.cluster_centers_, round(float(rest), 5)
