"""Comparing sides that take turns in short blocks: what disturbs the machine then disturbs all of them, and ratios stay."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np

from experiments.benchmarks.worker import Worker, WorkerError
from experiments.harness.turns import significant
from experiments.harness.workspace import Workspace
from lexinv.validation import Allowed

Sizes = Annotated[
    tuple[int, ...],
    Allowed(
        lambda v: len(v) >= 2 and list(v) == sorted(set(v)) and v[0] >= 1,
        "two or more from 1 on, rising, for a slope",
        ((), (1,), (2, 1), (1, 1), (0, 1)),
    ),
]


def in_parts(workspace: Workspace, parts: Iterable[Callable[..., Any]], *given: Any) -> dict[str, Any]:
    """What each part measures, `part(*given)`, by the part's name; each is a stage of the run."""
    from rich.progress import track

    shown = track(list(parts), "measuring", disable=not workspace.progress)
    return {part.__name__: workspace.cached(part.__name__, lambda part=part: part(*given)) for part in shown}


def worker_log(workspace: Workspace) -> Path:
    """Where the processes that measure leave their messages."""
    return workspace.folder("workers") / "log.txt"


def alternate(sides: Mapping[str, Worker], rounds: int, steps: int) -> dict[str, Any]:
    """Blocks of `steps` calls of every prepared side in turn, in the other direction every other round.

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
    packages: Sequence[str] = ("torch",),
) -> dict[str, Any]:
    """`alternate` with our problems in one process and each of PyTorch's, (problem, whether compiled), in one of its own.

    With `torch`, its version or None, and `left_out`, why a side was not measured. packages: that PyTorch's need. Raises `WorkerError`.
    """
    missing = [name for name in packages if find_spec(name) is None]
    left_out = dict.fromkeys(theirs, f"{', '.join(missing)} not installed (extra `interop`)") if missing else {}
    with ExitStack() as stack:
        jax_worker = stack.enter_context(Worker(log, cores))
        sides = dict.fromkeys(ours, jax_worker)
        for label, problem in ours.items():
            jax_worker.ask("prepare", label=label, problem=problem)
        for label in [label for label in theirs if label not in left_out]:
            problem, compiled = theirs[label]
            worker = stack.enter_context(Worker(log, cores))
            try:
                worker.ask("prepare", label=label, problem=problem, library="torch", compiled=compiled)
                sides[label] = worker
            except WorkerError as error:
                if not compiled:  # torch.compile needs a C++ compiler and more: that it does not work is a result
                    raise
                left_out[label] = f"failed: {error}"
        measured = alternate(sides, rounds, steps)
    return {"torch": None if "torch" in missing else version("torch"), "left_out": left_out, **measured}


def growth(sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Seconds [sizes][rounds] beside their sizes, and b of the least-squares fit seconds = a size^b in logarithms, of each round."""
    slopes = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    return {"sizes": list(sizes), "seconds": seconds, "exponents": [significant(float(slope)) for slope in slopes]}


def size_sweep(
    axes: Mapping[str, Mapping[int, Any]], log: Path, cores: int, rounds: int, steps: int
) -> dict[str, dict[str, Any]]:
    """`growth` of a step's seconds along each axis of problems by size, all in one process."""
    labels: dict[Any, str] = {}
    with Worker(log, cores) as worker:
        for problem in (problem for problems in axes.values() for problem in problems.values()):
            if problem not in labels:  # the base is on every axis, and measured once
                labels[problem] = str(len(labels))
                worker.ask("prepare", label=labels[problem], problem=problem)
        seconds = alternate(dict.fromkeys(labels.values(), worker), rounds, steps)["seconds"]
    return {
        axis: growth(list(problems), [seconds[labels[problem]] for problem in problems.values()])
        for axis, problems in axes.items()
    }
