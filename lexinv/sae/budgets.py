"""How many tokens each feature may have: the budgets of Feature Choice, and the Zipf law of feature densities."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lexinv.validation import require


class ZipfLaw(NamedTuple):
    """Density of the feature of rank r (from 0): scale (r + 1 + beta)^(-alpha)."""

    scale: Float[Array, ""]
    alpha: Float[Array, ""]
    beta: float

    def density(self, ranks: Int[Array, " features"]) -> Float[Array, " features"]:
        """The expected share of tokens with the feature of each rank."""
        return self.scale * (ranks.astype(jnp.float32) + 1.0 + self.beta) ** -self.alpha


def zipf_budgets(
    total: int, features: int, tokens: int, alpha: float, beta: float = 0.0
) -> Int[np.ndarray, " features"]:
    """m_r proportional to (r + beta)^(-alpha) for the ranks r = 1 ... F, each from 1 to `tokens`, with the sum `total` exactly.

    alpha = 0 is uniform Feature Choice (Ayonrinde 2024, arXiv 2411.02124); the shift beta is ours. What is below 1 or above `tokens` is
    clipped and the rest scaled up until the sum fits; fractions are rounded by largest remainder.
    Raises `InvalidConfig` unless features <= total <= tokens * features: clipping at 1 needs a batch of at least F / k tokens.
    """
    require(features >= 1, "features", features, "at least 1")
    possible = f"{features} (one for each feature) to {tokens * features} (every feature for each of {tokens} tokens)"
    require(features <= total <= tokens * features, "total", total, possible)
    require(alpha >= 0 and beta >= 0, "alpha, beta", (alpha, beta), "zero or more")
    weights = (np.arange(1, features + 1) + beta) ** -alpha
    low, high = 0.0, 2 * tokens / weights[-1]
    for _ in range(200):  # sum_r clip(s w_r, 1, N) rises with s
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * weights, 1, tokens).sum() < total else (low, middle)
    exact = np.clip(high * weights, 1, tokens)
    budgets = np.floor(exact + 1e-9).astype(np.int64)
    by_remainder = np.argsort(-(exact - budgets), kind="stable")
    by_remainder = by_remainder[budgets[by_remainder] < tokens]
    budgets[by_remainder[: total - budgets.sum()]] += 1
    return budgets.astype(np.int32)


def largest_remainder(shares: Float[Array, " features"], total: Int[Array, ""] | int) -> Int[Array, " features"]:
    """Integers near `shares`, which are not negative and sum to `total` or little less: rounded down, the largest fractions up."""
    down = jnp.floor(shares).astype(jnp.int32)
    missing = jnp.asarray(total, jnp.int32) - jnp.sum(down, dtype=jnp.int32)
    return down + (ranks(shares - jnp.floor(shares)) < missing).astype(jnp.int32)


def ranks(values: Float[Array, " features"]) -> Int[Array, " features"]:
    """The place of each in decreasing order, from 0; of equal values the first comes first."""
    order = jnp.argsort(-values, stable=True)
    return jnp.zeros(values.shape, jnp.int32).at[order].set(jnp.arange(values.shape[0], dtype=jnp.int32))


def fit_zipf(densities: Float[Array, " features"], beta: float = 0.0, head: float = 0.5) -> ZipfLaw:
    """Least squares of log density on log(rank + beta) over the `head` most frequent share of the features that fire at all.

    Feature densities follow a Zipf law except at the low end (Ayonrinde 2024), which is therefore left out.
    """
    rank = ranks(densities)
    count = jnp.maximum(jnp.ceil(head * jnp.sum(densities > 0).astype(jnp.float32)), 2.0)
    used = ((rank.astype(jnp.float32) < count) & (densities > 0)).astype(jnp.float32)
    x = jnp.log(rank.astype(jnp.float32) + 1.0 + beta)
    y = jnp.log(jnp.where(densities > 0, densities, 1.0))
    weight = jnp.maximum(jnp.sum(used), 1.0)
    mean_x, mean_y = jnp.sum(used * x) / weight, jnp.sum(used * y) / weight
    spread = jnp.sum(used * (x - mean_x) ** 2)
    slope = jnp.sum(used * (x - mean_x) * (y - mean_y)) / jnp.maximum(spread, 1e-12)
    return ZipfLaw(jnp.exp(mean_y - slope * mean_x), -slope, beta)
