"""Comparing sides that take turns in short blocks: what disturbs the machine then disturbs all of them, and ratios stay."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from experiments.benchmarks.problems import Problem
from experiments.benchmarks.worker import Worker
from experiments.harness.claims import interval


def alternate(sides: Mapping[str, Worker], rounds: int, steps: int) -> dict[str, Any]:
    """Blocks of `steps` steps of every prepared side in turn, in the other direction every other round.

    By side: `seconds`, the median of a step in each round; `processor_seconds` of a step, all threads, in each round; and
    `idle_share`, the processor seconds that its process spent per second of waiting for its turn.
    """
    blocks: dict[str, list[dict[str, Any]]] = {label: [] for label in sides}
    for number in range(rounds):
        for label in list(sides) if number % 2 == 0 else reversed(list(sides)):
            blocks[label].append(sides[label].ask("block", label=label, steps=steps))
    measured: dict[str, Any] = {"seconds": {}, "processor_seconds": {}, "idle_share": {}}
    for label, done in blocks.items():
        wall, processor = np.sum([block["waited"] for block in done], axis=0)
        measured["seconds"][label] = [significant(median(block["seconds"])) for block in done]
        measured["processor_seconds"][label] = [significant(block["processor_seconds"]) for block in done]
        measured["idle_share"][label] = significant(processor / wall) if wall > 0 else 0.0
    return measured


def significant(value: float) -> float:
    """Five digits: more would only be noise in a record."""
    return float(f"{value:.5g}")


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, Any]:
    """The ratio of the medians over rounds, and the interval of the rounds' own ratios."""
    by_round = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"ratio": median(numerator) / median(denominator), "by_round": interval(by_round)}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of the least-squares fit seconds = a size^b in logarithms."""
    return significant(float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]))


def size_sweep(axes: Mapping[str, Mapping[int, Problem]], worker: Worker, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds of a step by size along each axis, [sizes][rounds], and the exponent of a power law fitted to them in each round."""
    labels: dict[Problem, str] = {}
    for problem in (problem for problems in axes.values() for problem in problems.values()):
        if problem not in labels:  # the base is on every axis, and measured once
            labels[problem] = str(len(labels))
            worker.ask("prepare", label=labels[problem], problem=problem)
    seconds = alternate(dict.fromkeys(labels.values(), worker), rounds, steps)["seconds"]
    measured = {}
    for axis, problems in axes.items():
        rows = [seconds[labels[problem]] for problem in problems.values()]
        exponents = [exponent(list(problems), times) for times in zip(*rows, strict=True)]
        measured[axis] = {"sizes": list(problems), "seconds": rows, "exponents": exponents}
    return measured
