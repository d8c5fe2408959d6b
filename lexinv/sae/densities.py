"""How often features are used: the law that their densities follow over their ranks."""

import numpy as np
from jaxtyping import Float, Int

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
