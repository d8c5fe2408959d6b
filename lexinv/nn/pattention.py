"""Attention from tokens to parameters, in place of linear maps (TokenFormer, Wang et al. 2025, arXiv 2410.23168; card tokenformer)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lexinv.nn.linear import linear

EPSILON = 1e-5
"""Added to the squared norm of the scores, so that a vector of zeros has finite ones."""


def pattention(
    x: Float[Array, "*batch n"], keys: Float[Array, "pairs n"], values: Float[Array, "pairs m"], scale: float
) -> Float[Array, "*batch m"]:
    """GeLU(scale A / |A|_2) V with A = x K^T, the norm over the pairs; GeLU is exact. The usual scale is the square root of their number.

    A pair whose key is zero changes nothing. x and K may be multiplied by positive numbers without effect, but for `EPSILON`.
    """
    scores = linear(x, keys.T)
    size = jax.lax.rsqrt(jnp.sum(jnp.square(scores), axis=-1, keepdims=True) + jnp.asarray(EPSILON, x.dtype))
    return linear(nn.gelu(scores * size * jnp.asarray(scale, x.dtype), approximate=False), values)


def attend_parameters(module: Any, name: str, x: Array, m: int, times: int = 1) -> Array:
    """`pattention` to `times` as many pairs as the module's configuration says, named NAME_keys and NAME_values.

    Drawn as in the released code: keys from N(0, 0.02^2), values from N(0, 4 / (depth^2 width)).
    """
    config = module.config
    pairs, n = times * config.parameter_pairs, x.shape[-1]
    keys = module.param(f"{name}_keys", nn.initializers.normal(0.02), (pairs, n))
    values = module.param(f"{name}_values", nn.initializers.normal(2 / (config.depth * config.width**0.5)), (pairs, m))
    scale = (times * (config.scale_pairs or config.parameter_pairs)) ** 0.5
    return pattention(x, keys.astype(x.dtype), values.astype(x.dtype), scale)
