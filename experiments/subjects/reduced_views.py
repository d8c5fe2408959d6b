"""What is left of a real vision transformer's view when tokens are reduced: of its CLS, of what it retrieves, of a layer's spectrum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.subjects.reduced_vision import BATCH
from lexinv.merging.methods import METHODS, apply
from lexinv.merging.spectral import spectral_distance, token_graph
from lexinv.nn.reduced import Reduced, Seen
from lexinv.nn.vision_transformer import Encoded, VisionConfig, encode


@dataclass(frozen=True, eq=False)
class World:
    """A model, and images [units, images, ...] with labels [units, images], or without."""

    model: VisionConfig
    params: Any
    images: np.ndarray
    labels: np.ndarray | None = None

    def read(self, see: Callable[[Any], Encoded], unit: int) -> np.ndarray:
        """Logits of a unit's images, or their CLS at length one."""
        starts = range(0, len(self.images[unit]), BATCH)
        found = [see(jnp.asarray(self.images[unit][at : at + BATCH])) for at in starts]
        if self.labels is not None:
            return np.concatenate([np.asarray(one.logits) for one in found])
        cls = np.concatenate([np.asarray(one.tokens[:, 0]) for one in found])
        return cls / np.linalg.norm(cls, axis=-1, keepdims=True)


def whole(world: World) -> Callable[[Any], Encoded]:
    """The model that keeps all its tokens."""
    see = jax.jit(lambda params, images: encode(world.model, params, images))
    return lambda images: see(world.params, images)


def unreduced(world: World) -> list[float]:
    """By unit: accuracy, or how often the nearest other cut is of the same photograph."""
    seen = [world.read(whole(world), unit) for unit in range(len(world.images))]
    if world.labels is not None:
        return [round(float((s.argmax(1) == own).mean()), 5) for s, own in zip(seen, world.labels, strict=True)]
    return [retrieved(one, np.stack(seen), unit) for unit, one in enumerate(seen)]


def retrieved(seen: np.ndarray, bank: np.ndarray, unit: int) -> float:
    """How often the nearest of all cuts but the same one, all seen unreduced, is of the same photograph."""
    similar = np.einsum("cw,upw->cup", seen, bank)
    similar[np.arange(len(seen)), unit, np.arange(len(seen))] = -np.inf
    nearest = similar.reshape(len(seen), -1).argmax(axis=1) // bank.shape[1]
    return round(float((nearest == unit).mean()), 5)


def measure_in(world: World, ratios: Sequence[float]) -> Callable[[str, int], dict[str, list[float]]]:
    """measure(arm, unit) of `measured`, by ratio: what is `kept`, and without labels what is `retrieved`, and of merging the `distance`.

    arm: "world/method", or "world/method/other-sizes" where attention treats sizes as the method's authors do not.
    """

    @lru_cache(len(ratios))
    def reduced(method: str, ratio: float, other_sizes: bool) -> Callable[[Any], Encoded]:
        sized = METHODS[method].proportional != other_sizes
        return apply(world.model, world.params, method, ratio, jax.random.key(0), sized)

    @cache
    def bank() -> np.ndarray:
        see = whole(world)
        return np.stack([world.read(see, unit) for unit in range(len(world.images))])

    @cache
    def graphs(unit: int) -> list[np.ndarray]:
        """Of the patches' keys in the first layer, by image."""

        def look(seen: Seen) -> Reduced:
            return Reduced(seen.stream, seen.size, jnp.mean(seen.keys, axis=2)[:, world.model.protected :])

        spy = (look, *[None] * (world.model.layers.depth - 1))
        see = jax.jit(lambda params, images: encode(world.model, params, images, spy).handed_on[0])
        return [token_graph(np.asarray(one)) for one in see(world.params, jnp.asarray(world.images[unit]))]

    def distance(see: Callable[[Any], Encoded], unit: int) -> float:
        plan = see(jnp.asarray(world.images[unit])).handed_on[0]
        first, targets = world.model.protected, plan.anchor.shape[1] - world.model.protected
        assigns = np.asarray(plan.assign)[:, first:] - first
        found = [spectral_distance(*pair, targets) for pair in zip(graphs(unit), assigns, strict=True)]
        return round(float(np.mean(found)), 5)

    def measure(arm: str, unit: int) -> dict[str, list[float]]:
        _, method, *other = arm.split("/")
        views = [reduced(method, ratio, bool(other)) for ratio in ratios]
        seen = [world.read(see, unit) for see in views]
        if world.labels is not None:
            return {"kept": [round(float((one.argmax(1) == world.labels[unit]).mean()), 5) for one in seen]}
        found = {
            "kept": [round(float((one * bank()[unit]).sum(-1).mean()), 6) for one in seen],
            "retrieved": [retrieved(one, bank(), unit) for one in seen],
        }
        if METHODS[method].merges:
            found["distance"] = [distance(see, unit) for see in views]
        return found

    return measure
