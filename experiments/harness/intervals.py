"""Means and shares with the uncertainty that fits what varied: seeds, rounds, divisions, cases."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean over n independent values with its confidence interval; `low` and `high` are None for a single one, which cannot tell."""

    mean: float
    low: float | None
    high: float | None
    n: int


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent values (one per seed) and its two-sided Student t interval, in the values' unit.

    One value gives an interval without ends. Raises ValueError for no value or one that is not finite.
    """
    values = [float(value) for value in values]
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"an interval needs at least one value and only finite ones, not {values}")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    from scipy.stats import t

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def ratio_interval(ratios: Sequence[float], confidence: float = 0.95) -> Interval:
    """Geometric mean of positive ratios with the interval of their logarithms, which never reaches below 0.

    Raises ValueError as `interval`.
    """
    found = interval([math.log(ratio) for ratio in ratios], confidence)
    ends = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return Interval(math.exp(found.mean), *ends, found.n)


def share_difference(one: Interval, other: Interval) -> Interval:
    """The difference of two independent shares, from their own intervals (Newcombe 1998, method 10)."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        raise ValueError(f"shares with intervals, not {one} and {other}")
    found = one.mean - other.mean
    low = found - math.hypot(one.mean - one.low, other.high - other.mean)
    high = found + math.hypot(one.high - one.mean, other.mean - other.low)
    return Interval(found, low, high, min(one.n, other.n))


def share_interval(hits: int, cases: int, confidence: float = 0.95) -> Interval:
    """A share of few independent cases and its Wilson interval, which stays within 0 and 1 and has a width where all agree."""
    from scipy.stats import binomtest

    ends = binomtest(int(hits), int(cases)).proportion_ci(confidence, method="wilson")
    return Interval(hits / cases, float(ends.low), float(ends.high), int(cases))


def bootstrap_interval(
    cases: np.ndarray, of: Callable[[np.ndarray], np.ndarray] = lambda means: means, confidence: float = 0.95
) -> Interval:
    """`of` the means of many independent cases [cases, ...], and its percentiles over 2,000 resamplings of whole cases.

    What stands in one row is paired. of: takes means [resamplings, ...] to values [resamplings], such as the ratio of two columns.
    """
    cases = np.asarray(cases, np.float64)
    found = of(_resampled(len(cases)) @ cases)
    low, high = np.quantile(found, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return Interval(float(of(cases.mean(axis=0, keepdims=True))[0]), float(low), float(high), len(cases))


@cache
def _resampled(cases: int, times: int = 2_000) -> np.ndarray:
    """The weight of each case in each resampling, always the same draws."""
    return np.random.default_rng(0).multinomial(cases, np.full(cases, 1 / cases), times) / cases
