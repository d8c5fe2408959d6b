"""A limit: scoring tokens and rearranging them may cost more than fewer tokens save, where sequences are short.

Kong et al. 2026 (arXiv 2505.18227), section 7; claim C13 of method card token-reduction-beyond-efficiency. An encoder loses half of its
tokens, an equal number after the attention of every layer, as ToMe is published, with random pruning on the same schedule as the control;
or all of them at once in its first layer, the first design of this claim, which a pilot refuted before merging in every layer was put in
its place. Everything is timed in one process in turns, so that what disturbs the machine disturbs all sides.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, band, panels, reference
from experiments.harness.turns import take_turns
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from lexinv.merging.bipartite import bipartite_matching
from lexinv.merging.diversity import diversity_prune
from lexinv.merging.ranking import prune_at_random
from lexinv.merging.reduction import Method, reduction
from lexinv.nn.reduced import Reduction, run_layers
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.nn.vision_transformer import LAYERS
from lexinv.randomness import threefry
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts, Positive, Seeds

PAPERS = ("kong2025token",)
METHODS = {
    "random": ("random, every layer", GREY),
    "tome": ("ToMe, every layer", BLUE),
    "tome_once": ("ToMe, once", ORANGE),
    "divprune": ("DivPrune, once", GREEN),
}
SMALLEST = 0.05
"""The least effect that matters, in logarithms of time: about 5 %."""


@dataclass(frozen=True)
class Config(Checked):
    """lengths: tokens N, rising. batches: rising. most_pairs: cells with more than so many pairs of tokens in all are left out.

    rounds: turns of every side, of which the median counts. turn_seconds: a turn repeats calls of a cell for about so long.
    """

    lengths: Counts = (16, 64, 256, 1024, 2048)
    batches: Counts = (1, 64)
    most_pairs: Count = 1 << 22
    depth: Count = 4
    width: Count = 64
    heads: Count = 4
    rounds: Count = 3
    turn_seconds: Positive = 0.02
    seeds: Seeds = (0, 1, 2, 3, 4)

    def checks(self):
        for field in ("lengths", "batches"):
            yield list(getattr(self, field)) == sorted(getattr(self, field)), field, "rising numbers"
        whole = all(length % (2 * self.depth) == 0 for length in self.lengths)
        yield whole, "lengths", f"multiples of {2 * self.depth}: half, over {self.depth} layers"
        most = self.batches[0] * self.lengths[-1] ** 2
        yield self.most_pairs >= most, "most_pairs", f"at least the smallest batch's {most}"

    @property
    def layers(self) -> TransformerConfig:
        return replace(LAYERS, depth=self.depth, width=self.width, heads=self.heads, mlp_width=4 * self.width)

    def lengths_of(self, batch: int) -> list[int]:
        """The lengths that are timed at this batch size."""
        return [length for length in self.lengths if batch * length**2 <= self.most_pairs]


PRESETS = presets(
    Config(),
    smoke={
        "lengths": (16,),
        "batches": (1,),
        "depth": 2,
        "width": 8,
        "heads": 2,
        "rounds": 2,
        "turn_seconds": 0.001,
        "seeds": (0, 1),
    },
    quick={"seeds": (0, 1, 2)},
    paper={
        "lengths": (24, 96, 384, 1536),
        "batches": (1, 8, 64),
        "most_pairs": 1 << 28,
        "depth": 12,
        "width": 384,
        "heads": 6,
        "rounds": 20,
        "seeds": tuple(range(10)),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By batch size: seconds of the full forward pass and every method's as a ratio to it, [seeds][lengths]."""
    batches = {f"batch-{batch}": batch for batch in config.batches}
    lengths = {name: config.lengths_of(batch) for name, batch in batches.items()}

    def one(arm: str, seed: int) -> dict[str, list[float]]:
        cells = [time_cell(config, batches[arm], length, seed) for length in lengths[arm]]
        found = {"seconds": [np.median(cell["full"]) for cell in cells]}
        found |= {name: [np.median(np.divide(cell[name], cell["full"])) for cell in cells] for name in METHODS}
        return {what: [float(f"{value:.4g}") for value in values] for what, values in found.items()}

    arms = measured(workspace, batches, config.seeds, one)
    return {"corpora": {}, "seeds": config.seeds, "lengths": lengths, "arms": arms}


def time_cell(config: Config, batch: int, length: int, seed: int) -> dict[str, list[float]]:
    """Seconds of a call by round, of the full pass ("full") and of every method, all on the same weights and tokens."""
    key = stream(jax.random.key(seed), "overhead")
    one = jnp.zeros((1, 1, config.width))
    layers = jax.vmap(lambda k: Block(config.layers, False).init(k, one, None)["params"])(
        jax.random.split(threefry(key), config.depth)
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


def claims(results: dict[str, Any]) -> list[Claim]:
    """Slower where short, faster where long, at the smallest batch size."""
    arms, (batch, lengths) = Arms(results), next(iter(results["lengths"].items()))
    logs = {name: np.log(arms[batch, name]) for name in METHODS}
    rule = above(0, matters=SMALLEST)
    return [
        Claim(
            "overhead_exceeds_gain_when_short",
            f"C13: The overhead of reduction can exceed its gain for short sequences: {lengths[0]} tokens of which ToMe merges half "
            "over all layers take longer than all of them, and than with random ones pruned.",
            "kong2025token: section 7",
            {"over the full pass": logs["tome"][:, 0], "over random pruning": (logs["tome"] - logs["random"])[:, 0]},
            rule,
            "ln of the ratio of times",
        ),
        Claim(
            "overhead_exceeds_gain_when_merged_once",
            "C13: So it can where half of the tokens are merged in the first layer alone.",
            "kong2025token: section 7",
            {"over the full pass": logs["tome_once"][:, 0]},
            rule,
            "ln of the ratio of times",
        ),
        Claim(
            "reduction_pays_when_long",
            f"C13: From a break-even N on it does not: {lengths[-1]} tokens take less time reduced than full.",
            "kong2025token: section 7",
            {"full pass over ToMe": -logs["tome"][:, -1]},
            rule,
            "ln of the ratio of times",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Ratio of times against N for every batch size."""
    arms, lengths = Arms(results), results["lengths"]
    titles = [name.replace("-", " ") for name in lengths]
    drawn, axes = panels(1, len(lengths), titles=titles)
    for panel, (batch, sizes) in zip(axes, lengths.items(), strict=True):
        for name, (label, color) in METHODS.items():
            band(panel, sizes, arms[batch, name], label, color, marker="o", markersize=3)
        reference(panel, 1.0, "all tokens")
        panel.set(xscale="log", xlabel="tokens N", ylabel="time / time with all tokens", ylim=(0, None))
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
    axes[0].legend(loc="lower left")
    return drawn
