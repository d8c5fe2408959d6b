"""A paper's statements as comparisons: what was measured, where it has to lie, and which of three words that gives.

holds: wholly inside. refuted: wholly outside. open: it straddles a bound, or one seed or a number
that is not finite cannot tell. A verdict is computed, never typed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from experiments.harness.intervals import Interval, interval

Verdict = Literal["holds", "refuted", "open"]
Values = np.ndarray | float | Interval
"""[seeds] of what is random; a number of what is not; an interval made elsewhere, where Student's t does not fit."""

OURS = "ours"
"""The source of a control: no paper says it, and without it nobody should believe what the paper says."""


@dataclass(frozen=True)
class Rule:
    """Where a measurement has to lie, strictly. `str` is the threshold on the page and a call the verdict: the two cannot differ.

    judged: the whole 95 % interval, the mean alone, or the value of every seed. spare: so many of several measurements may miss.
    matters: a measurement is refuted only beyond this value instead of the bound; between the two it is too small to matter either way.
    """

    low: float = -math.inf
    high: float = math.inf
    judged: Literal["whole interval", "mean", "every seed"] = "whole interval"
    spare: int = 0
    matters: float | None = None

    @property
    def mean(self) -> "Rule":
        return replace(self, judged="mean")

    @property
    def every_seed(self) -> "Rule":
        return replace(self, judged="every seed")

    def but(self, spare: int) -> "Rule":
        return replace(self, spare=spare)

    def __call__(self, values: Values) -> Verdict:
        least, most = self._ends(values)
        if least is None or most is None:
            return "open"
        if self.low < least and most < self.high:
            return "holds"
        below, above = self.low, self.high
        if self.matters is not None:
            below, above = (self.matters, above) if above == math.inf else (below, self.matters)
        return "refuted" if most <= below or least >= above else "open"

    def _ends(self, values: Values) -> tuple[float | None, float | None]:
        if isinstance(values, Interval):
            return (values.mean, values.mean) if self.judged == "mean" else (values.low, values.high)
        numbers = np.asarray(values, np.float64)
        if not np.isfinite(numbers).all() or (numbers.ndim and numbers.size < 2):
            return None, None
        if numbers.ndim == 0 or self.judged == "every seed":
            return float(numbers.min()), float(numbers.max())
        return self._ends(interval(numbers.tolist()))

    def __str__(self) -> str:
        if self.low == -math.inf:
            where = f"below {self.high:g}"
        else:
            where = f"above {self.low:g}" if self.high == math.inf else f"between {self.low:g} and {self.high:g}"
        refuted = ""
        if self.matters is not None:
            refuted = f", refuted {'below' if self.high == math.inf else 'above'} {self.matters:g}"
        return f"{self.judged} {where}{refuted}{f', for all but {self.spare}' if self.spare else ''}"


def above(low: float, matters: float | None = None) -> Rule:
    return Rule(low=low, matters=matters)


def below(high: float, matters: float | None = None) -> Rule:
    return Rule(high=high, matters=matters)


def between(low: float, high: float) -> Rule:
    return Rule(low, high)


@dataclass(frozen=True)
class Claim:
    """One statement of a paper or one control, and what our numbers say of it.

    source: the paper's key in papers.bib and the place in it ("rajaraman2024analysis: theorem 2"), or `OURS`. measured: by name. rule: for
    all of them, or by name; what has none is shown and not judged. over: what varies in the measurements. published: the paper's value.
    """

    name: str
    statement: str
    source: str
    measured: Mapping[str, Values]
    rule: Rule | Mapping[str, Rule]
    unit: str = ""
    published: str | float | None = None
    over: str = "seeds"

    def __post_init__(self):
        if not self.name.isidentifier():
            raise ValueError(f"claim name {self.name!r} is not an identifier")
        if unknown := set(self.rules) - set(self.measured) or (not self.rules and {"nothing"}):
            raise ValueError(f"{self.name} judges {unknown}; measured: {', '.join(self.measured)}")

    @property
    def paper(self) -> str:
        """The key of the paper that says it, or `OURS`."""
        return self.source.partition(":")[0]

    @property
    def rules(self) -> dict[str, Rule]:
        return dict.fromkeys(self.measured, self.rule) if isinstance(self.rule, Rule) else dict(self.rule)

    @property
    def parts(self) -> dict[str, Verdict]:
        """The verdict on each measurement that is judged."""
        return {name: rule(self.measured[name]) for name, rule in self.rules.items()}

    @property
    def verdict(self) -> Verdict:
        """holds where all parts do but `spare`; refuted where more than `spare` are, whatever the others say."""
        parts, spare = list(self.parts.values()), max(rule.spare for rule in self.rules.values())
        if parts.count("holds") >= len(parts) - spare:
            return "holds"
        return "refuted" if parts.count("refuted") > spare else "open"

    @property
    def threshold(self) -> str:
        if isinstance(self.rule, Rule):
            return str(self.rule) if len(self.measured) == 1 else f"{self.rule}, each"
        return "; ".join(f"{name}: {rule}" for name, rule in self.rule.items())

    def judged(self) -> dict[str, Any]:
        """The claim as JSON: values of seeds as their mean with its interval."""

        def shown(values: Values) -> Any:
            if isinstance(values, Interval):
                return vars(values)
            numbers = np.asarray(values, np.float64)
            if not np.isfinite(numbers).all():
                return None
            return float(numbers) if numbers.ndim == 0 else vars(interval(numbers.tolist()))

        return {
            "name": self.name,
            "statement": self.statement,
            "source": self.source,
            "unit": self.unit,
            "over": self.over,
            "published": self.published,
            "measured": {name: shown(values) for name, values in self.measured.items()},
            "threshold": self.threshold,
            "parts": self.parts,
            "verdict": self.verdict,
        }
