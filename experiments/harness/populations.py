"""The executor `population`: the trials of a sweep in this process, and those of their trainings that run the same program as one.

A trial runs until it needs a training that others may share. There it is left, and when every trial has come so far, trainings of the
same program and data, which differ in seeds and learning rate, are done as one population: one compile, one dispatch. Each trial gets its
members in its own run folder, as if it had trained them there, and is started again: it finds what it has done so far and goes on. So a
trial computes again, after every training, what it does not keep in a stage of its workspace. The numbers are those of a trial alone up to
rounding, since XLA compiles loops over few members otherwise than over many, and vmapped members otherwise than one.

Everything runs in the main thread, in an order that does not depend on the clock, and what is stopped anywhere resumes.
"""

import hashlib
import json
import shutil
import signal
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments.harness.executors import Report
from experiments.harness.language_models import Trainee, train_population
from experiments.harness.record import finish
from experiments.harness.trial import HANDOVER_SECONDS, held_in, started
from experiments.harness.workspace import Workspace, plain, write_atomically, write_json
from lexinv.training.checkpoint import Checkpoints
from lexinv.training.fit import NonFiniteLoss
from lexinv.training.metrics import MetricsLog, read_metrics


class Postponed(BaseException):
    """Ends a run at a training that others may share. No error: what catches errors lets it pass."""

    def __init__(self, training: Trainee):
        self.training = training


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
            asked = dict[Path, Trainee]()
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
            for program in dict.fromkeys(training.program for training in asked.values()):
                train({folder: training for folder, training in asked.items() if training.program == program})
                jax.clear_caches()
    finally:
        for run in runs.values():
            run.close()


def run_in_parts(folder: Path) -> Iterator[Trainee]:
    """As `trial.run_trial`; where the run needs a training that others may share, gives it out, to be in the run's folder afterwards."""
    (folder / "error.txt").unlink(missing_ok=True)
    module, config, workspace, label = held_in(folder)

    def postpone(training: Trainee) -> None:
        if not (workspace.folder(training.name) / "checkpoints").is_dir():
            raise Postponed(training)

    results = folder / "results.json"
    with workspace.locked(HANDOVER_SECONDS):
        if not results.is_file():
            with started(workspace, label, Console(quiet=True)):
                while not results.is_file():
                    try:
                        write_json(results, plain(module.run(config, replace(workspace, postpone=postpone))))
                        continue
                    except Postponed as postponed:
                        training = postponed.training
                    yield training
        finish(workspace, module, json.loads(results.read_bytes()))


@dataclass(frozen=True)
class Share:
    """What a population trains for one trial: its seeds, all with one learning rate. `trial` is the name of its folder."""

    trial: str
    name: str
    program: str
    seeds: list[int]
    learning_rate: float


def share(folder: Path, training: Trainee) -> Share:
    """What a trial asks for."""
    config = training.training
    return Share(folder.name, training.name, training.program, list(config.seeds), config.optimizer.learning_rate)


def train(asked: Mapping[Path, Trainee]) -> None:
    """Bring trainings of one program into the folders of the trials that ask for them, or make these train alone.

    A population trains in `populations/HASH` beside the trials, where one that was stopped is found again by its members, even if some of
    them do not ask any more. It is removed when every trial has its members.
    """
    waiting, root = dict(asked), next(iter(asked)).parent.parent / "populations"
    for file in sorted(root.glob("*/members.json")):
        members = [Share(**member) for member in json.loads(file.read_bytes())]
        served = {folder: training for folder, training in waiting.items() if share(folder, training) in members}
        if served:
            train_members(served, members, file.parent)
            waiting = {folder: training for folder, training in waiting.items() if folder not in served}
    if len(waiting) > 1:
        members = [share(folder, training) for folder, training in waiting.items()]
        content = plain([member.__dict__ for member in members])
        folder = root / _digest(content)
        write_json(folder / "members.json", content)
        train_members(waiting, members, folder)
    else:
        train_alone(waiting)
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()


def train_members(asked: Mapping[Path, Trainee], members: Sequence[Share], folder: Path) -> None:
    """Train a population in its folder and give each trial that asks its members.

    Where the loss of a member is not finite, its trial is to train alone and fail, and the other trials will ask again, without it. After
    any other failure, such as too little memory, all train alone.
    """
    training, identity = next(iter(asked.values())), folder.name
    rates = [(seed, one.learning_rate) for one in members for seed in one.seeds]
    for trial in asked:
        _note(trial, f"{training.name}: trained with {len(members) - 1} other trials in {folder}")
    try:
        state = train_population(training, rates, folder, identity, progress=False)
    except Exception as error:
        bad = {rates[index] for index in error.members} if isinstance(error, NonFiniteLoss) else set(rates)
        diverged = {
            trial: one
            for trial, one in asked.items()
            if any((seed, one.training.optimizer.learning_rate) in bad for seed in one.training.seeds)
        }
        for trial in asked:
            _note(trial, f"{type(error).__name__}: {error}")
        train_alone(diverged or asked)
        shutil.rmtree(folder)
        return
    restored = Checkpoints(folder / "checkpoints").restore_latest(state, identity)
    assert restored is not None  # training ends with a checkpoint
    lines, first = read_metrics(folder / "metrics.jsonl"), 0
    by_name = {trial.name: trial for trial in asked}
    for one in members:
        part, first = slice(first, first + len(one.seeds)), first + len(one.seeds)
        if one.trial not in by_name:
            continue
        trial = by_name[one.trial]
        own = Workspace(trial, trial.name).folder(one.name)
        log = MetricsLog(own / "metrics.jsonl", 0)
        for line in lines:
            log.write(line["step"], {name: values[part] for name, values in line.items() if name != "step"})
        log.flush()
        log.close()
        prepared = folder / "prepared" / one.trial
        shutil.rmtree(prepared, ignore_errors=True)
        state = jax.tree.map(lambda leaf, part=part: leaf[part], restored.state)
        with Checkpoints(prepared) as store:
            store.save(restored.step, state, restored.iterator, {"config_hash": trial.name, "arm": one.name})
        prepared.rename(own / "checkpoints")  # all of it or nothing
    shutil.rmtree(folder)


def train_alone(asked: Mapping[Path, Trainee]) -> None:
    """Mark the trainings as begun in their trials' folders: there they will go on by themselves."""
    for trial, training in asked.items():
        (Workspace(trial, trial.name).folder(training.name) / "checkpoints").mkdir(exist_ok=True)


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
