"""Matching pursuit at a wanted mean sparsity, to be compared with an encoder of the same."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lexinv.sae.metrics import matching_pursuit

CALIBRATION = 2048


def pursue(
    x: Float[Array, "tokens width"],
    calibration: Float[Array, "others width"],
    dictionary: Float[Array, "features width"],
    l0: float,
    steps: int,
) -> Float[Array, "tokens features"]:
    """Codes of matching pursuit that ends, token by token, where no product is above a threshold: that which gives `l0` on other tokens.

    At most `steps` entries a token, on unit vectors; the threshold is found by bisection on the first `CALIBRATION` of the others.
    """
    return _pursued(x, dictionary, steps, _threshold(calibration[:CALIBRATION], dictionary, steps, jnp.float32(l0)))


_pursued = partial(jax.jit, static_argnums=2)(matching_pursuit)


@partial(jax.jit, static_argnums=2)
def _threshold(x: Array, dictionary: Array, steps: int, l0: Array) -> Array:
    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        codes = matching_pursuit(x, dictionary, steps, middle)
        too_many = jnp.mean(jnp.sum(codes != 0, axis=1).astype(jnp.float32)) > l0
        return jnp.where(too_many, middle, low), jnp.where(too_many, high, middle)

    largest = jnp.max(jnp.linalg.norm(x, axis=1))
    return jax.lax.fori_loop(0, 15, halve, (jnp.zeros_like(largest), largest))[1]
