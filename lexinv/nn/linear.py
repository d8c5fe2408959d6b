"""Matrix products and normalisation whose gradients are written out.

Autodiff of `x @ W` for `x[batch, time, features]` ends, on the CPU, in transposing copies that cost as much as the products. The
gradients here are the same mathematics as one direct product each, on every device.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def linear(x: Float[Array, "*batch n"], kernel: Float[Array, "n m"]) -> Float[Array, "*batch m"]:
    """`x @ kernel`, with both gradients as single matrix products.

    Reverse mode only: forward-mode derivatives are not defined.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _linear_forward(x, kernel):
    return linear(x, kernel), (x, kernel)


def _linear_backward(saved, gradient):
    x, kernel = saved
    rows = gradient.reshape(-1, gradient.shape[-1])
    x_rows = x.reshape(-1, x.shape[-1])
    to_x = jax.lax.dot_general(rows, kernel, (((1,), (1,)), ((), ())))
    to_kernel = jax.lax.dot_general(x_rows, rows, (((0,), (0,)), ((), ())))
    return to_x.reshape(x.shape).astype(x.dtype), to_kernel.astype(kernel.dtype)


linear.defvjp(_linear_forward, _linear_backward)


RMS_EPSILON = 1e-6


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(
    x: Float[Array, "*batch n"], gain: Float[Array, " n"], epsilon: float = RMS_EPSILON
) -> Float[Array, "*batch n"]:
    """Root-mean-square normalisation over the last axis: `gain * x / sqrt(mean(x^2) + epsilon)` (Zhang and Sennrich 2019, eq. 4)."""
    return _rms_norm_forward(x, gain, epsilon)[0]


def _rms_norm_forward(x, gain, epsilon):
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + jnp.asarray(epsilon, x.dtype))
    return x * scale * _as_row(gain, x), (x, gain, scale)


def _rms_norm_backward(epsilon, saved, gradient):
    del epsilon
    x, gain, scale = saved
    normalised = x * scale
    to_normalised = gradient * _as_row(gain, x)
    projection = jnp.mean(to_normalised * normalised, axis=-1, keepdims=True)
    to_x = scale * (to_normalised - normalised * projection)
    to_gain = jnp.sum(gradient * normalised, axis=tuple(range(x.ndim - 1)))
    return to_x.astype(x.dtype), to_gain.astype(gain.dtype)


def _as_row(gain, x):
    return gain.reshape((1,) * (x.ndim - 1) + gain.shape)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def layer_norm(
    x: Float[Array, "*batch n"], gain: Float[Array, " n"], offset: Float[Array, " n"], epsilon: float
) -> Float[Array, "*batch n"]:
    """`gain * (x - mean(x)) / sqrt(var(x) + epsilon) + offset` over the last axis (Ba et al. 2016); the statistics are in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + jnp.float32(epsilon))
    return (centred * scale).astype(x.dtype) * _as_row(gain, x) + _as_row(offset, x)
