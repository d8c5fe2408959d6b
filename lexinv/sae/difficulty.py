"""Whether harder tokens get more features."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import spearmanr

from lexinv.validation import require


class DifficultyUse(NamedTuple):
    """spearman: rank correlation of features used with difficulty over tokens, ties at their mean rank; 0 where either is constant.

    l0: the mean number of features used in each bin of difficulty, from the easiest.
    """

    spearman: float
    l0: Float[np.ndarray, " bins"]


def difficulty_use(
    l0: Shaped[np.ndarray, " tokens"], difficulty: Shaped[np.ndarray, " tokens"], bins: int = 10
) -> DifficultyUse:
    """Per-token numbers of active features against difficulty: the true one, or the language model's loss in nats.

    Bins hold equally many tokens, ties together; where difficulty has no more than `bins` values, each value is a bin. Raises
    `InvalidConfig` for fewer than two tokens, or numbers that are not finite.
    """
    require(len(l0) >= 2, "l0", len(l0), "of at least two tokens")
    require(bins >= 1, "bins", bins, "at least 1")
    l0, difficulty = l0.astype(np.float64), difficulty.astype(np.float64)
    finite = bool(np.isfinite(difficulty).all() and np.isfinite(l0).all())
    require(finite, "l0, difficulty", "not finite", "finite numbers")
    values = np.unique(difficulty)
    if len(values) > bins:
        values = np.unique(np.quantile(difficulty, np.arange(bins) / bins, method="higher"))
    place = np.searchsorted(values, difficulty, side="right") - 1
    constant = np.ptp(l0) == 0 or np.ptp(difficulty) == 0
    correlation = 0.0 if constant else float(spearmanr(l0, difficulty).statistic)  # type: ignore[union-attr]
    return DifficultyUse(correlation, np.bincount(place, l0) / np.bincount(place))
