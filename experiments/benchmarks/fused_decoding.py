"""Seconds of drawing an image of codes with a cache, code by code and a window of s x s codes at a time; the sides take turns.

Ma et al. 2025 (Token-Shuffle). Code by code stands beside PyTorch as well, with a cache of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, alternate_with_torch, in_parts, in_turns
from experiments.benchmarks.problems import torch_device, transformer
from experiments.benchmarks.promises import bars, mark, over_ours, speed, times
from experiments.harness.intervals import Interval
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, panels
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from lexinv.merging.token_shuffle import FusedConfig
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

    def params(self) -> Any:
        import jax

        from lexinv.merging.token_shuffle import initialize

        return initialize(self.fused, jax.random.key(0))

    @property
    def fused(self) -> FusedConfig:
        return FusedConfig(self.model, self.codes, 1, self.side)

    def ours(self, temperature: float = 1.0) -> Callable[[], Any]:
        """Codes [batch, windows, side^2], of one compiled program."""
        import jax
        import jax.numpy as jnp

        from lexinv.merging.fused_sampling import sample
        from lexinv.nn.sampling import Sampling

        params, key, prompt = self.params(), jax.random.key(1), jnp.zeros((self.batch, 1), jnp.int32)
        given = self.fused, params, prompt, self.windows, key, Sampling(temperature)
        return lambda: jax.block_until_ready(sample(*given).windows)

    def theirs(self, compiled: bool, temperature: float = 1.0) -> Callable[[], Any]:
        """PyTorch's codes [batch, codes], of the same model at side 1."""
        import torch
        from torch.nn import functional

        from experiments.benchmarks.torch_language_model import blocks

        device, config, params = torch_device(), self.model, self.params()
        layers = blocks(config, params["transformer"]).to(device)

        def moved(*path: str) -> Any:
            value = params
            for name in path:
                value = value[name]
            return torch.tensor(np.asarray(value), device=device)

        words, codes, fuse = moved("words"), moved("codes"), moved("fuse", "kernel")
        split, readout = moved("split", "kernel"), moved("readout")
        positions, gain = moved("transformer", "positions"), moved("transformer", "final_norm")
        mlps = {
            name: list(zip(moved(name, "mlp_in"), moved(name, "mlp_out"), strict=True))
            for name in ("shuffle", "unshuffle")
        }

        def norm(x: Any, weight: Any = None) -> Any:
            return functional.rms_norm(x, x.shape[-1:], weight, 1e-6)

        def residual(name: str, x: Any) -> Any:
            for wide, back in mlps[name]:
                x = x + functional.gelu(norm(x) @ wide, approximate="tanh") @ back
            return x

        def forward(memory: Any, x: Any, start: int) -> Any:
            x = x + positions[start : start + 1]
            for index, layer in enumerate(layers):
                x = layer.extend(memory[index], x, start)
            return residual("unshuffle", norm(x[:, -1], gain)) @ split @ readout

        def choose(logits: Any) -> Any:
            if temperature == 0:
                return torch.argmax(logits, dim=-1, keepdim=True)
            return torch.multinomial(functional.softmax(logits / temperature, dim=-1), 1)

        once = torch.compile(forward, dynamic=True) if compiled else forward

        @torch.inference_mode()
        def call() -> Any:
            memory = torch.empty(
                config.depth, 2, self.batch, config.heads, self.windows, config.head_dim, device=device
            )
            found = [choose(forward(memory, words[:1].expand(self.batch, 1, -1), 0))]
            for place in range(1, self.windows):
                found.append(choose(once(memory, residual("shuffle", codes[found[-1]] @ fuse), place)))
            return torch.cat(found, dim=1).cpu()

        return call


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
    return in_parts(workspace, (by_side, against_torch), config)


def by_side(config: Config, log: Path) -> dict[str, Any]:
    """The same grid in windows of each side."""
    return in_turns(config.problems, log, config.cores, config.rounds, config.calls)


def against_torch(config: Config, log: Path) -> dict[str, Any]:
    """Code by code, ours and PyTorch's."""
    one = replace(config.problem, side=1)
    sides = {"lexinv": one, "torch": one}
    return alternate_with_torch(sides, log, config.cores, config.rounds, config.calls)


def claims(results: dict[str, Any]) -> list[Claim]:
    """How many times as many images a second as code by code, and as PyTorch."""
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
        ),
        *speed(
            "as_fast_as_torch",
            "Code by code, images are drawn at least as fast as by PyTorch with a cache of its own.",
            torch_over_ours(results),
            1.0,
        ),
    ]


def torch_over_ours(results: dict[str, Any]) -> dict[str, Interval]:
    """Times as long; nothing where PyTorch was not measured."""
    return over_ours(results["against_torch"]["seconds"])


def figure(results: dict[str, Any]) -> Figure:
    """Times as fast as code by code."""
    drawn, (axes,) = panels(height=2.2, titles=("Images a second, against code by code",))
    seconds = results["by_side"]["seconds"]
    bars(axes, {f"windows of side {s}": times(seconds["1"], t) for s, t in seconds.items() if s != "1"}, BLUE, "{:.1f}")
    mark(axes, 2.0)
    return drawn
