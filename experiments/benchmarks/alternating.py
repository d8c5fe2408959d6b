"""Comparing sides that take turns in short blocks: what disturbs the machine then disturbs all of them, and ratios stay."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.benchmarks.worker import Worker, WorkerError
from experiments.harness.claims import interval
from experiments.harness.turns import significant


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


def alternate_with_torch(
    ours: Mapping[str, Any],
    theirs: Mapping[str, tuple[Any, bool]],
    log: Path,
    cores: int,
    rounds: int,
    steps: int,
    kind: str = "language_model",
) -> dict[str, Any]:
    """`alternate` with our problems in one process and each of PyTorch's, (problem, whether compiled), in one of its own.

    With `torch`, the version or None, and `left_out`, why a side of PyTorch was not measured. Raises `WorkerError`.
    """
    installed = find_spec("torch") is not None
    left_out = {} if installed else dict.fromkeys(theirs, "PyTorch is not installed (extra `interop`)")
    with ExitStack() as stack:
        jax_worker = stack.enter_context(Worker(log, cores))
        sides = dict.fromkeys(ours, jax_worker)
        for label, problem in ours.items():
            jax_worker.ask("prepare", label=label, problem=problem, kind=kind)
        for label in [label for label in theirs if label not in left_out]:
            problem, compiled = theirs[label]
            worker = stack.enter_context(Worker(log, cores))
            try:
                worker.ask("prepare", label=label, problem=problem, library="torch", compiled=compiled, kind=kind)
                sides[label] = worker
            except WorkerError as error:
                if not compiled:  # torch.compile needs a C++ compiler and more: that it does not work is a result
                    raise
                left_out[label] = f"failed: {error}"
        measured = alternate(sides, rounds, steps)
    return {"torch": version("torch") if installed else None, "left_out": left_out, **measured}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, Any]:
    """The ratio of the medians over rounds, and the interval of the rounds' own ratios."""
    by_round = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"ratio": median(numerator) / median(denominator), "by_round": interval(by_round)}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of the least-squares fit seconds = a size^b in logarithms."""
    return significant(float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]))


def size_sweep(
    axes: Mapping[str, Mapping[int, Any]], worker: Worker, rounds: int, steps: int, kind: str = "language_model"
) -> dict[str, Any]:
    """Seconds of a step by size along each axis, [sizes][rounds], and the exponent of a power law fitted to them in each round."""
    labels: dict[Any, str] = {}
    for problem in (problem for problems in axes.values() for problem in problems.values()):
        if problem not in labels:  # the base is on every axis, and measured once
            labels[problem] = str(len(labels))
            worker.ask("prepare", label=labels[problem], problem=problem, kind=kind)
    seconds = alternate(dict.fromkeys(labels.values(), worker), rounds, steps)["seconds"]
    measured = {}
    for axis, problems in axes.items():
        rows = [seconds[labels[problem]] for problem in problems.values()]
        exponents = [exponent(list(problems), times) for times in zip(*rows, strict=True)]
        measured[axis] = {"sizes": list(problems), "seconds": rows, "exponents": exponents}
    return measured
