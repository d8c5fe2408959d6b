"""Steps per second of training under active forgetting: one compiled scan against a loop in PyTorch.

A small model is bound by dispatch, not by arithmetic: our batches, updates and re-initialisations of the table are one program, so that the
host is asked once in many steps. The sides take turns, as in `benchmarks/train_step`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, alternate_with_torch, in_parts, size_sweep
from experiments.benchmarks.forgetting_problem import ForgettingProblem
from experiments.benchmarks.promises import bars, by_size, over_ours, speed
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, VERMILION, panels
from experiments.harness.verdicts import Claim
from experiments.harness.workspace import Workspace
from experiments.subjects.forgetful_encoders import MODEL
from lexinv.lexinvariance.part_of_speech import PosTask
from lexinv.validation import Checked, Count

PAPERS = ()


@dataclass(frozen=True)
class Config(Checked):
    """problem: measured against PyTorch, and for `vocabs` words instead of its own for the sweep; as `lexinvariance/forgetting` trains.

    calls: of one block. cores: that a measured process may use. compiled: also measure torch.compile.
    """

    problem: ForgettingProblem = ForgettingProblem(PosTask(vocab=1000, holdout=100), MODEL, batch_size=64)
    vocabs: Sizes = (500, 1000, 2000, 4000)
    rounds: Count = 9
    calls: Count = 2
    compiled: bool = True
    cores: Count = 2

    def checks(self):
        _ = self.sweep  # refuses sizes that the task does not allow
        return iter(())

    @property
    def sweep(self) -> dict[int, ForgettingProblem]:
        """The problem by size of its vocabulary."""
        task = self.problem.task
        return {v: replace(self.problem, task=replace(task, vocab=v, holdout=v // 10)) for v in self.vocabs}


PRESETS = presets(
    Config(),
    smoke={
        "problem": ForgettingProblem(
            PosTask(vocab=40, holdout=8, bins=2, head=4),
            replace(MODEL, depth=1, width=16, mlp_width=16, unroll=1),
            batch_size=16,
            period=10,
            steps=2,
        ),
        "vocabs": (40, 80),
        "rounds": 2,
        "calls": 1,
        "compiled": False,
    },
    paper={
        "problem": ForgettingProblem(
            PosTask(vocab=10_000, holdout=1000, alpha=1.5, bins=10), replace(MODEL, depth=6, unroll=6), period=1000
        ),
        "vocabs": (1000, 10_000, 20_000),
        "cores": 8,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Seconds of a step, a median for each round."""
    return {"steps": config.problem.steps, **in_parts(workspace, (against_torch, sweep), config)}


def against_torch(config: Config, log: Path) -> dict[str, Any]:
    """Ours and PyTorch's, eager and compiled."""
    labels = ("lexinv", "torch", "torch.compile")[: 3 if config.compiled else 2]
    sides = dict.fromkeys(labels, config.problem)
    return alternate_with_torch(sides, log, config.cores, config.rounds, config.calls)


def sweep(config: Config, log: Path) -> dict[str, Any]:
    """Ours by size of the vocabulary, which the readout's cost grows with."""
    return size_sweep({"words": config.sweep}, log, config.cores, config.rounds, config.calls)


def claims(results: dict[str, Any]) -> list[Claim]:
    """How many times as many steps per second as PyTorch."""
    return speed(
        "five_times_as_fast_as_a_torch_loop",
        "Training under active forgetting does at least five times as many steps per second as a loop in PyTorch, eager.",
        over_ours(results["against_torch"]["seconds"]),
        {"torch": 5.0},
    )


def figure(results: dict[str, Any]) -> Figure:
    """Steps per second of every side, and seconds of ours by vocabulary."""
    titles = ("Active forgetting, steps per second", "By vocabulary")
    drawn, (sides, growing) = panels(1, 2, height=3.0, titles=titles)
    rates = {label: [1 / one for one in seconds] for label, seconds in results["against_torch"]["seconds"].items()}
    bars(sides, rates, [BLUE] + [VERMILION] * (len(rates) - 1), "{:.0f}")
    by_size(growing, results["sweep"])
    growing.set(xlabel="words", ylabel="seconds per step")
    return drawn
