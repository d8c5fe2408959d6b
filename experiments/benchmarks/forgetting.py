"""Steps per second of training under active forgetting: one compiled scan against a loop in PyTorch.

A small model is bound by dispatch, not by arithmetic: our batches, updates and re-initialisations of the table are one program, so that the
host is asked once in many steps. The sides take turns, as in `benchmarks/train_step`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import alternate, alternate_with_torch, exponent, ratio
from experiments.benchmarks.forgetting_problem import ForgettingProblem
from experiments.benchmarks.worker import Worker
from experiments.harness.claims import Claim
from experiments.harness.papers import bibtex
from experiments.harness.style import BLUE, PALETTE, panels, styled
from experiments.harness.workspace import Workspace
from experiments.lexinvariance import forgetting
from lexinv.validation import require

PAPER = bibtex("anand2025dual")
SOURCE = "our own benchmark, no published counterpart"
ENOUGH_ROUNDS, TIMES_AS_FAST = 5, 5.0


@dataclass(frozen=True)
class Config:
    """problem: measured against PyTorch, and for `vocabs` words instead of its own for the sweep. cores: that a measured process may use.

    compiled: also measure torch.compile.
    """

    problem: ForgettingProblem
    vocabs: tuple[int, ...]
    rounds: int = 9
    calls: int = 2
    compiled: bool = True
    cores: int = 2

    def __post_init__(self):
        for name in ("rounds", "calls", "cores"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(len(self.vocabs) >= 2, "vocabs", self.vocabs, "at least two sizes, for a slope")
        _ = self.sweep

    @property
    def sweep(self) -> dict[int, ForgettingProblem]:
        """The problem by size of its vocabulary."""
        task = self.problem.task
        return {v: replace(self.problem, task=replace(task, vocab=v, holdout=v // 10)) for v in self.vocabs}


def problem_of(config: forgetting.Config, **rest: Any) -> ForgettingProblem:
    """What a preset of `lexinvariance/forgetting` trains under active forgetting."""
    return ForgettingProblem(config.task, config.model, config.batch_size, config.period, **rest)


PRESETS = {
    "smoke": Config(problem_of(forgetting.PRESETS["smoke"], steps=2), (40, 80), rounds=2, calls=1, compiled=False),
    "cpu": Config(problem_of(forgetting.PRESETS["cpu"]), (500, 1000, 2000, 4000)),
    "paper": Config(problem_of(forgetting.PRESETS["paper"]), (1000, 10_000, 20_000), cores=8),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Seconds of a step, a median for each round."""
    log = workspace.folder("workers") / "log.txt"
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "steps": config.problem.steps,
        "against_torch": workspace.cached("against_torch", lambda: against_torch(config, log)),
        "sweep": workspace.cached("sweep", lambda: sweep(config, log)),
    }


def per_step(measured: dict[str, Any], steps: int) -> dict[str, Any]:
    """A call is many steps."""
    return {label: [seconds / steps for seconds in rounds] for label, rounds in measured["seconds"].items()}


def against_torch(config: Config, log: Path) -> dict[str, Any]:
    """Ours and PyTorch's, eager and compiled."""
    theirs = {"torch": (config.problem, False)} | ({"torch.compile": (config.problem, True)} if config.compiled else {})
    sizes = config.cores, config.rounds, config.calls
    measured = alternate_with_torch({"lexinv": config.problem}, theirs, log, *sizes, kind="forgetting")
    kept = {name: measured[name] for name in ("torch", "left_out")}
    return {**kept, "seconds": per_step(measured, config.problem.steps)}


def sweep(config: Config, log: Path) -> dict[str, Any]:
    """Ours by size of the vocabulary, which the readout's cost grows with."""
    with Worker(log, config.cores) as worker:
        for vocab, problem in config.sweep.items():
            worker.ask("prepare", label=str(vocab), problem=problem, kind="forgetting")
        sides = dict.fromkeys(map(str, config.sweep), worker)
        seconds = list(per_step(alternate(sides, config.rounds, config.calls), config.problem.steps).values())
    exponents = [exponent(config.vocabs, times) for times in zip(*seconds, strict=True)]
    return {"sizes": list(config.vocabs), "seconds": seconds, "exponents": exponents}


def claims(results: dict[str, Any]) -> list[Claim]:
    """How many times as many steps per second as PyTorch."""
    seconds = results["against_torch"]["seconds"]
    measured, holds = None, None
    if "torch" in seconds:
        measured = {label: ratio(times, seconds["lexinv"]) for label, times in seconds.items() if label != "lexinv"}
        if len(seconds["lexinv"]) >= ENOUGH_ROUNDS:
            holds = measured["torch"]["ratio"] >= TIMES_AS_FAST
    return [
        Claim(
            "five_times_as_fast_as_a_torch_loop",
            "Training under active forgetting does at least five times as many steps per second as a loop in PyTorch (measured: ratio, "
            "eager and compiled).",
            SOURCE,
            None,
            measured or results["against_torch"]["left_out"],
            TIMES_AS_FAST,
            holds,
        )
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Steps per second of every side, and ours by vocabulary."""
    drawn, (sides, sizes) = panels(1, 2, width=4.4, height=3.0)
    with styled():
        seconds = results["against_torch"]["seconds"]
        rates = [1 / np.median(times) for times in seconds.values()]
        bars = sides.bar(list(seconds), rates, color=PALETTE[: len(rates)], width=0.6)
        sides.bar_label(bars, fmt="%.0f", fontsize=8)
        sides.set(title="Active forgetting", ylabel="steps per second")
        found = results["sweep"]
        medians = [np.median(times) for times in found["seconds"]]
        slope = np.median(found["exponents"])
        sizes.plot(found["sizes"], medians, "o-", color=BLUE, label=f"ours, exponent {slope:.2f}")
        sizes.set(title="By vocabulary", xlabel="words", ylabel="seconds per step", xscale="log", yscale="log")
        sizes.legend()
    return drawn
