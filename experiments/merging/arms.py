"""Arms of an experiment trained as one population: one program for all arms and seeds, since compiling is what small models cost."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.drawn_training import train_on_draws
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from lexinv.training.metrics import read_metrics

ArmLoss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""loss(learned, given, key) -> (loss, metrics). `given` is what is not trained; its "arm" is the place of the arm among all, float32."""


def train_arms(
    name: str,
    names: Sequence[str],
    starts: dict[str, tuple[Any, Any]],
    loss: ArmLoss,
    training: Training,
    workspace: Workspace,
    tokens_per_example: int = 1,
) -> dict[str, list[Any]]:
    """Parameters after training by arm, a tree for each seed.

    names: of all arms that there are, whose places `given["arm"]` holds. starts: what each of these arms begins with and is given, stacked
    over `training.seeds`. Arms of a seed share what their starts share, and draw their batches independently. Starts of as many arms give
    the same program, which the cache of compiled programs then has.
    """
    seeds = training.seeds
    places = {arm: list(names).index(arm) for arm in starts}
    members = [
        {"learned": learned, "given": given | {"arm": jnp.full(len(seeds), float(places[arm]))}}
        for arm, (learned, given) in starts.items()
    ]
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *members)
    own = tuple(len(names) * seed + place for place in places.values() for seed in seeds)

    def member_loss(params: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return loss(params["learned"], jax.lax.stop_gradient(params["given"]), key)

    found = train_on_draws(name, together, member_loss, replace(training, seeds=own), workspace, tokens_per_example)
    trained = [params["learned"] for params in found]
    return {arm: trained[i * len(seeds) : (i + 1) * len(seeds)] for i, arm in enumerate(starts)}


def courses(
    name: str, arms: Sequence[str], metrics: Sequence[str], workspace: Workspace
) -> dict[str, dict[str, np.ndarray]]:
    """By arm and metric, in the order of training: the logged values [seeds, steps]."""
    lines = [line for line in read_metrics(workspace.folder(name) / "metrics.jsonl") if metrics[0] in line]
    found = {metric: np.array([line[metric] for line in lines]).T for metric in metrics}
    parts = {metric: np.split(values, len(arms)) for metric, values in found.items()}
    return {arm: {metric: parts[metric][i] for metric in metrics} for i, arm in enumerate(arms)}


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of single seeds as one with a leading axis of seeds."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
