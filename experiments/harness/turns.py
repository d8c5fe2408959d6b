"""Timing sides that take turns in this process: what disturbs the machine then disturbs all of them, and their ratios stay."""

import time
from collections.abc import Callable, Mapping


def take_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one call of every side in each round, in the other direction every other round. No call warms up."""
    seconds: dict[str, list[float]] = {label: [] for label in sides}
    for number in range(rounds):
        for label in list(sides) if number % 2 == 0 else reversed(list(sides)):
            start = time.perf_counter()
            sides[label]()
            seconds[label].append(significant(time.perf_counter() - start))
    return seconds


def significant(value: float) -> float:
    """Five digits: more would only be noise in a record."""
    return float(f"{value:.5g}")
