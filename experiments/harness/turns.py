"""Timing sides that take turns in this process: what disturbs the machine then disturbs all of them, and their ratios stay."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from experiments.harness.curves import significant


def turns(labels: Iterable[str], rounds: int) -> Iterator[str]:
    """Every label once a round, in the other direction every other round."""
    order = list(labels)
    for number in range(rounds):
        yield from order if number % 2 == 0 else reversed(order)


def take_turns(
    sides: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of one call of every side in each round, by any clock. No call warms up."""
    seconds: dict[str, list[float]] = {label: [] for label in sides}
    for label in turns(sides, rounds):
        start = clock()
        sides[label]()
        seconds[label].append(significant(clock() - start))
    return seconds
