"""Whether a run repeats a committed record: every number of its results, every claim and every verdict."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.harness.record import Record
from lexinv.folders import open_folder

SAME = ("device_kind", "device_count", "cpu", "cpu_count")
"""What decides, beside the packages, how numbers are rounded."""

EXACT = 1e-6
"""What results may differ by with the record's machine and versions, relative to the larger number. There they are equal bit for bit
unless two processors of one name or two states of the code round otherwise; float32, in which nearly all is computed, has seven digits."""

COARSE, NOISE = 0.5, 0.1
"""Where no interval judges and bits cannot be the same, numbers agree that are a factor of two apart, or a tenth of the largest number
beside them: in the same claim, or list of results. On another machine rounding alone makes two trainings part, and times never repeat, so
that this is to notice other units and other orders of magnitude only."""

INTERVAL = {"mean", "low", "high", "n"}

CLOCKS = frozenset(("seconds", "processor_seconds", "seconds_elsewhere", "speed"))
"""Members of results that hold wall clocks and ratios of them, at any depth."""
TIMED = ("benchmarks/", "merging/overhead")
"""Beginnings of the names of experiments whose results are wall clocks throughout."""
IDENTITY = re.compile("[0-9a-f]{16}")
"""Of shared models: a hash of the code too."""

Outcome = Literal["equal", "within", "differs", "outside"]


class Comparison(NamedTuple):
    """One value of a claim. equal: the same. within: the recorded interval holds the new number. differs: two numbers without an interval
    that are unequal, but roughly the same (`COARSE`). outside: all else."""

    name: str
    recorded: Any
    found: Any
    outcome: Outcome


class Agreement(NamedTuple):
    """How many values recorded results have, how many of them are equal bit for bit, and the places of those that differ by too much."""

    count: int
    equal: int
    places: list[str]
    same: bool
    """Compared as results of the record's machine and versions, by `EXACT`, or of others, roughly."""

    @property
    def agrees(self) -> bool:
        """All of them; on another machine or with other versions at least half of those that are not equal bit for bit."""
        return not self.places if self.same else 2 * len(self.places) <= self.count - self.equal


def verdict(claim: dict[str, Any]) -> str:
    """Of a claim in claims.json: "holds", "refuted" or "open"; in older files "holds" is true, false or null."""
    return claim.get("verdict") or {True: "holds", False: "refuted", None: "open"}[claim["holds"]]


def same_environment(recorded: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether device, processor and versions agree, of the packages that both have imported: results should then be equal, times apart."""
    versions = all(found["packages"].get(name, number) == number for name, number in recorded["packages"].items())
    return versions and all(recorded.get(key) == found.get(key) for key in SAME)


def compare_results(record: Record, found: dict[str, Any], same: bool) -> Agreement:
    """Every value of the record's results beside the new one, but for wall clocks and the identities of shared models.

    same: within `EXACT`, otherwise within `COARSE`. What is no number has to be equal. What only the new results hold is not looked at.
    """
    recorded = {} if record.experiment.startswith(TIMED) else _lasting(record.results)
    count, equal, places = 0, 0, []
    for place, one, other, beside in _leaves(recorded, found, "results"):
        count, equal = count + 1, equal + _identical(one, other)
        if not (_near(one, other, EXACT) if same else _roughly(one, other, beside)):
            places.append(place)
    return Agreement(count, equal, places, same)


def describe(results: Agreement) -> str:
    """How results agree, in a line."""
    if not results.count:
        return "results are wall clocks, which claims alone judge"
    if results.equal == results.count:
        return f"all {results.count} values of the results are equal bit for bit"
    allowed = f"within {EXACT:g} of one another" if results.same else "roughly the same"
    found = f"{results.equal} of {results.count} values of the results are equal bit for bit, "
    if not results.places:
        return f"{found}the others {allowed}"
    return f"{found}{len(results.places)} are not {allowed}, as {', '.join(results.places[:3])}"


def _lasting(results: Any) -> Any:
    """Results without wall clocks and identities of shared models, and without the objects that then are empty."""
    if not isinstance(results, dict):
        return [_lasting(value) for value in results] if isinstance(results, list) else results
    kept = {}
    for name, value in results.items():
        identity = name == "models" and isinstance(value, str) and IDENTITY.fullmatch(value)
        if name in CLOCKS or identity:
            continue
        lasting = _lasting(value)
        if lasting != {} or value == {}:
            kept[name] = lasting
    return kept


def _leaves(
    recorded: Any, found: Any, place: str, beside: float = 0.0, intervals: bool = False
) -> Iterator[tuple[str, Any, Any, float]]:
    """The place of every recorded value, the value, the new one, and the largest number that both have beside them.

    beside: that of what they are in; of a list its own. intervals: they are values, and so are objects with other
    members than the new ones.
    """
    both = isinstance(recorded, dict) and isinstance(found, dict)
    if both and not (intervals and (recorded.keys() == INTERVAL or recorded.keys() != found.keys())):
        for name, value in recorded.items():
            yield from _leaves(value, found.get(name), f"{place}.{name}", beside, intervals)
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        beside = max(beside, min(max(map(_size, side), default=0.0) for side in (recorded, found)))
        for index, (one, other) in enumerate(zip(recorded, found, strict=True)):
            yield from _leaves(one, other, f"{place}[{index}]", beside, intervals)
    else:
        yield place, recorded, found, beside


def compare_claims(recorded: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[Comparison]:
    """Every number that the recorded claims measured beside the new one, and a claim's verdict where it has changed.

    A claim that only one of both has is `outside`.
    """
    new = {claim["name"]: claim for claim in found}
    rows = []
    for claim in recorded:
        name = claim["name"]
        other = new.pop(name, None)
        if other is None:
            rows.append(Comparison(name, claim["measured"], None, "outside"))
            continue
        beside = min(_largest(claim["measured"]), _largest(other["measured"]))
        leaves = _leaves(claim["measured"], other["measured"], name, beside, intervals=True)
        rows += [Comparison(*leaf[:3], _outcome(*leaf[1:])) for leaf in leaves]
        if verdict(claim) != verdict(other):
            rows.append(Comparison(f"{name} (verdict)", verdict(claim), verdict(other), "outside"))
    return rows + [Comparison(name, None, claim["measured"], "outside") for name, claim in new.items()]


def _outcome(recorded: Any, found: Any, beside: float) -> Outcome:
    """Where a number lies in a recorded interval; ends are met but for rounding. A single run's has no ends."""
    if _identical(recorded, found):
        return "equal"
    if isinstance(recorded, dict) and recorded.keys() == INTERVAL:
        low, high, recorded = recorded["low"], recorded["high"], recorded["mean"]
        found = found["mean"] if isinstance(found, dict) and found.keys() == INTERVAL else found
        if low is not None and _numbers(recorded, found):
            ends = any(math.isclose(found, end, rel_tol=1e-9, abs_tol=1e-12) for end in (low, high))
            return "within" if low <= found <= high or ends else "outside"
    return "differs" if _roughly(recorded, found, beside) else "outside"


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _size(value: Any) -> float:
    return abs(value) if _numbers(value) else 0.0


def _largest(value: Any) -> float:
    """The largest number in a measured value, of intervals their means."""
    if isinstance(value, dict):
        value = [value["mean"]] if value.keys() == INTERVAL else list(value.values())
    return max(map(_largest, value), default=0.0) if isinstance(value, list) else _size(value)


def _identical(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _near(one: Any, other: Any, share: float) -> bool:
    """Whether two values are the same, or numbers that differ by at most this share of the larger one."""
    return _identical(one, other) or (_numbers(one, other) and abs(one - other) <= share * max(abs(one), abs(other)))


def _roughly(one: Any, other: Any, beside: float) -> bool:
    return _near(one, other, COARSE) or (_numbers(one, other) and abs(one - other) <= NOISE * beside)


def repeats(comparisons: list[Comparison], results: Agreement) -> bool:
    """Whether results agree and nothing of a claim is outside."""
    return results.agrees and all(row.outcome != "outside" for row in comparisons)


def fresh_folder(parent: Path, name: str) -> Path:
    """A new folder `name`-1, or the next number that is free."""
    open_folder(parent, "workspace")
    number = 1
    while True:
        try:
            (folder := parent / f"{name}-{number}").mkdir()
            return folder
        except FileExistsError:  # of an earlier try, or of one that runs now
            number += 1
