"""What token reduction does to trained Vision Transformers: accuracy, speed, and the spectral distance of the first layer's partition."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.merging.methods import PARTITIONS, reductions
from experiments.subjects.glyph_classifiers import accuracy
from lexinv.data.glyphs import Images
from lexinv.merging.costs import model_flops
from lexinv.merging.plan import Plan, compose
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.merging.spectral import spectral_distance, token_graph
from lexinv.nn.reduced import Reduced, Seen
from lexinv.nn.vision_transformer import VisionConfig, classify

BATCH = 64
"""Images at a time, in evaluation and timing."""


def cost(model: VisionConfig, schedule: tuple[int, ...]) -> float:
    """Multiply-adds of all blocks relative to the unreduced model's."""
    sizes = model.layers.width, model.layers.mlp_width or 4 * model.layers.width
    full = token_counts(model.tokens, (0,) * model.layers.depth)
    return model_flops(token_counts(model.tokens, schedule), *sizes) / model_flops(full, *sizes)


Forward = Callable[[Any, Array, Key[Array, ""]], tuple[Array, list[Plan | None]]]


def reduced(model: VisionConfig, method: str, schedule: tuple[int, ...], proportional: bool = True) -> Forward:
    """(params, pixels, key) -> (logits, plans) of a model in which the method reduces tokens by this schedule."""
    depth, protect = model.layers.depth, model.protected

    def forward(params: Any, pixels: Array, key: Key[Array, ""]) -> tuple[Array, list[Plan | None]]:
        return classify(model, params, pixels, reductions(method, schedule, depth, protect, key), proportional)

    return forward


@dataclass(frozen=True, eq=False)
class Bench:
    """One data set's models and images, and what is measured on them. images: of each seed.

    spectra: of each seed's images, how many graphs are looked at, at most a batch. repeats: timed passes.
    """

    model: VisionConfig
    params: list[Any]
    images: list[Images]
    spectra: int = 32
    repeats: int = 5

    def schedule(self, ratio: float) -> tuple[int, ...]:
        """Tokens removed by each layer."""
        return ratio_schedule(self.model.tokens, self.model.layers.depth, ratio, self.model.protected)

    def forward(self, method: str, schedule: tuple[int, ...], proportional: bool = True) -> Forward:
        """(params, pixels, key) -> (logits, plans) of a method, jitted."""
        return jax.jit(reduced(self.model, method, schedule, proportional))

    @cached_property
    def plain(self) -> Forward:
        """Of the unreduced models."""
        return jax.jit(lambda params, pixels, key: classify(self.model, params, pixels))

    def accuracies(self, forward: Forward) -> list[float]:
        """Of each seed's model on its images."""
        found = []
        for params, images in zip(self.params, self.images, strict=True):
            logits = [
                forward(params, images.pixels[at : at + BATCH], jax.random.key(at))[0]
                for at in range(0, len(images.labels), BATCH)
            ]
            found.append(round(accuracy(jnp.concatenate(logits), images.labels), 5))
        return found

    def measure(self, method: str, ratios: tuple[float, ...], proportional: bool = True) -> dict[str, Any]:
        """A method at every ratio; distance is None for a method that has no partition."""
        found: dict[str, list[Any]] = {"accuracy": [], "distance": [], "speed": []}
        for ratio in ratios:
            forward = self.forward(method, self.schedule(ratio), proportional)
            found["accuracy"].append(self.accuracies(forward))
            if method in PARTITIONS:
                found["distance"].append(self.distances(forward))
            found["speed"].append(self.speed(forward))
        return {**found, "distance": found["distance"] or None}

    def speed(self, forward: Forward) -> float:
        """Throughput relative to the unreduced model: the median over pairs of passes, one of each."""
        batch = self.params[0], self.images[0].pixels[:BATCH], jax.random.key(0)

        def seconds(pass_: Forward) -> float:
            start = time.perf_counter()
            jax.block_until_ready(pass_(*batch)[0])
            return time.perf_counter() - start

        seconds(self.plain), seconds(forward)  # warm
        pairs = [seconds(self.plain) / seconds(forward) for _ in range(self.repeats)]
        return round(float(np.median(pairs)), 3)

    @cached_property
    def graphs(self) -> list[list[np.ndarray]]:
        """Of each seed's first images: the graph of the patches' keys in the first layer."""

        def look(seen: Seen) -> Reduced:
            return Reduced(seen.stream, seen.size, jnp.mean(seen.keys, axis=2)[:, self.model.protected :])

        spy = (look, *[None] * (self.model.layers.depth - 1))
        keys = jax.jit(lambda params, pixels: classify(self.model, params, pixels, spy)[1][0])
        return [
            [token_graph(np.asarray(one)) for one in keys(params, images.pixels[: self.spectra])]
            for params, images in zip(self.params, self.images, strict=True)
        ]

    def distances(self, forward: Forward) -> list[float]:
        """Spectral distance of the first layer's partition, the mean over each seed's first images."""
        protect, found = self.model.protected, []
        for params, images, graphs in zip(self.params, self.images, self.graphs, strict=True):
            plan = next(
                plan for plan in forward(params, images.pixels[:BATCH], jax.random.key(0))[1] if plan is not None
            )
            assigns, targets = np.asarray(plan.assign)[:, protect:] - protect, plan.anchor.shape[1] - protect
            found.append(
                float(np.mean([spectral_distance(g, a, targets) for g, a in zip(graphs, assigns, strict=False)]))
            )
        return [round(value, 5) for value in found]

    def pictures(self, methods: tuple[str, ...], ratio: float) -> list[dict[str, Any]]:
        """Two of the first seed's images, and by method the group of every patch after the last layer, -1 for pruned ones."""
        pixels, protect = self.images[0].pixels[:BATCH], self.model.protected
        groups = {}
        for method in methods:
            plans = self.forward(method, self.schedule(ratio))(self.params[0], pixels, jax.random.key(0))[1]
            whole = reduce(lambda before, after: jax.vmap(compose)(after, before), [p for p in plans if p is not None])
            groups[method] = np.where(whole.weight > 0, whole.assign - protect, -1)[:, protect:]
        return [
            {
                "image": np.clip(np.asarray(pixels[at]) * 255, 0, 255).astype(np.uint8).tolist(),
                "label": int(self.images[0].labels[at]),
                "groups": {method: assign[at].tolist() for method, assign in groups.items()},
            }
            for at in range(2)
        ]
