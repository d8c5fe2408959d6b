"""Randomness: one root key, from which every use derives its own by name, so that a resumed run draws the same numbers."""

import zlib

import jax
from jaxtyping import Array, Key


def stream(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """The key of the named stream of `key`. Independent of the order in which streams are asked for."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
