"""Seconds of a token of SmolLM2 on this device: one token a forward against recycled drafts of several sizes, greedily.

Luo et al. 2024 (arXiv 2408.08696) promise about twice the speed on one GPU, where a forward of 81 tokens costs about as much as of one. The
sides take turns, as in `benchmarks/train_step`; each call begins with an empty matrix, and goes on from every prompt with the same.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, in_parts, in_turns
from experiments.benchmarks.drafting_problem import DraftingProblem
from experiments.benchmarks.promises import bars, mark, speed, times
from experiments.harness.assets import asset
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, panels
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from lexinv.validation import Checked, Count

PAPERS = ("luo2025turning",)
PLAIN = "one token a forward"


@dataclass(frozen=True)
class Config(Checked):
    """model: an asset, or "" for a tiny untrained one. nodes: drafted in a forward. each: tokens after each prompt."""

    model: str = "smollm2"
    nodes: Sizes = (2, 4, 8, 16)
    prompts: Count = 4
    prompt: Count = 64
    each: Count = 48
    rounds: Count = 5
    cores: Count = 2


PRESETS = presets(
    Config(),
    smoke={"model": "", "nodes": (2, 4), "prompts": 1, "prompt": 4, "each": 4, "rounds": 2},
    paper={"nodes": (8, 16, 32, 80), "prompts": 24, "each": 256, "cores": 8},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Seconds of a token: a median for each round."""
    path = str(asset(config.model, workspace)) if config.model else ""
    return in_parts(workspace, (by_nodes,), replace(config, model=path))


def by_nodes(config: Config, log: Path) -> dict[str, Any]:
    """The same texts with drafts of several sizes, and without."""
    plain = DraftingProblem(config.model, 0, prompts=config.prompts, prompt=config.prompt, each=config.each)
    sides = {PLAIN: plain, **{f"{n} drafted": replace(plain, nodes=n) for n in config.nodes}}
    return in_turns(sides, log, config.cores, config.rounds, 1)


def ratios(results: dict[str, Any]) -> dict[str, Any]:
    seconds = results["by_nodes"]["seconds"]
    return {side: times(seconds[PLAIN], found) for side, found in seconds.items() if side != PLAIN}


def best(results: dict[str, Any]) -> dict[str, Any]:
    """The size of the fewest seconds in the first round, in the others: so that choosing it does not flatter it."""
    seconds = results["by_nodes"]["seconds"]
    side = min((one for one in seconds if one != PLAIN), key=lambda one: seconds[one][0])
    return {side: times(seconds[PLAIN][1:], seconds[side][1:])}


def claims(results: dict[str, Any]) -> list[Claim]:
    """What drafts save where a forward of one token is bound by memory."""
    return [
        *speed(
            "real_faster",
            "With recycled drafts of the best size SmolLM2 goes on more than 1.3 times as fast.",
            best(results),
            1.3,
        ),
        Claim(
            "twice_as_fast",
            "Token Recycling about doubles the speed.",
            "luo2025turning: abstract",
            best(results),
            above(1.9),
            "times as fast",
            published="2.09 (Vicuna 7B)",
            over="rounds",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Times as fast as one token a forward, by how many tokens are drafted."""
    drawn, (axes,) = panels(1, 1, height=2.4, titles=("SmolLM2 with drafts",))
    bars(axes, ratios(results), BLUE)
    mark(axes, 1.0)
    axes.set_xlabel("times as fast as one token a forward")
    return drawn
