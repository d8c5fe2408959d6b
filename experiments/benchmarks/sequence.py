"""Attention over long contexts: re-weighted softplus against softmax, forward and with its gradient; the sides take turns.

Gao and Spratling 2025 (LSSAR). Memory is what the compiler plans for a call.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, growth, in_parts, in_turns
from experiments.benchmarks.promises import bars, by_size, mark, times
from experiments.benchmarks.worker import Worker, planned
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, panels
from experiments.harness.verdicts import OURS, Claim, below
from experiments.harness.workspace import Workspace
from lexinv.nn.reweighting import Kind
from lexinv.validation import Checked, Count, NonNegative

PAPERS = ()
KINDS: dict[str, tuple[Kind, float]] = {"softmax": ("softmax", 0.0), "re-weighted": ("softplus", 15.0)}
CALLS = {"forward": False, "with gradient": True}


@dataclass(frozen=True)
class AttentionProblem(Checked):
    """Causal attention of `batch` texts; with the gradient of its sum by queries, keys and values."""

    time: Count = 2048
    batch: Count = 2
    heads: Count = 4
    dim: Count = 64
    kind: Kind = "softmax"
    sharpness: NonNegative = 0.0
    gradient: bool = False

    def lowered(self) -> Any:
        """The call before it is compiled."""
        import jax
        import jax.numpy as jnp

        from lexinv.nn.attention import attention

        def call(q: Any, k: Any, v: Any) -> Any:
            return attention(q, k, v, kind=self.kind, sharpness=self.sharpness)

        def slope(*given: Any) -> Any:
            return jax.grad(lambda *given: jnp.sum(jnp.square(call(*given))), (0, 1, 2))(*given)

        shape = jax.ShapeDtypeStruct((self.batch, self.time, self.heads, self.dim), jnp.float32)
        return jax.jit(slope if self.gradient else call).lower(shape, shape, shape)

    def ours(self) -> Callable[[], Any]:
        import jax

        shape = (3, self.batch, self.time, self.heads, self.dim)
        program, given = self.lowered().compile(), list(jax.random.normal(jax.random.key(0), shape))
        return lambda: jax.block_until_ready(program(*given))


@dataclass(frozen=True)
class Config(Checked):
    """problem: at each of the times, the last of which is judged. calls: of one block. cores: that a measured process may use."""

    problem: AttentionProblem = AttentionProblem()
    times: Sizes = (256, 512, 1024, 2048)
    rounds: Count = 7
    calls: Count = 3
    cores: Count = 2

    def problems(self) -> dict[str, AttentionProblem]:
        """By call, kind and time."""
        return {
            f"{call}, {name}, {time}": replace(
                self.problem, time=time, kind=kind, sharpness=sharpness, gradient=gradient
            )
            for call, gradient in CALLS.items()
            for name, (kind, sharpness) in KINDS.items()
            for time in self.times
        }


PRESETS = presets(
    Config(),
    smoke={"problem": AttentionProblem(batch=1, heads=1, dim=8), "times": (16, 80), "rounds": 2, "calls": 1},
    paper={"problem": AttentionProblem(batch=8, heads=12), "times": (1024, 2048, 4096, 8192), "cores": 8},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Seconds of a call by label, a median for each round, and the bytes that it is planned to take."""
    return {"times": config.times, **in_parts(workspace, (attention,), config)}


def attention(config: Config, log: Path) -> dict[str, Any]:
    """Both kinds, both calls, all times."""
    problems = config.problems()
    with Worker(log, config.cores) as worker:
        memory = {label: worker.ask(planned, problem=problem) for label, problem in problems.items()}
    return {"bytes": memory, **in_turns(problems, log, config.cores, config.rounds, config.calls)}


def claims(results: dict[str, Any]) -> list[Claim]:
    """The issue's bounds, at the longest time."""
    found, last = results["attention"], results["times"][-1]

    def sides(metric: str, call: str) -> list[Any]:
        return [found[metric][f"{call}, {name}, {last}"] for name in ("re-weighted", "softmax")]

    return [
        Claim(
            "reweighting_takes_twice_the_time",
            f"Re-weighted attention of {last} tokens takes at most twice the time of softmax's.",
            OURS,
            {call: times(*sides("seconds", call)) for call in CALLS},
            below(2.0),
            "ratio of times",
            over="rounds",
        ),
        Claim(
            "reweighting_takes_no_more_memory",
            f"It takes at most 1.2 times the memory of softmax's, at {last} tokens.",
            OURS,
            {call: sides("bytes", call)[0] / sides("bytes", call)[1] for call in CALLS},
            below(1.2),
            "ratio of bytes",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Seconds by length, and both ratios at the longest."""
    found, lengths = results["attention"], results["times"]
    drawn, (sweep, ratios) = panels(1, 2, titles=("Seconds of a call", f"Against softmax, {lengths[-1]} tokens"))
    rows = {
        f"{call}, {name}": [found["seconds"][f"{call}, {name}, {t}"] for t in lengths]
        for call in CALLS
        for name in KINDS
    }
    by_size(sweep, {row: growth(lengths, seconds) for row, seconds in rows.items()})
    sweep.set(xlabel="tokens", ylabel="seconds")
    judged = claims(results)
    bars(
        ratios,
        {f"{unit}, {call}": judged[i].measured[call] for i, unit in enumerate(("time", "memory")) for call in CALLS},
        BLUE,
    )
    mark(ratios, 1.0)
    return drawn
