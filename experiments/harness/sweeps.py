"""The command `sweep`: one run of an experiment for every combination of values, side by side, resumable, summed up at the end.

A sweep lives in one folder: `trials/HASH` is the run folder of the trial with that configuration, so a trial that is finished is never
repeated, whichever sweep in this folder asks for it, and a grid with more values runs only the new ones.

Seeds are not trials. `--seeds N` gives the experiment N seeds, which most train together as a population: one compile, one dispatch.
Other fields are trials; with `--executor population` those of the same shapes train together too (`experiments.harness.populations`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments.harness.config import config_hash
from experiments.harness.executors import Report, Status, connect, run_processes, run_ray
from experiments.harness.halving import STOPPED_FILE, Halving
from experiments.harness.launch import Launch, Target, emit
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
from experiments.harness.sweep_trials import Trial, live_table
from experiments.harness.trial import HANDOVER_SECONDS, finished
from experiments.harness.trial import main as run_trial_here
from experiments.harness.workspace import Workspace, open_workspace, read_json
from lexinv.folders import expanded
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

    def arguments(self) -> list[str]:
        """This block as the command line has it."""
        grid = ["--grid", *self.grid] if self.grid else []
        return grid + [word for group in self.zips for word in ("--zip", *group)]


@dataclasses.dataclass(frozen=True)
class Options:
    """--grid FIELD=V1,V2 ...: a trial for every combination of values. Dotted names as in `run`; lists in brackets, as in ks=[2,3],[4].

    --zip FIELD=V1,V2 FIELD=V3,V4 ...: the first values together, then the second ones, each pair with every combination of the grid.

    --chain: begins another block of --grid and --zip; its trials follow those before.
    """

    seeds: int | None = None
    """Seeds in each trial, which most experiments train together as one population."""
    executor: str | None = None
    """processes (unless given): on this machine. population: in this process, where language models of the same shapes and text, which
    differ in seeds and learning rate, are trained by one program; all else runs one trial after another. ray: a cluster started here.
    ray:HOST:PORT: a cluster whose nodes see the same folders."""
    workers: int | None = None
    """Trials at a time: 1 of processes, all in a population, and as many as fit of a cluster, unless given."""
    resources: tuple[str, ...] | None = None
    """With --executor ray, for each trial: CPU=4 GPU=1 TPU=4; CPU=1 unless given."""
    workspace: Path | None = None
    """Sweep folder; by default runs/NAME/sweeps/PRESET-HASH here."""
    metric: str | None = None
    """What of results.json to compare: a dotted path to a number or a list over seeds; the claims' verdicts unless given."""
    best: Literal["lowest", "highest"] | None = None
    """With --metric: which of its values is the best; the lowest unless given."""
    halving: int | None = None
    """Stop trials early: at each rung only the best 1/HALVING of those that have reached it goes on. Without it they are finished."""
    first_rung: int | None = None
    """With --halving: updates of training before trials are first compared; the next rungs are HALVING times as far, each."""
    trial: int | None = None
    """Run only the trial with this number, from 0, in this process and without a summary: for the jobs of a cluster."""
    emit: Target | None = None
    """Run nothing here; write a recipe that runs this sweep elsewhere: a SkyPilot task for spot instances, or an array of Slurm jobs."""
    bucket: str | None = None
    """With --emit skypilot: gs://BUCKET[/FOLDER] or s3://BUCKET[/FOLDER], for the run folders."""
    accelerator: str | None = None
    """With --emit: tpu-v5e-8, tpu-v6e-8, H100:1 and so on; processors alone unless given."""

    def __post_init__(self) -> None:
        require(
            (self.halving is None) == (self.first_rung is None),
            "--first-rung",
            self.first_rung,
            "a number exactly where --halving is given",
        )
        together = self.executor == "population" and self.halving is not None
        require(not together, "executor", self.executor, "processes or ray with --halving: a population ends as one")
        require(self.emit is None or self.trial is None, "--trial", self.trial, "without --emit")
        on_ray = self.executor is not None and self.executor.startswith("ray")
        idle = [
            (("executor", "resources", "halving"), self.emit is None, "not with --emit"),
            (("executor", "resources", "halving", "workers", "metric", "best"), self.trial is None, "not with --trial"),
            (("bucket", "accelerator"), self.emit is not None, "only with --emit"),
            (("resources",), on_ray, "only with --executor ray"),
            (("best",), self.metric is not None, "only with --metric"),
        ]
        for names, used, allowed in idle:
            for name in names:
                require(used or getattr(self, name) is None, f"--{name}", getattr(self, name), allowed)


def sweep(name: str, preset: str, module: Any, arguments: list[str], console: Any) -> int:
    """Run the trials that are not finished, then write the summary: 0 if all are, 1 if some failed.

    Raises `InvalidConfig`, for a metric that no trial has after the summary, since only the results can tell.
    """
    from experiments.harness.sweep_summary import metric_at, summarize, write_summary

    base = module.PRESETS[preset]
    options, blocks = parse(arguments, f"python -m experiments sweep {name} {preset}")
    trials = chain(*(block.sweep(base) for block in blocks))
    if options.seeds is not None:
        trials = product([seed_overrides(base, options.seeds)], trials)
    found = list(configurations(base, trials))
    halving = None
    if options.halving is not None and options.first_rung is not None:
        halving = Halving(options.halving, options.first_rung)
    execute = executor(options, halving)

    path = options.workspace or Path("runs", name, "sweeps", f"{preset}-{config_hash(base)[:8]}")
    path = expanded(path, "--workspace")
    distinct = {config_hash(config): config for _, config in found}
    if options.emit is not None:
        return emit_recipe(name, preset, options, blocks, path, list(distinct), console)
    if options.trial is not None:
        allowed = f"a number below {len(distinct)}, which is how many trials there are"
        require(0 <= options.trial < len(distinct), "--trial", options.trial, allowed)
        return run_one(name, preset, base, list(distinct.values())[options.trial], path, console)
    workspace = open_workspace(path, name, preset, base)
    with workspace.locked():
        rows = dict[Path, Trial]()
        for overrides, config in found:
            folder = path / "trials" / config_hash(config)
            open_workspace(folder, name, preset, config)
            if folder not in rows:
                rows[folder] = Trial(folder, overrides, config, standing(folder, options))
            if rows[folder].status == "failed":  # its files are written again from its results
                rows[folder] = Trial(folder, overrides, config)
        for folder, trial in rows.items() if halving else ():
            if trial.status in ("done", "stopped"):
                halving.stops(folder)
        with live_table(list(rows.values()), console) as report:
            execute([folder for folder, trial in rows.items() if trial.status == "waiting"], report)
        summary = summarize(name, preset, base, list(rows.values()), options.metric, options.best or "lowest")
        write_summary(path, summary)
    for row in summary["trials"]:
        trial = rows[path / "trials" / row["trial"]]
        if row["status"] == "failed":
            reason = row["trouble"] or trial.folder / "error.txt"
            console.print(f"failed: {describe(trial.overrides)}: {reason}", markup=False)
        elif row["trouble"]:
            console.print(f"no value: {describe(trial.overrides)}: {row['trouble']}", markup=False)
    failed, done, stopped = (
        sum(trial.status == status for trial in rows.values()) for status in ("failed", "done", "stopped")
    )
    early = f", {stopped} were stopped early" if stopped else ""
    console.print(f"{done} of {len(rows)} trials are finished{early}: {path / 'summary.json'}", markup=False)
    nowhere = done and all(row["value"] is None for row in summary["trials"])
    if options.metric is not None and nowhere:
        first = next(trial for trial in rows.values() if trial.status == "done")
        metric_at(read_json(first.folder / "results.json", dict), options.metric)  # says what there is instead
    return 1 if failed else 0


def standing(folder: Path, options: Options) -> Status:
    """How a trial stands before the sweep begins. What was stopped early stays so only while others are, too."""
    if finished(folder):
        return "done"
    return "stopped" if options.halving is not None and (folder / STOPPED_FILE).is_file() else "waiting"


def run_one(name: str, preset: str, base: Any, config: Any, path: Path, console: Any) -> int:
    """Run one trial of the sweep in `path` in this process, beside others that may do the same; 0 if it is finished, 1 if it failed."""
    folder = path / "trials" / config_hash(config)
    # The first of the jobs that begin together makes the folder.
    with Workspace(path, config_hash(base)).locked(HANDOVER_SECONDS):
        open_workspace(path, name, preset, base)
        open_workspace(folder, name, preset, config)
    code = 0 if finished(folder) else run_trial_here([str(folder)])
    console.print(f"the trial is {'not ' if code else ''}finished: {folder}", markup=False)
    return code


def emit_recipe(
    name: str, preset: str, options: Options, blocks: list[Block], path: Path, trials: list[str], console: Any
) -> int:
    """Write the recipe that runs the sweep elsewhere, and print how to start it."""
    arguments = [word for i, block in enumerate(blocks) for word in [*["--chain"][:i], *block.arguments()]]
    arguments += [f"--seeds={options.seeds}"] * (options.seeds is not None)
    given = {"workers": options.workers, "metric": options.metric, "best": options.best}
    whole = [f"--{option}={value}" for option, value in given.items() if value is not None]
    how = {field: getattr(options, field) for field in ("workers", "bucket", "accelerator")}
    file, command = emit(Launch(str(options.emit), name, preset, arguments, path, trials, whole, **how))
    said = [f"{len(trials)} trials: {file}", f"start it with: {command}"]
    if options.emit == "slurm":
        said.append("afterwards, this command without --emit finds the trials finished and sums them up")
    console.print("\n".join(said), markup=False)
    return 0


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


def executor(options: Options, halving: Halving | None) -> Callable[[Sequence[Path], Report], None]:
    """What runs the trials, connected to its cluster. Raises `InvalidConfig`."""
    workers, stops = options.workers, halving and halving.stops
    require(workers is None or workers >= 1, "--workers", workers, "at least 1")
    kind, colon, address = (options.executor or "processes").partition(":")
    kinds = ("processes", "population", "ray")
    plain = choose("executor", kind, kinds) == "ray" or not colon
    require(plain, "executor", options.executor, "processes, population, ray or ray:HOST:PORT")
    if kind == "processes":
        return lambda folders, report: run_processes(folders, report, workers or 1, stops)
    if kind == "population":
        from experiments.harness.populations import run_populations

        return lambda folders, report: run_populations(folders, report, workers)
    resources = dict(map(read_resource, options.resources or ("CPU=1",)))
    ray = connect(address if colon else None)
    return lambda folders, report: run_ray(folders, report, workers, ray, resources, stops)


def read_resource(text: str) -> tuple[str, float]:
    """NAME=AMOUNT of what a cluster gives to a trial."""
    name, _, amount = text.partition("=")
    try:
        value = float(amount)
    except ValueError:
        value = -1.0
    require(bool(name) and 0 <= value < float("inf"), "--resources", text, "NAME=AMOUNT, such as GPU=1")
    return name, value
