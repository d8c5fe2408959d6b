"""How often features are used: the histogram of their densities, and the Zipf law over their ranks."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar

from lexinv.sae.budgets import fit_zipf
from lexinv.validation import require


class DensityHistogram(NamedTuple):
    """edges: of the bins, log10 of the share of tokens. never: features without a token, which have no logarithm."""

    edges: Float[np.ndarray, " edges"]
    counts: Int[np.ndarray, " bins"]
    never: int


def density_histogram(
    densities: Float[np.ndarray, " features"], lowest: int = -6, per_decade: int = 4
) -> DensityHistogram:
    """Features by log10 of their density, from `lowest` to 0, in `per_decade` equal bins for each power of ten.

    Rarer ones than `lowest` are in the first bin. Counts and `never` sum to the features. Raises `InvalidConfig` for what is no share.
    """
    _check_shares(densities)
    require(lowest < 0 and per_decade >= 1, "lowest, per_decade", (lowest, per_decade), "below 0; at least 1")
    edges = np.arange(lowest * per_decade, 1) / per_decade
    logs = np.log10(densities[densities > 0].astype(np.float64))
    # a density of exactly a power of ten belongs to the bin above it, whatever the rounding of the logarithm
    counts, _ = np.histogram(np.clip(logs + 1e-9, lowest, 0.0), edges)
    return DensityHistogram(edges, counts, int((densities == 0).sum()))


class ZipfFit(NamedTuple):
    """Density of rank r (from 1): scale (r + beta)^-alpha. r_squared: share of the variance of log density that it explains."""

    alpha: float
    beta: float
    scale: float
    r_squared: float


def fit_shifted_zipf(densities: Float[np.ndarray, " features"], head: float = 0.5) -> ZipfFit:
    """Least squares of log density on log(rank + beta), and the beta from 0 to the number of features with the smallest squares.

    Over the `head` most frequent share of the features that fire, as `budgets.fit_zipf`: the low end does not follow the law. Errors count
    alike at all ranks, so that alpha is that of the tail of the head; no interval is given, as densities of ranks are not independent.
    Raises `InvalidConfig` for fewer than three features to fit, or densities that are all the same.
    """
    _check_shares(densities)
    ordered = np.sort(densities[densities > 0])[::-1].astype(np.float64)
    used = ordered[: int(np.ceil(head * len(ordered)))]
    require(len(used) >= 3, "densities", len(used), "at least 3 features that fire in the head")
    require(bool(used[0] > used[-1]), "densities", "all equal", "densities that fall")
    logs, rank = np.log(used), np.arange(1, len(used) + 1)

    def squares(log_shift: float) -> float:
        x = np.log(rank + np.expm1(log_shift))
        x = x - x.mean()
        return float(np.square(logs - logs.mean() - x * (x @ logs) / (x @ x)).sum())

    top = np.log1p(len(densities))
    grid = np.linspace(0.0, top, 50)
    near = int(np.argmin([squares(point) for point in grid]))
    bounds = (grid[max(near - 1, 0)], grid[min(near + 1, 49)])
    inside = minimize_scalar(squares, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    best = min((float(inside.x), *bounds), key=squares)
    law = fit_zipf(jnp.asarray(densities, jnp.float32), float(np.expm1(best)), head)
    residual = logs - np.log(float(law.scale)) + float(law.alpha) * np.log(rank + law.beta)
    r_squared = 1 - np.square(residual).sum() / np.square(logs - logs.mean()).sum()
    return ZipfFit(float(law.alpha), law.beta, float(law.scale), float(r_squared))


MIDDLE = (0.05, 0.5)
"""The middle ranks, as shares of the features that fire: below them a few features are everywhere, above them the law bends."""


def ranks_shown(features: int) -> Int[np.ndarray, " shown"]:
    """At most 48 ranks from 0 to F - 1, equally far apart on a logarithmic scale."""
    return np.unique(np.round(np.geomspace(1, features, 48)).astype(int)) - 1


def fit_middle_zipf(densities: Float[np.ndarray, " features"]) -> tuple[float, float]:
    """(alpha, R^2) of least squares of log density on log rank over the middle ranks of falling densities; (0, 0) for fewer than three."""
    live = int(np.sum(densities > 0))
    ranks = np.arange(1, live + 1)
    middle = (ranks > MIDDLE[0] * live) & (ranks <= max(MIDDLE[1] * live, 3))
    if middle.sum() < 3:
        return 0.0, 0.0
    x, y = np.log(ranks[middle]), np.log(densities[:live][middle])
    slope, intercept = np.polyfit(x, y, 1)
    total = np.square(y - y.mean()).sum()
    return float(-slope), float(1 - np.square(y - slope * x - intercept).sum() / total) if total > 0 else 1.0


def compare_laws(densities: Float[np.ndarray, " shown"], live: int, features: int) -> tuple[float, float]:
    """R^2 of a Zipf law, log density linear in log rank, and of an exponential one, log density linear in rank; 0 where none can be told.

    Over those of `ranks_shown` that are middle ones of the `live` features that fire. Falling densities fit either somewhat: the
    difference says which they follow.
    """
    ranks = ranks_shown(features) + 1
    inside = (ranks > MIDDLE[0] * live) & (ranks <= MIDDLE[1] * live) & (densities > 0)
    y = np.log(densities[inside])
    if len(y) < 3 or np.ptp(y) == 0:
        return 0.0, 0.0
    zipf, exponential = (float(np.corrcoef(x, y)[0, 1] ** 2) for x in (np.log(ranks[inside]), ranks[inside]))
    return zipf, exponential


def _check_shares(densities: Float[np.ndarray, " features"]) -> None:
    allowed = "shares of the tokens, 0 to 1"
    outside = ~((densities >= 0) & (densities <= 1))
    require(not bool(outside.any()), "densities", densities[outside][:4].tolist(), allowed)
