"""Comparing sides that take turns in short blocks: what disturbs the machine then disturbs all of them, and ratios stay."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated, Any

import numpy as np

from experiments.benchmarks.worker import Worker, WorkerError, block, prepare
from experiments.harness.curves import significant
from experiments.harness.turns import take_turns, turns
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


def in_parts(workspace: Workspace, parts: Iterable[Callable[..., Any]], config: Any, *given: Any) -> dict[str, Any]:
    """What each part measures, `part(config, log, *given)`, by its name; each is a stage of the run. log: of processes that measure."""
    from rich.progress import track

    log, found = workspace.folder("workers") / "log.txt", {}
    for part in track(list(parts), "measuring", disable=not workspace.progress):
        found[part.__name__] = workspace.cached(part.__name__, partial(part, config, log, *given))
    return found


def warm(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of a call of every side in each round after one that is not counted, all in this process."""
    return {side: seconds[1:] for side, seconds in take_turns(sides, rounds + 1, process_time).items()}


def alternate(sides: Mapping[str, Worker], rounds: int, steps: int) -> dict[str, Any]:
    """Blocks of `steps` calls of every prepared side in turn.

    By side: `seconds`, the median of a step in each round; `processor_seconds` of a step, all threads, in each round; and
    `idle_share`, the processor seconds that its process spent per second of waiting for its turn.
    """
    blocks: dict[str, list[dict[str, Any]]] = {label: [] for label in sides}
    for label in turns(sides, rounds):
        blocks[label].append(sides[label].ask(block, label=label, steps=steps))
    measured: dict[str, Any] = {"seconds": {}, "processor_seconds": {}, "idle_share": {}}
    for label, done in blocks.items():
        wall, processor = np.sum([one["waited"] for one in done], axis=0)
        measured["seconds"][label] = significant([median(one["seconds"]) for one in done])
        measured["processor_seconds"][label] = significant([one["processor_seconds"] for one in done])
        measured["idle_share"][label] = significant(processor / wall) if wall > 0 else 0.0
    return measured


def in_turns(problems: Mapping[str, Any], log: Path, cores: int, rounds: int, steps: int) -> dict[str, Any]:
    """`alternate` of our side of problems by label, all in one process."""
    with Worker(log, cores) as worker:
        for label, problem in problems.items():
            worker.ask(prepare, label=label, problem=problem)
        return alternate(dict.fromkeys(problems, worker), rounds, steps)


def alternate_with_torch(
    sides: Mapping[str, Any], log: Path, cores: int, rounds: int, steps: int, packages: Sequence[str] = ("torch",)
) -> dict[str, Any]:
    """`alternate` of problems by label: those that begin with "lexinv" are ours, in one process, and each of PyTorch's has its own.

    What ends with ".compile" is compiled by PyTorch. With `torch`, its version or None, and `left_out`, why a side was not measured.
    packages: that PyTorch's sides need. Raises `WorkerError`.
    """
    missing = [name for name in packages if find_spec(name) is None]
    workers, left_out = dict[str, Worker](), dict[str, str]()
    with ExitStack() as stack:
        ours = stack.enter_context(Worker(log, cores))
        for label, problem in sides.items():
            if label.startswith("lexinv"):
                workers[label] = ours
                ours.ask(prepare, label=label, problem=problem)
            elif missing:
                left_out[label] = f"{', '.join(missing)} not installed (extra `interop`)"
            else:
                compiled, worker = label.endswith(".compile"), stack.enter_context(Worker(log, cores))
                try:
                    worker.ask(prepare, label=label, problem=problem, library="torch", compiled=compiled)
                    workers[label] = worker
                except WorkerError as error:
                    if not compiled:  # torch.compile needs a C++ compiler and more: that it does not work is a result
                        raise
                    left_out[label] = f"failed: {error}"
        measured = alternate(workers, rounds, steps)
    return {"torch": None if "torch" in missing else version("torch"), "left_out": left_out, **measured}


def growth(sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Seconds [sizes][rounds] beside their sizes, and b of the least-squares fit seconds = a size^b in logarithms, of each round."""
    slopes = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    return {"sizes": list(sizes), "seconds": seconds, "exponents": significant(slopes)}


def size_sweep(
    axes: Mapping[str, Mapping[int, Any]], log: Path, cores: int, rounds: int, steps: int
) -> dict[str, dict[str, Any]]:
    """`growth` of a step's seconds along each axis of problems by size, all in one process."""
    once = list(
        dict.fromkeys(problem for problems in axes.values() for problem in problems.values())
    )  # axes share the base
    seconds = in_turns({str(once.index(problem)): problem for problem in once}, log, cores, rounds, steps)["seconds"]
    return {
        axis: growth(list(problems), [seconds[str(once.index(problem))] for problem in problems.values()])
        for axis, problems in axes.items()
    }
