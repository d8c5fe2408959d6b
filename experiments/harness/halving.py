"""Asynchronous successive halving of a sweep's trials, as Optuna has it: what trains badly is stopped early, with a checkpoint."""

from pathlib import Path

import numpy as np

from lexinv.training.metrics import read_metrics
from lexinv.validation import InvalidConfig, require

STOPPED_FILE = "stopped.json"
"""In the folder of a trial that was stopped: {"updates": ..., "loss": ...} where it was compared last."""


class Halving:
    """Compares running trials by their training loss at rungs of `first`, `first * factor`, `first * factor^2`, ... updates.

    A trial goes on from a rung if it is among the best `1 / factor` of all that have reached it so far, itself included, and at least if it
    is the best (Li et al. 2020, "A system for massively parallel hyperparameter tuning", algorithm 2, in the variant of
    `optuna.pruners.SuccessiveHalvingPruner`, which stops trials instead of pausing them). The loss at a rung is the mean over the last
    tenth of the updates before it. Updates of everything that a trial trains are counted together, in the order in which it does.

    Raises `InvalidConfig` if Optuna is not installed, and for numbers that cannot be meant.
    """

    def __init__(self, factor: int, first: int):
        require(factor >= 2, "--halving", factor, "at least 2")
        require(first >= 1, "--first-rung", first, "at least 1")
        try:
            import optuna
        except ImportError:
            allowed = 'with the extra "cluster" installed: pip install "lexinv[cluster]"'
            raise InvalidConfig("--halving", factor, allowed) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)
        self._study = optuna.create_study(direction="minimize", pruner=pruner)
        self._factor, self._first = factor, first
        self._trials: dict[Path, optuna.Trial] = {}
        self._next: dict[Path, int] = {}

    def stops(self, folder: Path) -> dict[str, float] | None:
        """At what rung, and with what loss, the trial in a folder does not go on: {"updates": ..., "loss": ...}; None as long as it does.

        Each rung is told once. What a trial has reached decides on those after it, so trials of an earlier start are to be asked for first.
        """
        if folder not in self._trials:
            self._trials[folder], self._next[folder] = self._study.ask(), self._first
        trial, found, stop = self._trials[folder], losses(folder), None
        while len(found) >= (rung := self._next[folder]):
            loss = float(np.mean(found[rung - max(rung // 10, 1) : rung]))
            trial.report(loss, rung)
            if trial.should_prune() and stop is None:
                stop = {"updates": rung, "loss": loss}
            self._next[folder] = rung * self._factor
        return stop


def losses(folder: Path) -> list[float]:
    """The training loss at every update of everything trained in a folder, the mean over the seeds of a population."""
    files = sorted(folder.rglob("metrics.jsonl"), key=lambda file: file.stat().st_mtime)
    lines = (line for file in files for line in read_metrics(file) if "loss" in line)
    return [float("inf") if line["loss"] is None else float(np.mean(line["loss"])) for line in lines]
