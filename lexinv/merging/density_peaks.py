"""Density peaks: clusters around tokens that have many close neighbours and lie far from all tokens that have more.

Rodriguez and Laio 2014, with the density of k nearest neighbours of Du, Ding and Jia 2016 (DPC-KNN) [both recalled, unverified], as SeTok
and other clustering tokenizers use it; method card token-reduction-beyond-efficiency, claim C7.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lexinv.merging.plan import Plan, build, check_axes, check_whole, descending_rank
from lexinv.validation import require


def euclidean_distance(x: Float[Array, "tokens width"]) -> Float[Array, "tokens tokens"]:
    """|x_i - x_j| / sqrt(width) in float32."""
    check_axes(2, x=x)
    x = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x), axis=1)
    product = jnp.einsum("id,jd->ij", x, x, precision="highest")
    squared = jnp.maximum(squares[:, None] + squares[None, :] - 2 * product, 0.0) / x.shape[1]
    return jnp.where(jnp.eye(x.shape[0], dtype=bool), 0.0, jnp.sqrt(squared))


def local_density(distance: Float[Array, "tokens tokens"], neighbours: int) -> Float[Array, " tokens"]:
    """rho_i = exp(-mean of the squared distances to the `neighbours` nearest other tokens)."""
    check_axes(2, distance=distance)
    check_whole(neighbours=neighbours)
    tokens = distance.shape[0]
    require(1 <= neighbours < tokens, "neighbours", neighbours, f"from 1 to the {tokens - 1} other tokens")
    others = jnp.where(jnp.eye(tokens, dtype=bool), jnp.inf, distance)
    nearest = jnp.sort(others, axis=1)[:, :neighbours]
    return jnp.exp(-jnp.mean(jnp.square(nearest), axis=1))


def denser_distance(
    distance: Float[Array, "tokens tokens"], density: Float[Array, " tokens"]
) -> Float[Array, " tokens"]:
    """delta_i: to the nearest token of higher density (of equal ones the first counts as higher); of the densest, to the farthest token."""
    rank = descending_rank(density, jnp.ones(density.shape, bool))
    denser = rank[None, :] < rank[:, None]
    nearest = jnp.min(jnp.where(denser, distance, jnp.inf), axis=1)
    return jnp.where(rank == 0, jnp.max(distance, axis=1), nearest)


def density_peaks(
    distance: Float[Array, "tokens tokens"],
    num_clusters: int,
    neighbours: int = 5,
) -> Plan:
    """The plan that merges all tokens into `num_clusters`: the tokens of the largest rho_i delta_i, each with those nearest to it.

    Targets are in the order of their peaks. Raises `InvalidConfig` unless 1 <= num_clusters <= tokens and 1 <= neighbours < tokens.
    """
    check_axes(2, distance=distance)
    check_whole(num_clusters=num_clusters)
    tokens = distance.shape[0]
    require(1 <= num_clusters <= tokens, "num_clusters", num_clusters, f"from 1 to the {tokens} tokens")
    density = local_density(distance, neighbours)
    score = density * denser_distance(distance, density)
    everyone: Bool[Array, " tokens"] = jnp.ones(tokens, bool)
    peak = descending_rank(score, everyone) < num_clusters
    nearest = jnp.argmin(jnp.where(peak[None, :], distance, jnp.inf), axis=1).astype(jnp.int32)
    return build(~peak, nearest, jnp.ones(tokens, jnp.float32), jnp.zeros(tokens, jnp.int32), num_clusters)
