"""Quantisers under one signature: `quantize(params, state, z, key) -> Quantised` and `decode(params, state, ids) -> values`.

A quantiser turns a latent z [..., d] into sub-codes ids [..., n], of which the i-th is below `sizes[i]`, and into values [..., e] that a
decoder reads. The key draws what training needs; with None nothing is drawn and the state stays: that is how tokens are made. Gradients
pass to z straight through, and where z is not finite the values of its own position are not either, never another's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log2, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key
from scipy.stats import norm

from lexinv.validation import InvalidConfig, require

Params = dict[str, Any]
State = dict[str, Any]
Draw = Key[Array, ""] | None


class Quantised(NamedTuple):
    """losses: of each position, to be added to the reconstruction's; 0 where nothing is learned. state: of the next call."""

    values: Float[Array, "*batch e"]
    ids: Int[Array, "*batch n"]
    losses: Float[Array, "*batch"]
    state: State


@dataclass(frozen=True)
class Quantiser:
    """width: d of the latents; written: e of the values; sizes: how many values each of the n sub-codes has.

    start(key) -> (params, state): params are learned by gradients, the state by `quantize` itself.
    """

    width: int
    written: int
    sizes: tuple[int, ...]
    start: Callable[[Key[Array, ""]], tuple[Params, State]]
    quantize: Callable[[Params, State, Float[Array, "*batch d"], Draw], Quantised]
    decode: Callable[[Params, State, Int[Array, "*batch n"]], Float[Array, "*batch e"]]

    @property
    def bits(self) -> float:
        """Of one position, all codes alike."""
        return float(sum(map(log2, self.sizes)))

    def check(self, z: Any = None, ids: Any = None) -> None:
        """Raise `InvalidConfig` for latents that are not finite or not `width` wide, and for ids that no code has."""
        if z is not None:
            require(np.shape(z)[-1:] == (self.width,), "latents", np.shape(z), f"[..., {self.width}]")
            finite = np.isfinite(z)
            require(bool(finite.all()), "latents", f"{(~finite).sum()} not finite", "finite numbers")
        if ids is not None:
            found, sizes = np.asarray(ids), np.array(self.sizes)
            require(found.shape[-1:] == sizes.shape, "ids", found.shape, f"[..., {len(sizes)}]")
            wrong = found[(found < 0) | (found >= sizes)]
            require(wrong.size == 0, "ids", wrong[:3].tolist(), f"from 0 and below {self.sizes}")


def joined(ids: Integer[Array, "*batch n"], sizes: tuple[int, ...]) -> Integer[Array, "*batch"]:
    """Sub-codes as one number, the first the most significant. Raises `InvalidConfig` for more codes than int32 counts."""
    require(prod(sizes) < 2**31, "sizes", sizes, "fewer than 2**31 codes in all")
    return sum(ids[..., i] * prod(sizes[i + 1 :]) for i in range(len(sizes)))  # type: ignore[return-value]


def separated(codes: Integer[Array, "*batch"], sizes: tuple[int, ...]) -> Integer[Array, "*batch n"]:
    """The inverse of `joined`."""
    require(prod(sizes) < 2**31, "sizes", sizes, "fewer than 2**31 codes in all")
    return jnp.stack([codes // prod(sizes[i + 1 :]) % size for i, size in enumerate(sizes)], axis=-1)


def straight_through(z: Float[Array, "*batch d"], values: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Exactly `values`, with the gradient of z; not finite where z is not."""
    return jax.lax.stop_gradient(values) + (z - jax.lax.stop_gradient(z))


# Scalar: every dimension by itself, after training


def gaussian_levels(bins: int, reach: float = 5.0, spread: float = 3.0) -> Float[np.ndarray, " bins"]:
    """Levels of TokenBridge's scalar quantiser for latents of deviation 1, ascending.

    Means of a standard normal between its quantiles k / bins, cut at ±spread, and stretched by reach / spread: of B = 64 and reach 5 the
    outermost are ±4.06. As in the released code a latent goes to the nearest level, and the levels are not the quantiles of N(0, 1) but
    of a wider one, so that codes are not equally frequent; nearly what is best for the squared error (Panter and Dite 1951).
    """
    require(bins >= 2, "bins", bins, "at least 2")
    require(reach > 0 and spread > 0, "reach", reach, "above 0, as the spread")
    edges = np.clip(norm.ppf(np.arange(bins + 1) / bins), -spread, spread)
    return -np.diff(norm.pdf(edges)) / np.diff(norm.cdf(edges)) * reach / spread


def gaussian_distortion(levels: Float[np.ndarray, " bins"]) -> tuple[float, float]:
    """(mean squared error, entropy of the codes in bits) of a standard normal at its nearest levels, in closed form."""
    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    share, density = np.diff(norm.cdf(edges)), norm.pdf(edges)
    tail = np.where(np.isfinite(edges), edges, 0) * density
    errors = share - np.diff(tail) + 2 * levels * np.diff(density) + levels**2 * share
    return float(errors.sum()), float(-(share * np.log2(np.maximum(share, 1e-300))).sum())


def scalar(width: int, levels: Float[np.ndarray, " bins"] | Float[np.ndarray, "width bins"]) -> Quantiser:
    """Each dimension at its nearest level; nothing is learned (Wang et al. 2025, TokenBridge: post-training).

    levels: ascending, of all dimensions or of each. Raises `InvalidConfig` for others.
    """
    table = np.broadcast_to(np.asarray(levels, np.float32), (width, np.shape(levels)[-1]))
    require(bool((np.diff(table) > 0).all() and np.isfinite(table).all()), "levels", levels, "ascending numbers")
    return Quantiser(width, width, (table.shape[1],) * width, partial(_scalar_start, table), _scalar, _scalar_decode)


def _scalar_start(table: np.ndarray, key: Key[Array, ""]) -> tuple[Params, State]:
    return {}, {"levels": jnp.asarray(table)}


def _scalar(params: Params, state: State, z: Float[Array, "*batch d"], key: Draw = None) -> Quantised:
    levels = state["levels"]
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    ids = jax.vmap(jnp.searchsorted, (0, -1), -1)(middles, z).astype(jnp.int32)
    return Quantised(straight_through(z, _scalar_decode(params, state, ids)), ids, jnp.zeros(z.shape[:-1]), state)


def _scalar_decode(params: Params, state: State, ids: Int[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    return state["levels"][jnp.arange(ids.shape[-1]), ids]


# Finite scalar quantisation: every dimension by itself, in training


def fsq(levels: tuple[int, ...]) -> Quantiser:
    """Each dimension bounded by tanh and rounded to so many levels from -1 to 1 (Mentzer et al. 2024, section 3.1 and appendix A)."""
    require(len(levels) >= 1 and min(levels) >= 2, "levels", levels, "at least 2 in each dimension")
    return Quantiser(len(levels), len(levels), levels, _nothing, partial(_fsq, levels), partial(_fsq_decode, levels))


def _nothing(key: Key[Array, ""]) -> tuple[Params, State]:
    return {}, {}


def _fsq(
    levels: tuple[int, ...], params: Params, state: State, z: Float[Array, "*batch d"], key: Draw = None
) -> Quantised:
    count = jnp.array(levels, z.dtype).reshape((1,) * (z.ndim - 1) + (-1,))
    half, offset = (count - 1) * (1 + 1e-3) / 2, jnp.where(count % 2 == 0, 0.5, 0.0)
    bounded = jnp.tanh(z + jnp.arctanh(offset / half)) * half - offset
    ids = (jnp.round(bounded) + count // 2).astype(jnp.int32)
    ids = jnp.clip(ids, 0, count.astype(jnp.int32) - 1)  # a latent that is not finite has some id
    values = straight_through(bounded / (count // 2), _fsq_decode(levels, params, state, ids))
    return Quantised(values, ids, jnp.zeros(z.shape[:-1]), state)


def _fsq_decode(
    levels: tuple[int, ...], params: Params, state: State, ids: Int[Array, "*batch d"]
) -> Float[Array, "*batch d"]:
    half = (jnp.array(levels) // 2).astype(jnp.float32).reshape((1,) * (ids.ndim - 1) + (-1,))
    return (ids.astype(jnp.float32) - half) / half


# Bits, and no code


def bernoulli(bits: int, written: int) -> Quantiser:
    """Bits with the chance sigmoid(z), drawn where there is a key and otherwise the likelier ones; a vector for each bit that is set.

    Liu et al. 2025 (ELM: binary autoencoder; the released code's term p (1 - p) has weight 0 and is left out).
    """
    require(bits >= 1, "bits", bits, "at least 1")
    start = partial(_bernoulli_start, bits, written)
    return Quantiser(bits, written, (2,) * bits, start, _bernoulli, _bernoulli_decode)


def _bernoulli_start(bits: int, written: int, key: Key[Array, ""]) -> tuple[Params, State]:
    return {"vectors": jax.random.normal(key, (bits, written))}, {}


def _bernoulli(params: Params, state: State, z: Float[Array, "*batch n"], key: Draw = None) -> Quantised:
    chance = jax.nn.sigmoid(z)
    drawn = chance > 0.5 if key is None else jax.random.bernoulli(key, chance)
    values = straight_through(chance, drawn.astype(z.dtype)) @ params["vectors"]
    return Quantised(values, drawn.astype(jnp.int32), jnp.zeros(z.shape[:-1]), state)


def _bernoulli_decode(params: Params, state: State, ids: Int[Array, "*batch n"]) -> Float[Array, "*batch e"]:
    return ids.astype(jnp.float32) @ params["vectors"]


def gaussian(width: int, weight: float) -> Quantiser:
    """No code: a normal of which z holds means and logarithms of variances, drawn where there is a key, otherwise the mean.

    weight: of its divergence in nats from N(0, 1), summed over dimensions (Kingma and Welling 2014).
    """
    return Quantiser(2 * width, width, (), _nothing, partial(_gaussian, weight), _gaussian_decode)


def _gaussian(weight: float, params: Params, state: State, z: Float[Array, "*batch n"], key: Draw = None) -> Quantised:
    mean, log_variance = jnp.split(z, 2, axis=-1)
    divergence = jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance, axis=-1) / 2
    noise = 0 if key is None else jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
    return Quantised(mean + noise, jnp.zeros((*z.shape[:-1], 0), jnp.int32), weight * divergence, state)


def _gaussian_decode(params: Params, state: State, ids: Int[Array, "*batch 0"]) -> Float[Array, "*batch e"]:
    raise InvalidConfig("quantiser", "gaussian", "one with codes: a continuous latent cannot be decoded from ids")


def k_means_levels(z: Float[np.ndarray, "rows d"], bins: int, seed: int = 0) -> Float[np.ndarray, "d bins"]:
    """Levels of `scalar` for each dimension: centres of k-means of its values, in ascending order (the scalar quantiser that fits them)."""
    from sklearn.cluster import KMeans

    require(2 <= bins <= len(z), "bins", bins, f"from 2 to the {len(z)} rows")
    fits = (KMeans(bins, n_init=1, random_state=seed).fit(column[:, None]) for column in z.T)  # type: ignore[arg-type]
    return np.stack([np.sort(fit.cluster_centers_[:, 0]) for fit in fits])
