"""What is left of a real vision transformer's view when tokens are reduced: its CLS, what it retrieves, a dense map, a spectrum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.subjects.pretrained_vision import displayed
from experiments.subjects.reduced_vision import BATCH
from lexinv.merging.dense_head import DenseHead, every_patch, importance_map
from lexinv.merging.methods import apply
from lexinv.merging.plan import Plan, composed
from lexinv.merging.spectral import spectral_distance, token_graph
from lexinv.nn.reduced import Reduced, Seen
from lexinv.nn.vision_transformer import Encoded, VisionConfig, encode


@dataclass(frozen=True, eq=False)
class World:
    """A model, and images [units, images, ...] with labels [units, images], or without; then perhaps a dense head."""

    model: VisionConfig
    params: Any
    images: np.ndarray
    labels: np.ndarray | None = None
    head: DenseHead | None = None

    def read(self, see: Callable[[Any], Encoded], unit: int) -> np.ndarray:
        """Logits of a unit's images, or their CLS at length one."""
        starts = range(0, len(self.images[unit]), BATCH)
        found = (see(jnp.asarray(self.images[unit][at : at + BATCH])) for at in starts)
        return np.concatenate([unit_cls(one) if self.labels is None else np.asarray(one.logits) for one in found])


def unit_cls(encoded: Encoded) -> np.ndarray:
    """CLS of each image at length one."""
    cls = np.asarray(encoded.tokens[:, 0])
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


def measure_in(
    world: World, views: Callable[[str], list[Callable[[Any], Encoded]]], spectra: Mapping[str, int] | None = None
) -> Callable[[str, int], dict[str, Any]]:
    """measure(arm, unit) of `measured`: of each of the arm's views what is `kept`, without labels what is `retrieved`.

    Of the map of a dense head, which reads every patch (`every_patch`), 1 less the mean absolute difference from the whole model's (`map`).

    views: the reduced encoders of an arm. spectra: by arm the place of the view whose first layer's spectral `distance` is measured.
    """
    of, spectra, look = lru_cache(1)(views), spectra or {}, whole(world)

    @cache
    def bank() -> np.ndarray:
        return np.stack([world.read(look, unit) for unit in range(len(world.images))])

    @jax.jit
    def mapped(head: Any, encoded: Encoded) -> Any:
        return importance_map(head, every_patch(world.model, encoded))

    @cache
    def whole_map(unit: int) -> np.ndarray:
        return np.asarray(mapped(world.head, look(jnp.asarray(world.images[unit]))))

    @cache
    def graphs(unit: int) -> list[np.ndarray]:
        """Of the patches' keys in the first layer, by image."""

        def look(seen: Seen) -> Reduced:
            return Reduced(seen.stream, seen.size, jnp.mean(seen.keys, axis=2)[:, world.model.protected :])

        spy = (look, *[None] * (world.model.layers.depth - 1))
        see = jax.jit(lambda params, images: encode(world.model, params, images, spy).handed_on[0])
        return [token_graph(np.asarray(one)) for one in see(world.params, jnp.asarray(world.images[unit]))]

    def distance(plan: Plan, unit: int) -> float:
        first, targets = world.model.protected, plan.anchor.shape[1] - world.model.protected
        assigns = np.asarray(plan.assign)[:, first:] - first
        found = [spectral_distance(*pair, targets) for pair in zip(graphs(unit), assigns, strict=True)]
        return round(float(np.mean(found)), 5)

    def measure(arm: str, unit: int) -> dict[str, Any]:
        if world.labels is not None:
            logits = [world.read(see, unit) for see in of(arm)]
            return {"kept": [round(float((one.argmax(1) == world.labels[unit]).mean()), 5) for one in logits]}
        images = jnp.asarray(world.images[unit])
        encoded = [see(images) for see in of(arm)]
        seen = [unit_cls(one) for one in encoded]
        found: dict[str, Any] = {
            "kept": [round(float((one * bank()[unit]).sum(-1).mean()), 6) for one in seen],
            "retrieved": [retrieved(one, bank(), unit) for one in seen],
        }
        if world.head is not None:
            apart = [np.abs(mapped(world.head, one) - whole_map(unit)).mean() for one in encoded]
            found["map"] = [round(float(1 - each), 6) for each in apart]
        if arm in spectra:
            found["distance"] = distance(encoded[spectra[arm]].handed_on[0], unit)
        return found

    return measure


def pictured(world: World, units: Mapping[int, str], methods: Sequence[str], ratio: float) -> list[dict[str, Any]]:
    """The first image of some units, labelled, and by method the group of every patch after the last layer, -1 for pruned ones."""
    images, first, groups = np.stack([world.images[unit, 0] for unit in units]), world.model.protected, {}
    for method in methods:
        plan = composed(
            apply(world.model, world.params, method, ratio, jax.random.key(0))(jnp.asarray(images)).handed_on
        )
        groups[method] = np.where(plan.weight > 0, plan.assign - first, -1)[:, first:]
    return [
        {
            "image": displayed(images[at], world.model.patches).tolist(),
            "label": label,
            "groups": {method: of[at].tolist() for method, of in groups.items()},
        }
        for at, label in enumerate(units.values())
    ]


def log_gain(kept: np.ndarray, other: np.ndarray | float) -> np.ndarray:
    """ln of the error of another over one's own, errors being 1 - kept and at least the 1e-6 to which `kept` is rounded."""
    return np.log(np.maximum(1 - other, 1e-6) / np.maximum(1 - kept, 1e-6))
