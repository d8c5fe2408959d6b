"""Several seeds as one population against runs one after another, from start to exit; and what Ray adds to a trial of a sweep.

What a user waits for: processes, from start to exit, with imports, initialisation, compiling, all steps and the last checkpoint.
`benchmarks/train_step` measures populations too, but of a tiny model and inside one process that is warm: compiling and steps alone. Here
the model is that of an experiment's cpu preset, and each of the runs one after another is a process of its own.

On the CPU a population computes its members one after another, so that it saves starting and compiling, and no step: the longer the runs,
the less it is worth. So the start and the steps are timed apart, and the ratio is told for longer runs too.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure

from experiments.benchmarks.population_training import NAME, TrainingProblem
from experiments.benchmarks.worker import environment
from experiments.harness.claims import Claim
from experiments.harness.config import config_hash, to_json
from experiments.harness.executors import Executor, Status, connect, run_processes, run_ray
from experiments.harness.papers import bibtex
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, panels, reference
from experiments.harness.workspace import Workspace, open_workspace, write_json
from experiments.lexinvariance import perplexity, vocabulary
from lexinv.validation import require

PAPER = bibtex("huang2023lexinvariant")
SOURCE = "our own benchmark, no published counterpart"
TIMES_FASTER, RAY_SECONDS = 2.0, 3.0
ENOUGH_MEMBERS, ENOUGH_TRIALS = 8, 4
POLL_SECONDS = 0.02
PARTS = ("start", "steps", "end")
SIDES = {
    "runs": "runs one after another, nothing cached",
    "population": "one population, nothing cached",
    "runs, cached": "runs one after another, programs cached",
    "population, cached": "one population, programs cached",
}


@dataclass(frozen=True)
class Config:
    """problem: one run, of `problem.training.steps` steps; its seeds are replaced by `members` of them.

    usual_steps: of that model in its experiment, for which the ratio is computed from the measured parts.
    trials: of each executor, of which the first is not counted; 0 for no executors.
    nothing: this is such a trial, with this number, and computes nothing.
    """

    problem: TrainingProblem
    usual_steps: int
    members: int = 8
    trials: int = 5
    nothing: int | None = None

    def __post_init__(self):
        require(self.members >= 2, "members", self.members, "at least 2")
        require(self.trials == 0 or self.trials >= 2, "trials", self.trials, "0, or at least 2")
        require(self.problem.training.steps >= 2, "problem.training.steps", self.problem.training.steps, "at least 2")


CPU, FULL = vocabulary.PRESETS["cpu"], perplexity.PRESETS["paper"]
# Steps: enough that a step's time is a mean of many, few enough that all four sides take less than 6 minutes on two cores.
STEPS = 16
PRESETS = {
    "smoke": Config(
        TrainingProblem(
            replace(
                CPU.model, depth=1, width=16, mlp_width=16, positions="rope", mixing="none", initialization="normal"
            ),
            replace(
                CPU.training,
                steps=3,
                batch_size=2,
                microbatches=1,
                optimizer=replace(CPU.training.optimizer, name="adamw", warmup_steps=1),
            ),
            context=16,
        ),
        usual_steps=3,
        members=2,
        trials=0,  # a cluster of Ray takes longer to start than all else
    ),
    "cpu": Config(
        TrainingProblem(
            CPU.model, replace(CPU.training, steps=STEPS, optimizer=replace(CPU.training.optimizer, warmup_steps=4))
        ),
        usual_steps=CPU.training.steps,
    ),
    "paper": Config(
        TrainingProblem(FULL.model, replace(FULL.training, steps=5000), context=512), usual_steps=FULL.training.steps
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Seconds of every process in three parts, start, steps and end, by side; and seconds per trial of both executors."""
    if config.nothing is not None:
        return {"corpora": {}, "seeds": [], "nothing": config.nothing}
    from rich.progress import track

    log = workspace.folder("processes") / "log.txt"
    sides = {}
    with TemporaryDirectory() as cache:
        for side in track(SIDES, "population", disable=not workspace.progress):

            def measure(side: str = side) -> list[list[float]]:
                kind, _, warm = side.partition(", ")
                seeds = [[seed] for seed in range(config.members)] if kind == "runs" else [list(range(config.members))]
                if warm:  # one process fills the cache for the others
                    timed_process(config.problem, seeds[0], log, Path(cache))
                return [timed_process(config.problem, some, log, Path(cache) if warm else None) for some in seeds]

            sides[side] = workspace.cached(f"sides/{side.replace(', ', '-')}", measure)
    return {
        "corpora": {},
        "seeds": list(range(config.members)),
        "steps": config.problem.training.steps,
        "usual_steps": config.usual_steps,
        "sides": sides,
        "trials": workspace.cached("trials", lambda: seconds_per_trial(config)),
    }


def timed_process(problem: TrainingProblem, seeds: Sequence[int], log: Path, cache: Path | None) -> list[float]:
    """Seconds that a process takes which trains these seeds as one population: until its first step, until its last one, until its exit.

    Steps are seen in the process's metrics, where each stands when it is done.
    """
    variables = environment(cache) | ({} if cache else {"JAX_ENABLE_COMPILATION_CACHE": "0"})
    with TemporaryDirectory() as folder, open(log, "ab") as file:
        asked = replace(problem, training=replace(problem.training, seeds=tuple(seeds)))
        write_json(Path(folder, "problem.json"), to_json(asked))
        metrics, seen = Path(folder, NAME, "metrics.jsonl"), dict[int, float]()
        began = time.perf_counter()
        command = [sys.executable, "-m", "experiments.benchmarks.population_training", folder]
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=file)
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            count = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
            if count and count not in seen:
                seen[count] = time.perf_counter()
        ended = time.perf_counter()
        if process.returncode:
            raise RuntimeError(f"a training ended with code {process.returncode}; see {log}")
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


def total(processes: Sequence[Sequence[float]]) -> float:
    """Seconds of processes one after another."""
    return sum(map(sum, processes))


def at_steps(results: dict[str, Any], side: str, steps: int) -> float:
    """Seconds that a side would take for so many steps: those between the first and the last scaled, and all else as measured."""
    factor = (steps - 1) / (results["steps"] - 1)
    return sum(start + factor * between + end for start, between, end in results["sides"][side])


def times_faster(results: dict[str, Any], runs: str, population: str, steps: int | None = None) -> float:
    """Throughput of the population over that of the runs: how many times less time it takes for the same members and steps."""
    steps = results["steps"] if steps is None else steps
    return at_steps(results, runs, steps) / at_steps(results, population, steps)


def ray_overhead(results: dict[str, Any]) -> float | None:
    """Seconds that a trial takes longer with Ray than in a process that we start ourselves; medians."""
    trials = results["trials"]
    return None if trials["ray"] is None else median(trials["ray"]) - median(trials["processes"])


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our own promises. Few members and few trials cannot tell."""
    if "nothing" in results:
        return []
    members, steps, usual = len(results["seeds"]), results["steps"], results["usual_steps"]
    cold, warm = ("runs", "population"), ("runs, cached", "population, cached")
    here, later = times_faster(results, *cold), times_faster(results, *cold, usual)
    overhead = ray_overhead(results)
    counted = len(results["trials"]["processes"] or ())

    def judge(enough: bool, holds: Callable[[], bool]) -> bool | None:
        return holds() if enough else None

    return [
        Claim(
            "population_throughput",
            f"Throughput of {members} seeds as one population over that of {members} runs one after another, each a new process, "
            f"{steps} steps, nothing cached, from start to exit (beside it with compiled programs cached, which is what a user's second "
            "run has).",
            SOURCE,
            None,
            {
                "nothing cached": here,
                "both cached": times_faster(results, *warm),
                "only the runs cached": times_faster(results, "runs, cached", "population"),
            },
            f"at least {TIMES_FASTER:g}, nothing cached",
            judge(members >= ENOUGH_MEMBERS, lambda: here >= TIMES_FASTER),
        ),
        Claim(
            "population_throughput_of_usual_runs",
            f"The same for {usual} steps, as many as the experiment takes: computed from the measured start, steps and end.",
            SOURCE,
            None,
            {"nothing cached": later, "both cached": times_faster(results, *warm, usual)},
            f"at least {TIMES_FASTER:g}, nothing cached",
            judge(members >= ENOUGH_MEMBERS, lambda: later >= TIMES_FASTER),
        ),
        Claim(
            "ray_overhead",
            "Seconds that a trial takes longer on a Ray cluster on this machine than in a process started here, for trials that compute "
            "nothing, without the first (measured: difference of medians).",
            SOURCE,
            None,
            overhead,
            f"below {RAY_SECONDS:g} s",
            None if overhead is None else judge(counted >= ENOUGH_TRIALS, lambda: overhead < RAY_SECONDS),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Seconds of each side by part, how many times faster by number of steps, and seconds per trial."""
    if "nothing" in results:
        return Figure()
    drawn, (bars, ratios, trials) = panels(1, 3, width=4.6)
    left = [0.0] * len(SIDES)
    for part, color in zip(range(len(PARTS)), (ORANGE, BLUE, GREY), strict=True):
        widths = [sum(process[part] for process in results["sides"][side]) for side in SIDES]
        bars.barh(list(SIDES), widths, left=left, color=color, height=0.6, label=PARTS[part])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    bars.invert_yaxis()
    bars.grid(visible=False, axis="y")
    bars.set(title=f"{len(results['seeds'])} members, {results['steps']} steps", xlabel="seconds, start to exit")
    bars.legend()
    steps = sorted({2**k for k in range(1, 9)} | {results["steps"], results["usual_steps"]})
    for label, sides, color in (
        ("nothing cached", ("runs", "population"), VERMILION),
        ("programs cached", ("runs, cached", "population, cached"), GREEN),
    ):
        ratios.plot(steps, [times_faster(results, *sides, count) for count in steps], color=color, label=label)
        ratios.plot(results["steps"], times_faster(results, *sides), "o", color=color)
    ratios.axvline(results["usual_steps"], color=GREY, linestyle=":", label="steps of the experiment")
    reference(ratios, TIMES_FASTER, "claimed")
    ratios.set(title="Population over runs", xlabel="steps", ylabel="times faster", xscale="log", ylim=(0, None))
    ratios.legend()
    means = {name: median(values) for name, values in results["trials"].items() if values}
    trials.bar_label(trials.bar(list(means), list(means.values()), color=SKY, width=0.5), fmt="%.2f")
    trials.grid(visible=False, axis="x")
    trials.set(title="Trials that compute nothing", ylabel="seconds per trial")
    return drawn
