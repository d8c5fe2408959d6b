"""Matching pursuit (Mallat and Zhang 1993): as the encoder of an autoencoder, and at the mean sparsity of another encoder."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lexinv.validation import require

CALIBRATION = 2048


def matching_pursuit(
    x: Float[Array, "tokens width"],
    dictionary: Float[Array, "features width"],
    steps: int,
    least: float | Float[Array, ""] = 0.0,
    k: int | Int[Array, ""] | None = None,
) -> Float[Array, "tokens features"]:
    """Codes of at most `steps` entries by non-negative matching pursuit on a dictionary of unit vectors; only the first k steps count.

    Each step takes the direction with the largest inner product with what is left, and none if no product is above `least` (0: if
    none is positive); a direction that is taken again gets the sum. The choice has no gradient, the products have (Costa et al. 2025).
    """
    if isinstance(least, float):
        require(least >= 0, "least", least, "zero or more")
    rows, last = jnp.arange(x.shape[0]), steps if k is None else k

    def step(carry: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        residual, codes = carry
        best = jnp.argmax(jax.lax.stop_gradient(residual) @ jax.lax.stop_gradient(dictionary).T, axis=1)
        direction = dictionary[best]
        product = jnp.sum(residual * direction, axis=1)
        amount = jnp.where((product > least) & (number < last), product, jnp.zeros((), product.dtype))
        return (residual - amount[:, None] * direction, codes.at[rows, best].add(amount)), None

    codes = jnp.zeros((x.shape[0], dictionary.shape[0]), x.dtype)
    return jax.lax.scan(step, (x, codes), jnp.arange(steps, dtype=jnp.int32))[0][1]


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
