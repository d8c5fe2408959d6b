"""The command `sweep`: one run of an experiment for every combination of values, side by side, resumable, summed up at the end.

A sweep lives in one folder: `trials/HASH` is the run folder of the trial with that configuration, so a trial that is finished is never
repeated, whichever sweep in this folder asks for it, and a grid with more values runs only the new ones.

Seeds are not trials. `--seeds N` gives the experiment N seeds, which most train together as a population: one compile, one dispatch.
Other fields decide shapes and programs, so each of their values is a run of its own.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments.harness.config import config_hash
from experiments.harness.executors import Report, Status, connect, run_processes, run_ray
from experiments.harness.sweep_algebra import (
    Sweep,
    chain,
    configurations,
    describe,
    product,
    read_values,
    seed_overrides,
    zipped,
)
from experiments.harness.trial import finished
from experiments.harness.workspace import open_workspace
from lexinv.validation import choose, require


@dataclasses.dataclass
class Block:
    """Trials: every combination of the values of the fields in `grid` and of what each zip pairs."""

    grid: list[str] = dataclasses.field(default_factory=list)
    zips: list[list[str]] = dataclasses.field(default_factory=list)

    def sweep(self, config: Any) -> Sweep:
        """The trials of this block. Raises `InvalidConfig`."""
        grid = [read_values(config, argument, "--grid") for argument in self.grid]
        pairs = [
            zipped(*(read_values(config, argument, "--zip") for argument in group)) for group in self.zips if group
        ]
        require(bool(grid or pairs), "--grid", self.grid, "at least one FIELD=V1,V2; `run` runs a single configuration")
        return product(*grid, *pairs)


@dataclasses.dataclass(frozen=True)
class Options:
    """--grid FIELD=V1,V2 ...: a trial for every combination of values. Dotted names as in `run`; lists in brackets, as in ks=[2,3],[4].

    --zip FIELD=V1,V2 FIELD=V3,V4 ...: the first values together, then the second ones, each pair with every combination of the grid.

    --chain: begins another block of --grid and --zip; its trials follow those before.
    """

    seeds: int | None = None
    """Seeds in each trial, which most experiments train together as one population."""
    executor: str = "processes"
    """processes: on this machine. ray: a cluster started here. ray:HOST:PORT: a cluster whose nodes see the same folders."""
    workers: int | None = None
    """Trials at a time: 1 of processes, and as many as fit of a cluster, unless given."""
    resources: tuple[str, ...] = ("CPU=1",)
    """Of a cluster, for each trial: CPU=4 GPU=1 TPU=4."""
    workspace: Path | None = None
    """Sweep folder; by default runs/NAME/sweeps/PRESET-HASH here."""
    metric: str | None = None
    """What of results.json to compare: a dotted path to a number or a list over seeds; the claims' verdicts unless given."""
    best: Literal["lowest", "highest"] = "lowest"
    """Which value of the metric is the best."""


@dataclasses.dataclass
class Trial:
    """One configuration of a sweep and where it stands."""

    folder: Path
    overrides: dict[str, Any]
    config: Any
    status: Status = "waiting"
    started: float = 0.0
    ended: float | None = None

    def claims(self) -> list[dict[str, Any]]:
        """The claims of a finished trial."""
        return json.loads((self.folder / "claims.json").read_bytes()) if self.status == "done" else []

    def seconds(self) -> float | None:
        """Wall clock of all its starts if it is finished, of this start otherwise; None before it starts."""
        if self.status == "done":
            return json.loads((self.folder / "environment.json").read_bytes())["wall_clock_seconds"]
        return None if not self.started else (self.ended or time.monotonic()) - self.started


def sweep(name: str, preset: str, module: Any, arguments: list[str], console: Any) -> int:
    """Run the trials that are not finished, then write the summary: 0 if all are, 1 if some failed. Raises `InvalidConfig`."""
    from experiments.harness.sweep_summary import summarize, write_summary

    base = module.PRESETS[preset]
    options, blocks = parse(arguments, f"python -m experiments sweep {name} {preset}")
    trials = chain(*(block.sweep(base) for block in blocks))
    if options.seeds is not None:
        trials = product([seed_overrides(base, options.seeds)], trials)
    found = list(configurations(base, trials))
    execute = executor(options)

    path = options.workspace or Path("runs", name, "sweeps", f"{preset}-{config_hash(base)[:8]}")
    workspace = open_workspace(path, name, preset, base)
    with workspace.locked():
        rows = {}
        for overrides, config in found:
            folder = path / "trials" / config_hash(config)
            open_workspace(folder, name, preset, config)
            rows.setdefault(folder, Trial(folder, overrides, config, "done" if finished(folder) else "waiting"))
        with live_table(list(rows.values()), console) as report:
            execute([folder for folder, trial in rows.items() if trial.status == "waiting"], report)
        summary = summarize(name, preset, base, list(rows.values()), options.metric, options.best)
        write_summary(path, summary)
    for trial in rows.values():
        if trial.status == "failed":
            console.print(f"failed: {describe(trial.overrides)}: {trial.folder / 'error.txt'}", markup=False)
    failed = sum(trial.status == "failed" for trial in rows.values())
    console.print(f"{len(rows) - failed} of {len(rows)} trials are finished: {path / 'summary.json'}", markup=False)
    return 1 if failed else 0


def parse(arguments: Sequence[str], program: str) -> tuple[Options, list[Block]]:
    """The options, in any place, and all blocks of trials; tyro exits with code 2 for what it cannot take."""
    blocks, options = [Block()], list[str]()
    values = options
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag == "--chain":
            blocks.append(Block())
            values = options
        elif flag in ("--grid", "--zip"):
            values = blocks[-1].grid
            if flag == "--zip":
                blocks[-1].zips.append(values := [])
            values += [value] if value else []
        else:
            values = options if argument.startswith("-") else values
            values.append(argument)
    return tyro.cli(Options, args=options, prog=program, config=(tyro.conf.FlagCreatePairsOff,)), blocks


def executor(options: Options) -> Callable[[Sequence[Path], Report], None]:
    """What runs the trials, connected to its cluster. Raises `InvalidConfig`."""
    workers = options.workers
    require(workers is None or workers >= 1, "--workers", workers, "at least 1")
    kind, colon, address = options.executor.partition(":")
    require(kind != "processes" or not colon, "executor", options.executor, "processes, ray or ray:HOST:PORT")
    if choose("executor", kind, ("processes", "ray")) == "processes":
        return lambda folders, report: run_processes(folders, report, workers or 1)
    resources = dict(map(read_resource, options.resources))
    ray = connect(address if colon else None)
    return lambda folders, report: run_ray(folders, report, workers, ray, resources)


def read_resource(text: str) -> tuple[str, float]:
    """NAME=AMOUNT of what a cluster gives to a trial."""
    name, _, amount = text.partition("=")
    try:
        value = float(amount)
    except ValueError:
        value = -1.0
    require(bool(name) and 0 <= value < float("inf"), "--resources", text, "NAME=AMOUNT, such as GPU=1")
    return name, value


ORDER: tuple[Status, ...] = ("running", "failed", "waiting", "done")


@contextmanager
def live_table(trials: list[Trial], console: Any) -> Iterator[Report]:
    """A table of the trials while they run, those that need attention first; without a terminal a line for each that ends."""
    from rich.live import Live

    by_folder = {trial.folder: trial for trial in trials}

    def report(folder: Path, status: Status) -> None:
        trial = by_folder[folder]
        trial.status = status
        if status == "running":
            trial.started = time.monotonic()
            return
        trial.ended = time.monotonic()
        if not console.is_terminal:
            console.print(f"{status}: {describe(trial.overrides)}", markup=False)

    live = Live(console=console, get_renderable=lambda: table(trials), refresh_per_second=2, redirect_stdout=False)
    with live:
        yield report
    if not console.is_terminal:
        console.line()


def table(trials: list[Trial]) -> Any:
    """The state of every trial for the terminal."""
    from rich.table import Table
    from rich.text import Text

    counts = {status: sum(trial.status == status for trial in trials) for status in ORDER}
    shown = Table("trial", "overrides", "status", "seconds", "claims held", box=None)
    shown.caption = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    for trial in sorted(trials, key=lambda trial: ORDER.index(trial.status)):
        seconds, claims = trial.seconds(), trial.claims()
        held = f"{sum(claim['holds'] is True for claim in claims)} of {len(claims)}" if claims else ""
        clock = "" if seconds is None else f"{seconds:.0f}"
        shown.add_row(trial.folder.name[:8], Text(describe(trial.overrides)), trial.status, clock, held)
    return shown
