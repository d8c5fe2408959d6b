"""Several seeds as one population against runs one after another, from start to exit; and what Ray adds to a trial of a sweep.

What a user waits for: processes, from start to exit, with imports, compiling, all steps and the last checkpoint; the model is that of an
experiment's cpu preset (`benchmarks/train_step` measures a tiny one inside a process that is warm). On the CPU a population saves starting
and compiling and no step, so that the longer the runs, the less it is worth: start and steps are timed apart, and the ratio is told for
longer runs too.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.population_training import NAME, TrainingProblem, train_in
from experiments.benchmarks.promises import bars, promise
from experiments.benchmarks.worker import environment, started
from experiments.harness.config import config_hash
from experiments.harness.executors import Executor, Status, connect, run_processes, run_ray
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, band, panels, reference
from experiments.harness.verdicts import Claim, above, below
from experiments.harness.workspace import Workspace, open_workspace
from experiments.subjects.text import MUON, PUBLISHED_MODEL, PUBLISHED_TRAINING, SUFFIX_MATCH
from lexinv.validation import Checked, Count, CountOrZero, require

PAPERS = ()
TIMES_FASTER = 2.0
POLL_SECONDS = 0.02
PARTS = ("start", "steps", "end")
SIDES = ("runs", "population", "runs, cached", "population, cached")
COLD, WARM = SIDES[:2], SIDES[2:]
# Steps: enough that a step's time is a mean of many, few enough that all four sides take less than 6 minutes on two cores.
USUAL = replace(
    PUBLISHED_TRAINING,
    steps=16,
    batch_size=16,
    optimizer=replace(MUON, warmup_steps=4),
    microbatches=2,
    steps_per_dispatch=1,
)


@dataclass(frozen=True)
class Config(Checked):
    """problem: one run of a lexinvariant model of text; its seeds are replaced by `members` of them.

    usual_steps: of a short training of it, for which the ratio is computed from the measured parts.
    trials: of each executor, of which the first is not counted; 0 for no executors.
    nothing: this is such a trial, with this number, and computes nothing.
    """

    problem: TrainingProblem = TrainingProblem(replace(SUFFIX_MATCH, width=256, mlp_width=256), USUAL)
    usual_steps: Count = 60
    members: Count = 8
    trials: CountOrZero = 5
    nothing: int | None = None

    def checks(self):
        yield self.members >= 2, "members", "at least 2"
        yield self.trials != 1, "trials", "0, or at least 2"
        yield self.problem.training.steps >= 2, "problem.training.steps", "at least 2"


PRESETS = presets(
    Config(),
    smoke={
        "problem": TrainingProblem(
            replace(
                SUFFIX_MATCH, depth=1, width=16, mlp_width=16, positions="rope", mixing="none", initialization="normal"
            ),
            replace(
                USUAL,
                steps=3,
                batch_size=2,
                microbatches=1,
                optimizer=replace(MUON, name="adamw", warmup_steps=1),
            ),
            context=16,
        ),
        "usual_steps": 3,
        "members": 2,
        "trials": 0,  # a cluster of Ray takes longer to start than all else
    },
    paper={
        "problem": TrainingProblem(PUBLISHED_MODEL, replace(PUBLISHED_TRAINING, steps=5000), context=512),
        "usual_steps": PUBLISHED_TRAINING.steps,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Seconds of every process in three parts, start, steps and end, by side; and seconds per trial of both executors."""
    if config.nothing is not None:
        return {"nothing": config.nothing}
    from rich.progress import track

    log = workspace.folder("processes") / "log.txt"
    sides = {}
    with TemporaryDirectory() as cache:
        for side in track(SIDES, "population", disable=not workspace.progress):
            measure = partial(timed_side, config, side, log, Path(cache))
            sides[side] = workspace.cached(f"sides/{side.replace(', ', '-')}", measure)
    return {
        "seeds": list(range(config.members)),
        "steps": config.problem.training.steps,
        "usual_steps": config.usual_steps,
        "sides": sides,
        "trials": workspace.cached("trials", lambda: seconds_per_trial(config)),
    }


def timed_side(config: Config, side: str, log: Path, cache: Path) -> list[list[float]]:
    """`timed_process` of every process of a side."""
    kind, _, warm = side.partition(", ")
    seeds = [[seed] for seed in range(config.members)] if kind == "runs" else [list(range(config.members))]
    if warm:  # one process fills the cache for the others
        timed_process(config.problem, seeds[0], log, cache)
    return [timed_process(config.problem, some, log, cache if warm else None) for some in seeds]


def timed_process(problem: TrainingProblem, seeds: Sequence[int], log: Path, cache: Path | None) -> list[float]:
    """Seconds that a process takes which trains these seeds as one population: until its first step, until its last one, until its exit.

    Steps are seen in the process's metrics, where each stands when it is done.
    """
    variables = environment(cache) | ({} if cache else {"JAX_ENABLE_COMPILATION_CACHE": "0"})
    with TemporaryDirectory() as folder:
        asked = replace(problem, training=replace(problem.training, seeds=tuple(seeds)))
        metrics, seen = Path(folder, NAME, "metrics.jsonl"), dict[int, float]()
        began = time.perf_counter()
        process = started(variables, train_in, Path(folder), asked, log)
        while process.is_alive():
            time.sleep(POLL_SECONDS)
            count = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
            if count and count not in seen:
                seen[count] = time.perf_counter()
        ended = time.perf_counter()
        if process.exitcode:
            raise RuntimeError(f"a training ended with code {process.exitcode}; see {log}")
        # Too short steps for the clock, as in the smoke preset, are all at the end.
        first, last = min(seen.values(), default=ended), max(seen.values(), default=ended)
        return [round(seconds, 3) for seconds in (first - began, last - first, ended - last)]


def seconds_per_trial(config: Config) -> dict[str, list[float] | None]:
    """Seconds from the end of one trial to that of the next, of trials that compute nothing; None where Ray is not installed."""
    if config.trials == 0:
        return {"processes": None, "ray": None}
    measured: dict[str, list[float] | None] = {"processes": timed_trials(config, lambda f, r: run_processes(f, r, 1))}
    if find_spec("ray") is None:
        return {**measured, "ray": None}
    ray = connect(None)
    try:
        return {**measured, "ray": timed_trials(config, lambda f, r: run_ray(f, r, 1, ray, {"CPU": 1}))}
    finally:
        ray.shutdown()


def timed_trials(config: Config, execute: Executor) -> list[float]:
    """Seconds from the end of each trial but the last to that of the next, one at a time."""
    ends: list[float] = []

    def report(_: Path, status: Status) -> None:
        if status == "done":
            ends.append(time.perf_counter())

    with TemporaryDirectory() as root:
        folders = []
        for number in range(config.trials):
            trial = replace(config, nothing=number)
            folders.append(Path(root, config_hash(trial)))
            open_workspace(folders[-1], "benchmarks/population", "smoke", trial)
        execute(folders, report)
        require(len(ends) == len(folders), "trials", len(ends), f"{len(folders)} that are finished")
    return [round(end - before, 3) for before, end in pairwise(ends)]


def at_steps(results: dict[str, Any], side: str, steps: int) -> np.ndarray:
    """Seconds that each process of a side would take for so many steps: those after the first scaled, and all else as measured."""
    start, between, end = np.array(results["sides"][side]).T
    return start + (steps - 1) / (results["steps"] - 1) * between + end


def times_faster(results: dict[str, Any], sides: Sequence[str], steps: int) -> np.ndarray:
    """Throughput of a population over that of runs, (runs, population), as each of the runs has it, [members].

    The mean is how many times less time the population took, for the same members and steps, than all runs together.
    """
    runs, population = (at_steps(results, side, steps) for side in sides)
    return len(runs) * runs / population.sum()


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our own promises."""
    if "nothing" in results:
        return []
    members, steps, usual, trials = (results[name] for name in ("seeds", "steps", "usual_steps", "trials"))
    rule, unit = {"nothing cached": above(TIMES_FASTER)}, "times as fast"
    here = {"nothing cached": COLD, "both cached": WARM, "only the runs cached": ("runs, cached", "population")}
    waits = None if trials["ray"] is None else np.subtract(trials["ray"], trials["processes"])
    return [
        *promise(
            "population_throughput",
            f"Throughput of {len(members)} seeds as one population, trained once, over that of {len(members)} runs one after another, "
            f"each a new process, {steps} steps, nothing cached, from start to exit (beside it with compiled programs cached, which is "
            "what a user's second run has).",
            {label: times_faster(results, sides, steps) for label, sides in here.items()},
            rule,
            unit,
            over="runs",
        ),
        *promise(
            "population_throughput_of_usual_runs",
            f"The same for {usual} steps, as many as the experiment takes: computed from the measured start, steps and end.",
            {label: times_faster(results, sides, usual) for label, sides in list(here.items())[:2]},
            rule,
            unit,
            over="runs",
        ),
        *promise(
            "ray_overhead",
            "Seconds that a trial takes longer on a Ray cluster on this machine than in a process started here, for trials that compute "
            "nothing, without the first.",
            {} if waits is None else {"longer": waits},
            below(3.0),
            "s",
            over="trials",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Seconds of each side by part, how many times faster by number of steps, and seconds per trial."""
    if "nothing" in results:
        return Figure()
    titles = (
        f"{len(results['seeds'])} members, {results['steps']} steps",
        "Population over runs",
        "Trials that compute nothing",
    )
    drawn, (spent, ratios, trials) = panels(1, 3, width=4.6, titles=titles)
    left = np.zeros(len(SIDES))
    for part, label, color in zip(range(3), PARTS, (ORANGE, BLUE, GREY), strict=True):
        widths = np.array([sum(process[part] for process in results["sides"][side]) for side in SIDES])
        spent.barh(SIDES, widths, left=left, color=color, height=0.6, label=label)
        left += widths
    spent.invert_yaxis()
    spent.grid(visible=False, axis="y")
    spent.set(xlabel="seconds, start to exit")
    steps = sorted({2**k for k in range(1, 9)} | {results["steps"], results["usual_steps"]})
    for label, sides, color in (("nothing cached", COLD, VERMILION), ("programs cached", WARM, GREEN)):
        band(ratios, steps, np.array([times_faster(results, sides, count) for count in steps]).T, label, color)
        for count, marker in ((results["steps"], "o"), (results["usual_steps"], "s")):
            ratios.plot(count, times_faster(results, sides, count).mean(), marker, color=color)
    for marker, label in (("ko", "measured"), ("ks", "steps of the experiment")):
        ratios.plot([], [], marker, label=label)
    reference(ratios, TIMES_FASTER, "promised")
    ratios.set(xlabel="steps", ylabel="times as fast", xscale="log", ylim=(0, None))
    for axes in (spent, ratios):
        axes.legend()
    if measured := {name: values for name, values in results["trials"].items() if values}:
        bars(trials, measured, SKY)
    trials.set(xlabel="seconds per trial")
    return drawn
