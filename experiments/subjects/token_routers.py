"""Routers that are trained to tell which tokens of a small model change what is said, and the scores that they compete with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from experiments.harness.arms import train_arms
from experiments.harness.training import Training, stacked
from experiments.harness.workspace import Workspace
from lexinv.decoding.routing import (
    Features,
    aleatoric,
    entropy,
    features,
    initialize_router,
    margin,
    router,
    router_loss,
)
from lexinv.nn.language_model import Params
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count

SCORES = {"entropy": entropy, "margin": margin, "aleatoric": aleatoric}


@dataclass(frozen=True)
class RouterConfig(Checked):
    """A residual MLP, see `lexinv.decoding.routing.router`; a seed of its training for each pair of models, or of runs on one pair."""

    width: Count = 64
    blocks: Count = 2
    training: Training = Training(
        steps=600,
        batch_size=256,
        seeds=(0, 1, 2),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50),
        steps_per_dispatch=50,
    )

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        drawn = self.training.mesh.devices == self.training.microbatches == 1
        yield drawn, "training", "one device and one microbatch: labels are drawn inside the step"


TINY: dict[str, Any] = {
    "router.width": 8,
    "router.blocks": 1,
    "router.training.steps": 20,
    "router.training.seeds": (0, 1),
    "router.training.batch_size": 16,
    "router.training.optimizer.warmup_steps": 5,
    "router.training.steps_per_dispatch": 20,
}
"""Of a configuration that holds it as `router`."""


def constant(given: Any, step: Array, small: Array, large: Array) -> Array:
    return jnp.full(small.shape[:1], given)


def at_random(given: Any, step: Array, small: Array, large: Array) -> Array:
    return jax.random.uniform(jax.random.fold_in(given[0], step), small.shape[:1]) - given[1]


def learned(given: Any, step: Array, small: Array, large: Array) -> Array:
    """given: parameters of a router, what `features` reads beside the logits, and a threshold."""
    params, read, threshold = given
    return router(params, features(small, *read)) - threshold


ROUTES: dict[str, Callable[..., Array]] = {
    name: lambda given, step, small, large, score=score: score(small) - given[0] for name, score in SCORES.items()
}
"""given: a threshold alone."""


def trained_routers(
    name: str,
    config: RouterConfig,
    arms: dict[str, list[tuple[Features, Bool[np.ndarray, "texts steps"]]]],
    workspace: Workspace,
) -> dict[str, list[Params]]:
    """By arm a router for each seed, of what it reads of every token and whether that one changes what is said."""

    def start(seed: int, given: Features, labels: np.ndarray) -> tuple[Params, dict[str, Any]]:
        rows = jax.tree.map(lambda x: jnp.reshape(x, (labels.size, -1)), given)
        weight = jnp.float32((labels.size - labels.sum()) / max(labels.sum(), 1))
        begun = initialize_router(jax.random.key(seed), rows, config.width, config.blocks)
        return begun, {"rows": rows, "labels": jnp.asarray(labels.ravel(), jnp.float32), "weight": weight}

    def loss(params: Params, given: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        chosen = jax.random.randint(key, (config.training.batch_size,), 0, len(given["labels"]))
        rows = jax.tree.map(lambda x: x[chosen], given["rows"])
        return router_loss(router(params, rows), given["labels"][chosen] > 0, given["weight"]), {}

    seeds = config.training.seeds
    starts = {
        arm: stacked([start(seed, *one) for seed, one in zip(seeds, found, strict=True)]) for arm, found in arms.items()
    }
    return train_arms(name, list(starts), starts, loss, config.training, workspace)
