"""A paper's statements judged on numbers. A verdict is computed, never typed in."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean over independent runs with its confidence interval; `low` and `high` are None for a single run, which cannot tell."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Claim:
    """One statement of a paper and what our numbers say about it.

    `published` is the paper's value or None where it gives none; `threshold` was fixed before the run; `holds` is None where the
    preset cannot tell (one seed where an interval is needed).
    """

    name: str
    statement: str
    source: str
    published: str | float | None
    measured: object
    threshold: str | float
    holds: bool | None

    def __post_init__(self):
        if not self.name.isidentifier():
            raise ValueError(f"claim name {self.name!r} is not an identifier")
        if self.holds is not None:
            object.__setattr__(self, "holds", bool(self.holds))  # a NumPy bool is not JSON


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


def below(measured: Interval, threshold: float) -> bool | None:
    """Whether the whole interval lies strictly below the threshold; None for a single run."""
    return None if measured.high is None else measured.high < threshold


def above(measured: Interval, threshold: float) -> bool | None:
    """Whether the whole interval lies strictly above the threshold; None for a single run."""
    return None if measured.low is None else measured.low > threshold


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all verdicts are true; None where one of them cannot tell, or there is none."""
    verdicts = list(verdicts)
    return None if None in verdicts or not verdicts else all(verdicts)
