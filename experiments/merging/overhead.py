"""Claim C13, a limit: scoring tokens and rearranging them may cost more than fewer tokens save, where sequences are short.

Kong et al. 2026 (arXiv 2505.18227), section 7; method card token-reduction-beyond-efficiency. An encoder loses half of its tokens, an equal
number after the attention of every layer, as ToMe is published, with random pruning on the same schedule as the control; or all of them
at once in its first layer. Everything is timed in one process in turns, so that what disturbs the machine disturbs all sides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.benchmarks.alternating import take_turns
from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, band, reference
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from lexinv.merging.bipartite import bipartite_matching
from lexinv.merging.diversity import diversity_prune
from lexinv.merging.ranking import prune_at_random
from lexinv.merging.reduction import Method, reduction
from lexinv.nn.reduced import Reduction, run_layers
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.nn.vision_transformer import LAYERS
from lexinv.training.streams import stream
from lexinv.validation import require

METHODS = {
    "random": ("random, every layer", GREY),
    "tome": ("ToMe, every layer", BLUE),
    "tome_once": ("ToMe, once", ORANGE),
    "divprune": ("DivPrune, once", GREEN),
}
JUDGED = "tome"


@dataclass(frozen=True)
class OverheadConfig:
    """lengths: tokens N, rising. batches: rising. most_pairs: cells with more than so many pairs of tokens in all are left out.

    rounds: turns of every side, of which the median counts. turn_seconds: a turn repeats calls of a cell for about so long.
    """

    lengths: tuple[int, ...] = (16, 64, 256, 1024, 2048)
    batches: tuple[int, ...] = (1, 64)
    most_pairs: int = 1 << 22
    depth: int = 4
    width: int = 64
    heads: int = 4
    rounds: int = 3
    turn_seconds: float = 0.02

    def __post_init__(self):
        for field in ("lengths", "batches"):
            rising = list(getattr(self, field)) == sorted(set(getattr(self, field))) != []
            require(rising, f"overhead.{field}", getattr(self, field), "rising numbers")
        whole = all(length % (2 * self.depth) == 0 and length > 0 for length in self.lengths)
        require(
            whole, "overhead.lengths", self.lengths, f"multiples of {2 * self.depth}: half, over {self.depth} layers"
        )
        require(self.batches[0] >= 1, "overhead.batches", self.batches, "at least 1")
        most = self.batches[0] * self.lengths[-1] ** 2
        require(
            self.most_pairs >= most, "overhead.most_pairs", self.most_pairs, f"at least the smallest batch's {most}"
        )
        require(self.rounds >= 1, "overhead.rounds", self.rounds, "at least 1")
        require(self.turn_seconds > 0, "overhead.turn_seconds", self.turn_seconds, "above 0")

    @property
    def layers(self) -> TransformerConfig:
        return replace(LAYERS, depth=self.depth, width=self.width, heads=self.heads, mlp_width=4 * self.width)

    def lengths_of(self, batch: int) -> list[int]:
        """The lengths that are timed at this batch size."""
        return [length for length in self.lengths if batch * length**2 <= self.most_pairs]


def measure(config: OverheadConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """Seconds of the full forward pass, [batches][lengths][seeds], and of every method as a ratio to it; a stage for each batch size."""
    cells = [workspace.cached(f"overhead/{batch}", partial(_time, config, batch, seeds)) for batch in config.batches]
    return {"batches": list(config.batches), "cells": cells}


def _time(config: OverheadConfig, batch: int, seeds: Sequence[int]) -> dict[str, Any]:
    lengths = config.lengths_of(batch)
    found: dict[str, Any] = {"lengths": lengths, "seconds": [], **{name: [] for name in METHODS}}
    for length in lengths:
        full, ratios = [], {name: [] for name in METHODS}
        for seed in seeds:
            seconds = time_cell(config, batch, length, seed)
            full.append(float(f"{np.median(seconds['full']):.4g}"))
            for name in METHODS:
                paired = np.array(seconds[name]) / np.array(seconds["full"])
                ratios[name].append(float(f"{np.median(paired):.4g}"))
        found["seconds"].append(full)
        for name in METHODS:
            found[name].append(ratios[name])
    return found


def time_cell(config: OverheadConfig, batch: int, length: int, seed: int) -> dict[str, list[float]]:
    """Seconds of a call by round, of the full pass ("full") and of every method, all on the same weights and tokens."""
    key = stream(jax.random.key(seed), "overhead")
    one = jnp.zeros((1, 1, config.width))
    layers = jax.vmap(lambda k: Block(config.layers, False).init(k, one, None)["params"])(
        jax.random.split(key, config.depth)
    )
    x = jax.random.normal(jax.random.fold_in(key, 1), (batch, length, config.width))

    def side(name: str) -> Callable[[], object]:
        return lambda: forward(config.layers, name, layers, x, key).block_until_ready()

    calls = {name: side(name) for name in ("full", *METHODS)}
    for call in calls.values():
        call()  # compiles
    once = min(take_turns({"full": calls["full"]}, 3)["full"])
    repeats = max(round(config.turn_seconds / once), 1)

    def repeated(call: Callable[[], object]) -> Callable[[], object]:
        return lambda: [call() for _ in range(repeats)]

    turns = take_turns({name: repeated(call) for name, call in calls.items()}, config.rounds)
    return {name: [turn / repeats for turn in found] for name, found in turns.items()}


@partial(jax.jit, static_argnums=(0, 1))
def forward(config: TransformerConfig, name: str, layers: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    """What is left of the stream after all layers: all of it for "full", half of it for a method."""
    return run_layers(config, layers, x, None, schedule(config.depth, name, x.shape[1], key))[0]


def schedule(depth: int, name: str, length: int, key: jax.Array) -> list[Reduction | None]:
    """The reductions of every layer that leave half of `length` tokens."""
    if name == "full":
        return []
    half, share = length // 2, length // (2 * depth)
    methods: dict[str, Method] = {
        "tome_once": lambda e: bipartite_matching(e.similarity, half, protect=0),
        "divprune": lambda e: diversity_prune(e.keys, half),
    }
    if name in methods:
        return [reduction(methods[name])] + [None] * (depth - 1)
    if name == "tome":
        return [reduction(lambda e: bipartite_matching(e.similarity, share, protect=0))] * depth

    def drawn(layer: int) -> Reduction:
        left = length - layer * share
        return reduction(lambda e: prune_at_random(e.key, left, share, protect=0), key=jax.random.fold_in(key, layer))

    return [drawn(layer) for layer in range(depth)]


def break_even(lengths: Sequence[int], ratios: Sequence[float]) -> float | None:
    """The N from which on reduction is faster: where ratios, straight lines in log N between the lengths, last come down to 1.

    The shortest length where it is faster throughout, None where it is slower at the longest.
    """
    slower = [i for i, ratio in enumerate(ratios) if ratio >= 1]
    if not slower:
        return float(lengths[0])
    last = slower[-1]
    if last == len(lengths) - 1:
        return None
    share = (ratios[last] - 1) / (ratios[last] - ratios[last + 1])
    return float(lengths[last] * (lengths[last + 1] / lengths[last]) ** share)


def break_evens(measured: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """By method and batch size, of the ratios' means over seeds, rounded to whole tokens."""
    found: dict[str, dict[str, float | None]] = {}
    for name in METHODS:
        found[name] = {}
        for batch, cell in zip(measured["batches"], measured["cells"], strict=True):
            tokens = break_even(cell["lengths"], [float(np.mean(row)) for row in cell[name]])
            found[name][f"batch {batch}"] = None if tokens is None else round(tokens)
    return found


SMALLEST = 0.05
"""The least effect that matters, in logarithms of time: about 5 %."""


def judge(measured: dict[str, Any]) -> list[Claim]:
    """Slower where short, faster where long, at the smallest batch size."""
    cell = measured["cells"][0]
    ratio, control = np.log(cell[JUDGED]), np.log(cell["random"])
    short, long = cell["lengths"][0], cell["lengths"][-1]
    where = f"(ToMe down to half of the tokens over all layers, batch {measured['batches'][0]})"
    times = {
        name: {f"N = {n}": interval(row) for n, row in zip(cell["lengths"], cell[name], strict=True)}
        for name in METHODS
    }
    return [
        judged(
            13,
            "overhead_exceeds_gain_when_short",
            f"the overhead of reduction can exceed its gain for short sequences {where} (measured: ln of the time of the reduced forward "
            f"pass over that of the full one, at N = {short}; the same over random pruning).",
            "a short sequence takes longer reduced than full, and longer than with random tokens pruned",
            {f"ln time / full, N = {short}": interval(ratio[0]), "ln time / random": interval(ratio[0] - control[0])},
            SMALLEST,
            {"time / full": times},
        ),
        judged(
            13,
            "overhead_exceeds_gain_when_merged_once",
            f"so it can where half of the tokens are merged in the first layer alone (measured: the same at N = {short}, without control; "
            "the first design of this claim, which a pilot refuted before merging in every layer, as ToMe does, was put in its place).",
            "a short sequence takes longer reduced than full",
            {f"ln time / full, N = {short}": interval(np.log(cell["tome_once"][0]))},
            SMALLEST,
        ),
        judged(
            13,
            "reduction_pays_when_long",
            f"from a break-even N on it does not {where} (measured: ln of the time of the full pass over that of the reduced one, at "
            f"N = {long}; break-even N by method and batch size, null if slower at the longest, the shortest N if always faster).",
            "a long sequence takes less time reduced than full",
            {f"ln full / time, N = {long}": interval(-ratio[-1])},
            SMALLEST,
            {"break-even N": break_evens(measured)},
        ),
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Ratio of times against N at the smallest batch size."""
    cell = measured["cells"][0]
    for name, (label, color) in METHODS.items():
        band(axes, cell["lengths"], np.array(cell[name]).T, label, color, marker="o", markersize=3)
    reference(axes, 1.0, "all tokens")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="tokens N",
        ylabel="time / time with all tokens",
        title=f"C13 overhead, batch {measured['batches'][0]}",
    )
    axes.legend()
