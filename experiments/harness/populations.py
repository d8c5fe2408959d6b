"""The executor `population`: the trials of a sweep in this process, and those of their trainings that run the same program as one.

A trial runs until it needs a training that others may share, and is left there. When every trial has come so far, trainings whose steps
compile to the same program are done as one population, each from its own start and on its own batches. Each trial gets its members in its
own run folder, as if it had trained them there, and is started again: it computes again what it does not keep in a stage. The numbers are
those of a trial alone up to rounding. All runs in the main thread, in an order without a clock, and what is stopped anywhere resumes.
"""

import hashlib
import json
import shutil
import signal
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments.harness.config import from_json, to_json
from experiments.harness.executors import Report
from experiments.harness.record import finish
from experiments.harness.trial import HANDOVER_SECONDS, held_in, started
from experiments.harness.work import Members, Work, joined, some_members
from experiments.harness.workspace import Workspace, finite, read_json, write_atomically, write_json
from lexinv.training.checkpoint import Checkpoints
from lexinv.training.fit import NonFiniteLoss
from lexinv.training.metrics import MetricsLog, read_metrics


class Postponed(BaseException):
    """Ends a run at a training that others may share. No error: what catches errors lets it pass."""

    def __init__(self, work: Work):
        self.work = work


def run_populations(folders: Sequence[Path], report: Report, workers: int | None) -> None:
    """Run trials in this process, at most `workers` of them together (None: all). Stopped from outside, it ends with a checkpoint."""
    size = workers or max(len(folders), 1)
    with _interrupt_as_sigterm():
        for first in range(0, len(folders), size):
            run_together(folders[first : first + size], report)


def run_together(folders: Sequence[Path], report: Report) -> None:
    """Run trials until each is finished or has failed."""
    runs = {folder: run_in_parts(folder) for folder in folders}
    begun = set[Path]()
    try:
        while runs:
            asked = dict[Path, Work]()
            for folder, run in list(runs.items()):
                if folder not in begun:
                    begun.add(folder)
                    report(folder, "running")
                try:
                    asked[folder] = next(run)
                    continue
                except StopIteration:
                    report(folder, "done")
                except Exception:
                    write_atomically(folder / "error.txt", traceback.format_exc().encode())
                    report(folder, "failed")
                del runs[folder]
                jax.clear_caches()  # a process holds only so many compiled programs
            for program in dict.fromkeys(work.program for work in asked.values()):
                train({folder: work for folder, work in asked.items() if work.program == program})
                jax.clear_caches()
    finally:
        for run in runs.values():
            run.close()


def run_in_parts(folder: Path) -> Iterator[Work]:
    """As `trial.run_trial`; where the run needs a training that others may share, gives it out, to be in the run's folder afterwards."""
    (folder / "error.txt").unlink(missing_ok=True)
    module, config, workspace, label = held_in(folder)

    def postpone(work: Work) -> None:
        own = work.workspace.path == workspace.path and work.mesh.devices == 1  # and no model of the user's cache
        if own and not (work.folder / "checkpoints").is_dir():
            raise Postponed(work)

    results = folder / "results.json"
    with workspace.locked(HANDOVER_SECONDS):
        if not results.is_file():
            with started(workspace, config, label, Console(quiet=True)):
                while not results.is_file():
                    try:
                        write_json(
                            results, finite(module.run(config, replace(workspace, postpone=postpone)), "results")
                        )
                        continue
                    except Postponed as postponed:
                        work = postponed.work
                    yield work
        finish(workspace, module, read_json(results, dict))


@dataclass(frozen=True)
class Share:
    """What a population trains for one trial, whose folder is called `trial`."""

    trial: str
    name: str
    program: str
    members: Members


def share(folder: Path, work: Work) -> Share:
    """What a trial asks for."""
    return Share(folder.name, work.name, work.program, work.members)


def train(asked: Mapping[Path, Work]) -> None:
    """Bring trainings of one program into the folders of the trials that ask for them, or make these train alone.

    A population trains in `populations/HASH` beside the trials, where one that was stopped is found again by its members, even if some of
    them do not ask any more. It is removed when every trial has its members.
    """
    waiting, root = dict(asked), next(iter(asked)).parent.parent / "populations"
    for file in sorted(root.glob("*/members.json")):
        shares = [from_json(Share, one) for one in read_json(file, list)]
        served = {folder: work for folder, work in waiting.items() if share(folder, work) in shares}
        if served:
            train_shares(served, shares, file.parent)
            waiting = {folder: work for folder, work in waiting.items() if folder not in served}
    if len(waiting) > 1:
        shares = [share(folder, work) for folder, work in waiting.items()]
        content = [to_json(one) for one in shares]
        folder = root / _digest(content)
        write_json(folder / "members.json", content)
        train_shares(waiting, shares, folder)
    else:
        train_alone(waiting)
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()


def train_shares(asked: Mapping[Path, Work], shares: Sequence[Share], folder: Path) -> None:
    """Train a population in its folder and give each trial that asks its members. One that no longer asks is stood in for by another.

    Where the loss of a member is not finite, its trial is to train alone and fail, and the other trials will ask again, without it. After
    any other failure, such as too little memory, all train alone.
    """
    by_name, (first, *_) = {trial.name: trial for trial in asked}, asked.values()
    works = [
        asked[by_name[one.trial]] if one.trial in by_name else some_members(first, [0] * len(one.members))
        for one in shares
    ]
    stops = list(accumulate(len(one.members) for one in shares))
    parts = {one.trial: slice(stop - len(one.members), stop) for one, stop in zip(shares, stops, strict=True)}
    for trial in asked:
        _note(trial, f"{first.name}: trained with {len(shares) - 1} other trials in {folder}")
    population = joined(works, "population", Workspace(folder, folder.name, progress=False))
    try:
        state = population.run()
    except Exception as error:
        bad = error.members if isinstance(error, NonFiniteLoss) else range(stops[-1])
        diverged = {trial: work for trial, work in asked.items() if set(range(stops[-1])[parts[trial.name]]) & set(bad)}
        for trial in asked:
            _note(trial, f"{type(error).__name__}: {error}")
        train_alone(diverged or asked)
        shutil.rmtree(folder)
        return
    restored = Checkpoints(population.folder / "checkpoints").restore_latest(state, folder.name)
    assert restored is not None  # training ends with a checkpoint
    lines = read_metrics(population.folder / "metrics.jsonl")
    for trial, work in asked.items():
        part = parts[trial.name]
        log = MetricsLog(work.folder / "metrics.jsonl", 0)
        for line in lines:
            values = {name: value for name, value in line.items() if name != "step"}
            of_trial = jax.tree.map(
                lambda leaf, part=part: leaf[part], values, is_leaf=lambda leaf: isinstance(leaf, list)
            )
            log.write(line["step"], of_trial)
        log.flush()
        log.close()
        prepared = folder / "prepared" / trial.name
        shutil.rmtree(prepared, ignore_errors=True)
        state = jax.tree.map(lambda leaf, part=part: leaf[part], restored.state)
        with Checkpoints(prepared) as store:
            metadata = {"config_hash": work.workspace.config_hash, "arm": work.name, **work.metadata}
            store.save(restored.step, state, restored.iterator, metadata)
        prepared.rename(work.folder / "checkpoints")  # all of it or nothing
    shutil.rmtree(folder)


def train_alone(asked: Mapping[Path, Work]) -> None:
    """Mark the trainings as begun in their trials' folders: there they will go on by themselves."""
    for work in asked.values():
        (work.folder / "checkpoints").mkdir(exist_ok=True)


def _note(trial: Path, text: str) -> None:
    with open(trial / "log.txt", "a") as log:
        print(text, file=log)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@contextmanager
def _interrupt_as_sigterm() -> Iterator[None]:
    """ctrl-C ends what trains as SIGTERM does, with a checkpoint, and is then raised."""
    interrupted, previous = False, signal.getsignal(signal.SIGINT)

    def interrupt(*_: Any) -> None:
        nonlocal interrupted
        interrupted = True
        signal.raise_signal(signal.SIGTERM)

    if previous is signal.default_int_handler:  # not where it is ignored, as in the background of a shell
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except SystemExit:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
