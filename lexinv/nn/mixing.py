"""What queries and keys take from the tokens before them, and where these parameters start."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def shift(x: Float[Array, "batch time *rest"], steps: int) -> Float[Array, "batch time *rest"]:
    """`x` moved `steps` later in time, zeros before."""
    padding = [(0, 0)] * x.ndim
    padding[1] = (steps, 0)
    return jnp.pad(x, padding)[:, : x.shape[1]]


def causal_convolution(
    x: Float[Array, "batch time channels"], taps: Float[Array, "taps channels"]
) -> Float[Array, "batch time channels"]:
    """Depthwise causal convolution: `y_t = sum_s taps[s] * x_{t-s}`, channel by channel (So et al. 2021, section 4)."""
    return sum((taps[s][None, None] * shift(x, s) for s in range(1, taps.shape[0])), start=taps[0][None, None] * x)


def identity_taps(key: Array, shape: tuple[int, int]) -> Array:
    """The tap of the present is one, the others zero: the layer starts without the convolution's effect."""
    del key
    return jnp.zeros(shape).at[0].set(1.0)


def alternating_logits(key: Array, shape: tuple[int]) -> Array:
    """+2, -2, +2, ...: even heads start on the key before, odd heads on their own."""
    del key
    return jnp.where(jnp.arange(shape[0]) % 2 == 0, 2.0, -2.0)
