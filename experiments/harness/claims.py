"""A paper's statements judged on numbers. A verdict is computed, never typed in."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from experiments.harness.intervals import Interval as Interval
from experiments.harness.intervals import interval as interval


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

    def judged(self) -> dict[str, Any]:
        """As `experiments.harness.verdicts.Claim.judged`."""
        kept = {key: value for key, value in asdict(self).items() if key != "holds"}
        verdict = {True: "holds", False: "refuted", None: "open"}[self.holds]
        return kept | {"unit": "", "over": "seeds", "parts": {}, "verdict": verdict}


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
