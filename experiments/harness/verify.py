"""Whether a run repeats a committed record: number by number, and every claim within its recorded interval."""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from experiments.harness.record import Record

SAME = ("device_kind", "device_count", "cpu")
"""What decides, beside the packages, whether results can be equal bit for bit."""

INTERVAL = {"mean", "low", "high", "n"}

Outcome = Literal["equal", "within", "outside", "differs"]


class Comparison(NamedTuple):
    """One value of a claim. equal: the same. within: the recorded interval holds the new number. outside: it does not, or what is there now
    is of another kind. differs: two numbers that are unequal, and no interval says by how much they may be."""

    name: str
    recorded: Any
    found: Any
    outcome: Outcome


def verdict(claim: dict[str, Any]) -> str:
    """Of a claim in claims.json: "holds", "refuted" or "open"; in older files "holds" is true, false or null."""
    return claim.get("verdict") or {True: "holds", False: "refuted", None: "open"}[claim["holds"]]


def same_environment(recorded: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether device, processor and the versions of all packages agree: results should then be equal bit for bit, times apart."""
    versions = all(found["packages"].get(name) == number for name, number in recorded["packages"].items())
    return versions and all(recorded.get(key) == found.get(key) for key in SAME)


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
        rows += _compare(name, claim["measured"], other["measured"])
        if verdict(claim) != verdict(other):
            rows.append(Comparison(f"{name} (verdict)", verdict(claim), verdict(other), "outside"))
    return rows + [Comparison(name, None, claim["measured"], "outside") for name, claim in new.items()]


def _compare(name: str, recorded: Any, found: Any) -> Iterator[Comparison]:
    if recorded == found:
        yield Comparison(name, recorded, found, "equal")
    elif isinstance(recorded, dict) and recorded.keys() == INTERVAL:
        mean = found["mean"] if isinstance(found, dict) and found.keys() == INTERVAL else found
        yield Comparison(name, recorded, found, _place(recorded, mean))
    elif isinstance(recorded, dict) and isinstance(found, dict) and recorded.keys() == found.keys():
        for key in recorded:
            yield from _compare(f"{name}.{key}", recorded[key], found[key])
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for index, pair in enumerate(zip(recorded, found, strict=True)):
            yield from _compare(f"{name}[{index}]", *pair)
    else:
        yield Comparison(name, recorded, found, "differs" if _numbers(recorded, found) else "outside")


def _place(recorded: dict[str, Any], mean: Any) -> Outcome:
    """Where a number lies in a recorded interval; ends are met but for rounding. A single run's has no ends."""
    if not _numbers(recorded["mean"], mean):
        return "outside"
    low, high = recorded["low"], recorded["high"]
    if low is None:
        return "differs"
    inside = low <= mean <= high or any(math.isclose(mean, end, rel_tol=1e-9, abs_tol=1e-12) for end in (low, high))
    return "within" if inside else "outside"


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def differing(recorded: Any, found: Any, path: str = "results") -> list[str]:
    """The places at which two JSON values are not the same, bit for bit."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        keys = list(dict.fromkeys([*recorded, *found]))
        parts = [(f"{path}.{key}", recorded.get(key), found.get(key)) for key in keys]
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        parts = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(recorded, found, strict=True))]
    else:
        return [] if recorded == found and type(recorded) is type(found) else [path]
    return [place for where, one, other in parts for place in differing(one, other, where)]


def repeats(comparisons: list[Comparison]) -> bool:
    """Whether nothing lies outside of its interval and no verdict has changed. Numbers without an interval may differ."""
    return all(row.outcome != "outside" for row in comparisons)


def preset_record(records: list[Record], experiment: str, preset: str | None) -> Record:
    """The record of an experiment, of its largest preset unless one is named. Raises `InvalidConfig` where there is none."""
    from experiments.harness.report import preferred
    from lexinv.validation import choose, require

    items = {item.preset: item for item in records if item.experiment == experiment}
    require(bool(items), "verify", experiment, "an experiment with a committed record")
    return preferred(list(items.values())) if preset is None else items[choose("preset", preset, items)]
