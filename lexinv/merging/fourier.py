"""Fewer tokens by cutting high frequencies: a discrete cosine transform along the tokens, and the inverse one of a shorter length.

Fourier Transformer (He et al. 2023, arXiv 2305.15099); method card token-merging, row DCT. There is no `Plan`: every output mixes all
tokens.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lexinv.merging.plan import check_axes, check_whole
from lexinv.validation import require


def dct_reduce(x: Float[Array, "tokens width"], num_keep: int, protect: int = 1) -> Float[Array, "kept width"]:
    """The first `num_keep` coefficients of the tokens' orthonormal DCT-II, as a sequence of num_keep tokens behind the protected ones.

    With the factor sqrt(num_keep / tokens) that keeps amplitudes, so that a constant sequence stays what it is (missing in PiToMe's code,
    where it grows). Padding is not known to it: cut it off before. Raises `InvalidConfig` unless 1 <= num_keep <= unprotected tokens.
    """
    check_axes(2, x=x)
    check_whole(num_keep=num_keep, protect=protect)
    tokens = x.shape[0] - protect
    require(0 <= protect < x.shape[0], "protect", protect, f"from 0 to {x.shape[0] - 1}")
    require(1 <= num_keep <= tokens, "num_keep", num_keep, f"from 1 to the {tokens} unprotected tokens")
    matrix = jnp.asarray(shortening(tokens, num_keep), jnp.float32)
    kept = jnp.einsum("nt,td->nd", matrix, x[protect:].astype(jnp.float32), precision="highest")
    return jnp.concatenate([x[:protect], kept.astype(x.dtype)])


def shortening(tokens: int, num_keep: int) -> Float[np.ndarray, "kept tokens"]:
    """The linear map of `dct_reduce`: C_k^T (first k rows of C_n) sqrt(k / n) with orthonormal DCT-II matrices, k to keep of n."""
    return dct_matrix(num_keep).T @ dct_matrix(tokens)[:num_keep] * np.sqrt(num_keep / tokens)


def dct_matrix(tokens: int) -> Float[np.ndarray, "tokens tokens"]:
    """The orthonormal DCT-II, float64; its transpose is the inverse."""
    frequency, place = np.arange(tokens)[:, None], np.arange(tokens)[None, :] + 0.5
    matrix = np.sqrt(2 / tokens) * np.cos(np.pi * frequency * place / tokens)
    matrix[0] /= np.sqrt(2)
    return matrix
