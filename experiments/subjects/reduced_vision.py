"""What token reduction does to trained Vision Transformers: accuracy, speed, spectral distance of the first layer's partition, groups."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.harness.arms import Arms, by, measured
from experiments.harness.workspace import Workspace
from experiments.subjects.glyph_classifiers import accuracy
from lexinv.data.glyphs import Images
from lexinv.merging.costs import nearest_schedule, relative_flops
from lexinv.merging.methods import METHODS, reductions
from lexinv.merging.plan import Plan, compose
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.merging.spectral import spectral_distance, token_graph
from lexinv.nn.reduced import Reduced, Seen
from lexinv.nn.vision_transformer import VisionConfig, classify

BATCH = 64
"""Images at a time, in evaluation and timing."""
COMPRESSED = 0.85
"""Ratios up to this one are those where methods are told apart."""

Schedule = tuple[int, ...]

LABELS = {
    "tome": "ToMe",
    "random_bipartite": "random bipartite",
    "pitome": "PiToMe",
    "pitome_ordered": "PiToMe, ordered",
    "pitome_paper": "PiToMe, paper's energy",
    "pitome_cls": "PiToMe by CLS attention",
    "pitome_inverted": "PiToMe, inverted energy",
    "tofu": "ToFu",
    "dct": "DCT",
    "diffrate": "DiffRate, fixed",
    "complete_graph": "CrossGET complete graph",
    "mctf": "MCTF criteria",
    "prune_cls": "pruning by CLS attention",
    "diversity": "DivPrune",
    "pivot": "ToDRE, first stage",
    "prune_random": "random pruning",
}
"""Of methods, in figures."""


def flops(model: VisionConfig, schedule: Schedule) -> float:
    """Multiply-adds of all blocks relative to the unreduced model's. schedule: tokens removed by each layer."""
    return float(
        relative_flops(token_counts(model.tokens, schedule), model.layers.width, model.layers.mlp_width)  # type: ignore[arg-type]
    )


def schedule_of(model: VisionConfig, ratio: float) -> Schedule:
    """Tokens removed by each layer that keeps `ratio` of its patches."""
    return ratio_schedule(model.tokens, model.layers.depth, ratio, model.protected)


def at_flops(model: VisionConfig, schedules: Callable[..., Iterable[Schedule]], goal: float) -> Schedule:
    """Of schedules for the model (`even_schedules`, `ratio_schedules`, ...) the one whose relative FLOPs are nearest to `goal`."""
    made = schedules(model.tokens, model.layers.depth, protect=model.protected)
    return nearest_schedule(made, goal, model.tokens, model.layers.width, model.layers.mlp_width)


@partial(jax.jit, static_argnames=("model", "method", "schedule", "proportional", "similar"))
def forward(
    params: Any,
    pixels: Array,
    key: Key[Array, ""],
    model: VisionConfig,
    method: str | None = None,
    schedule: Schedule = (),
    proportional: bool = True,
    similar: float = 1 / 3,
) -> tuple[Array, list[Plan | None]]:
    """(logits, plans) of a model in which the method reduces tokens by this schedule; of the unreduced one without a method."""
    if method is None:
        return classify(model, params, pixels)
    layers = reductions(method, schedule, model.layers.depth, model.protected, key, similar=similar)
    return classify(model, params, pixels, layers, proportional)


def accuracy_of(params: Any, images: Images, model: VisionConfig, *reduced: Any) -> float:
    """Of one model on its images. reduced: method, schedule, proportional, as of `forward`."""
    starts = range(0, len(images.labels), BATCH)
    logits = [forward(params, images.pixels[at : at + BATCH], jax.random.key(at), model, *reduced)[0] for at in starts]
    return round(accuracy(jnp.concatenate(logits), images.labels), 5)


def speed(params: Any, images: Images, repeats: int, model: VisionConfig, *reduced: Any) -> float:
    """Throughput relative to the unreduced model: the median over pairs of passes, one of each."""
    batch = params, images.pixels[:BATCH], jax.random.key(0), model

    def seconds(*reduced: Any) -> float:
        start = time.perf_counter()
        jax.block_until_ready(forward(*batch, *reduced)[0])
        return time.perf_counter() - start

    seconds(), seconds(*reduced)  # warm
    return round(float(np.median([seconds() / seconds(*reduced) for _ in range(repeats)])), 3)


def key_graphs(params: Any, images: Images, count: int, model: VisionConfig) -> list[np.ndarray]:
    """Of the first `count` images: the graph of the patches' keys in the first layer."""

    def look(seen: Seen) -> Reduced:
        return Reduced(seen.stream, seen.size, jnp.mean(seen.keys, axis=2)[:, model.protected :])

    spy = (look, *[None] * (model.layers.depth - 1))
    keys = jax.jit(lambda params, pixels: classify(model, params, pixels, spy)[1][0])(params, images.pixels[:count])
    return [token_graph(np.asarray(one)) for one in keys]


def distance(params: Any, images: Images, graphs: list[np.ndarray], model: VisionConfig, *reduced: Any) -> float:
    """Spectral distance of the first layer's partition, the mean over the images of the graphs (`key_graphs`), at most a batch."""
    plans = forward(params, images.pixels[:BATCH], jax.random.key(0), model, *reduced)[1]
    plan = next(plan for plan in plans if plan is not None)
    assigns = np.asarray(plan.assign)[:, model.protected :] - model.protected
    targets = plan.anchor.shape[1] - model.protected
    found = [spectral_distance(graph, assign, targets) for graph, assign in zip(graphs, assigns, strict=False)]
    return round(float(np.mean(found)), 5)


class World(NamedTuple):
    """A model's parameters and images of each seed."""

    model: VisionConfig
    params: list[Any]
    images: list[Images]


Runs = list[tuple[str | None, Schedule, bool]]
"""Method, schedule, and whether attention is proportional to sizes: what one arm is measured with, one after another."""


def measure_arms(
    world: World, arms: Mapping[str, Runs], seeds: Sequence[int], spectra: int, repeats: int, workspace: Workspace
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """(by arm accuracy, and distance where all tokens have a target [seeds, runs]; by arm the speed [runs] of the first seed).

    spectra: images per seed whose graphs are looked at. repeats: timed passes.
    """

    @cache
    def graphs(at: int) -> list[np.ndarray]:
        return key_graphs(world.params[at], world.images[at], spectra, world.model)

    def measure(arm: str, seed: int) -> dict[str, list[float]]:
        at = seeds.index(seed)
        own, runs = (world.params[at], world.images[at]), arms[arm]
        found = {"accuracy": [accuracy_of(*own, world.model, *run) for run in runs]}
        if all(method is not None and METHODS[method].merges for method, *_ in runs):
            found["distance"] = [distance(*own, graphs(at), world.model, *run) for run in runs]
        return found

    def timed(runs: Runs) -> list[float]:
        return [speed(world.params[0], world.images[0], repeats, world.model, *run) for run in runs]

    speeds = {arm: workspace.cached(f"speed/{arm}", partial(timed, runs)) for arm, runs in arms.items() if runs[0][0]}
    return measured(workspace, arms, seeds, measure), speeds


class Read:
    """Results with arms `data/method` of `measure_arms`: who was run on what, and differences paired by seed."""

    def __init__(self, results: dict[str, Any]):
        self.arms, self.ratios, self.flops = Arms(results), results["ratios"], results["flops"]

    def among(self, data: str, methods: tuple[str, ...]) -> list[str]:
        return [method for method in methods if f"{data}/{method}" in self.arms]

    def of(self, data: str, method: str, metric: str = "accuracy") -> np.ndarray:
        """[seeds, ratios]."""
        return self.arms[f"{data}/{method}", metric]

    def compressed(self, data: str, method: str, metric: str = "accuracy") -> np.ndarray:
        """[seeds]: the mean over the ratios up to COMPRESSED."""
        return self.of(data, method, metric)[:, np.array(self.ratios[data]) <= COMPRESSED].mean(axis=1)

    def gains(self, method: str, other: str) -> dict[str, np.ndarray]:
        """By data and ratio, [seeds]: the accuracy of a method less another's."""
        return {
            name: values
            for data, ratios in self.ratios.items()
            for name, values in by(ratios, self.of(data, method) - self.of(data, other), f"{data}, {{}}").items()
        }

    def losses(self, worse: str, others: tuple[str, ...]) -> dict[str, np.ndarray]:
        """By data and method, [seeds]: accuracy of the others less that of the one, mean of the ratios up to COMPRESSED."""
        return {
            f"{data}, {name}": self.compressed(data, name) - self.compressed(data, worse)
            for data in self.ratios
            for name in self.among(data, others)
        }


def pictures(
    params: Any, images: Images, model: VisionConfig, methods: tuple[str, ...], schedule: Schedule
) -> list[dict[str, Any]]:
    """Two of the images, and by method the group of every patch after the last layer, -1 for pruned ones."""
    pixels, groups = images.pixels[:BATCH], {}
    for method in methods:
        plans = forward(params, pixels, jax.random.key(0), model, method, schedule)[1]
        whole = reduce(lambda before, after: jax.vmap(compose)(after, before), [p for p in plans if p is not None])
        groups[method] = np.where(whole.weight > 0, whole.assign - model.protected, -1)[:, model.protected :]
    return [
        {
            "image": np.clip(np.asarray(pixels[at]) * 255, 0, 255).astype(np.uint8).tolist(),
            "label": int(images.labels[at]),
            "groups": {method: assign[at].tolist() for method, assign in groups.items()},
        }
        for at in range(2)
    ]
