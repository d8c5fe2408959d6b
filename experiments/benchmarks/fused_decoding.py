"""Seconds of drawing an image of codes with a cache, code by code and a window of s x s codes at a time; the sides take turns.

Ma et al. 2025 (Token-Shuffle). How code by code compares with PyTorch is in `benchmarks/decoding`: it is plain decoding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, in_parts, in_turns
from experiments.benchmarks.problems import transformer
from experiments.benchmarks.promises import bars, mark, times
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, panels
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import Checked, Count

PAPERS = ("ma2025tokenshuffle",)


@dataclass(frozen=True)
class FusedProblem(Checked):
    """A call draws `batch` images of `grid` x `grid` codes, a window of `side` x `side` at a time, behind a prompt of one word."""

    model: TransformerConfig
    grid: Count = 16
    codes: Count = 256
    side: Count = 1
    batch: Count = 8

    def checks(self):
        yield self.grid % self.side == 0, "side", f"a divisor of grid = {self.grid}"
        yield (
            self.model.width % self.side**2 == 0,
            "side",
            f"of windows whose codes divide the width {self.model.width}",
        )
        yield self.model.max_length >= self.windows, "grid", f"of at most {self.model.max_length} windows"

    @property
    def windows(self) -> int:
        return self.grid**2 // self.side**2

    def ours(self) -> Callable[[], Any]:
        """Codes, of one compiled program."""
        import jax
        import jax.numpy as jnp

        from lexinv.merging.fused_sampling import sample
        from lexinv.merging.token_shuffle import FusedConfig, initialize

        config = FusedConfig(self.model, self.codes, 1, self.side)
        params, key = initialize(config, jax.random.key(0)), jax.random.key(1)
        prompt = jnp.zeros((self.batch, 1), jnp.int32)
        return lambda: jax.block_until_ready(sample(config, params, prompt, self.windows, key).windows)


@dataclass(frozen=True)
class Config(Checked):
    """problem: at every side. calls: of one block. cores: that a measured process may use."""

    problem: FusedProblem = FusedProblem(transformer(4, 256, 4, 256))
    sides: Sizes = (1, 2, 4)
    rounds: Count = 7
    calls: Count = 1
    cores: Count = 2

    def checks(self):
        yield self.sides[:2] == (1, 2), "sides", "from 1 and 2 on, whose speeds are compared"
        _ = self.problems  # refuses what cannot be cut

    @property
    def problems(self) -> dict[str, FusedProblem]:
        return {str(side): replace(self.problem, side=side) for side in self.sides}


PRESETS = presets(
    Config(),
    smoke={"problem": FusedProblem(transformer(1, 32, 2, 16), grid=4, codes=8, batch=2), "sides": (1, 2), "rounds": 2},
    paper={"problem": FusedProblem(transformer(20, 3072, 24, 4096), grid=64, codes=16_384, batch=1), "cores": 8},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Seconds of a call by side: a median for each round."""
    return in_parts(workspace, (by_side,), config)


def by_side(config: Config, log: Path) -> dict[str, Any]:
    """The same grid in windows of each side."""
    return in_turns(config.problems, log, config.cores, config.rounds, config.calls)


def claims(results: dict[str, Any]) -> list[Claim]:
    """How many times as many images a second."""
    seconds = results["by_side"]["seconds"]
    faster = {f"side {side}": times(seconds["1"], found) for side, found in seconds.items() if side != "1"}
    return [
        Claim(
            "quarter_tokens_faster",
            "Windows of 2 x 2 codes draw more than twice as many images a second as code by code; both with a cache.",
            "ma2025tokenshuffle",
            faster,
            {"side 2": above(2)},
            "times as fast",
            "inference with a cache about linear in tokens",
            "rounds",
        )
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Times as fast as code by code."""
    drawn, (axes,) = panels(height=2.2, titles=("Images a second, against code by code",))
    seconds = results["by_side"]["seconds"]
    bars(axes, {f"windows of side {s}": times(seconds["1"], t) for s, t in seconds.items() if s != "1"}, BLUE, "{:.1f}")
    mark(axes, 2.0)
    return drawn
