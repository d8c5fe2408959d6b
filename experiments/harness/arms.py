"""Arms of an experiment, each measured or trained with every seed: how they are run, kept, and read again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.harness.training import Training, train
from experiments.harness.work import Members, Params
from experiments.harness.workspace import Workspace
from lexinv.training.metrics import read_metrics

ArmLoss = Callable[[Params, Any, Key[Array, ""]], tuple[Array, dict[str, Array]]]
"""loss(learned, given, key) -> (loss, metrics). `given` is what is not trained; its "arm" is the place of the arm among all, float32."""


def measured(
    workspace: Workspace, arms: Iterable[str], seeds: Sequence[int], measure: Callable[[str, int], Mapping[str, Any]]
) -> dict[str, dict[str, list[Any]]]:
    """By arm and metric a list over seeds. `measure(arm, seed)` gives numbers or lists by metric; each call is a stage of the run."""
    found = {}
    for arm in arms:
        rows = workspace.stages(f"arms/{arm}", map(str, seeds), lambda seed, arm=arm: measure(arm, int(seed)))
        found[arm] = by_metric(list(rows.values()))
    return found


def by_metric(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """A dictionary of lists over seeds instead of a dictionary for each seed."""
    return {metric: [row[metric] for row in rows] for metric in rows[0]}


def train_arms(
    name: str,
    names: Sequence[str],
    starts: dict[str, tuple[Params, Any]],
    loss: ArmLoss,
    training: Training,
    workspace: Workspace,
    tokens: int = 1,
) -> dict[str, list[Params]]:
    """Parameters after training by arm, a tree for each seed: one program for all arms, since compiling is what small models cost.

    names: of all arms that there are, whose places `given["arm"]` holds. starts: what each of these arms begins with and is given, stacked
    over `training.seeds`. Arms of a seed share what their starts share, and draw their batches independently. Starts of as many arms give
    the same program, which the cache of compiled programs then has.
    """
    seeds = training.seeds
    places = {arm: list(names).index(arm) for arm in starts}
    parts = [
        {"learned": learned, "given": given | {"arm": jnp.full(len(seeds), float(places[arm]))}}
        for arm, (learned, given) in starts.items()
    ]
    begun = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    rate = training.optimizer.learning_rate
    own: Members = tuple((len(names) * seed + place, rate) for place in places.values() for seed in seeds)

    def member_loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        del batch
        return loss(params["learned"], jax.lax.stop_gradient(params["given"]), key)

    found = train(name, begun, member_loss, None, training, workspace, members=own, tokens=tokens)
    learned = [params["learned"] for params in found]
    return {arm: learned[i * len(seeds) : (i + 1) * len(seeds)] for i, arm in enumerate(starts)}


def courses(
    name: str, arms: Sequence[str], metrics: Sequence[str], workspace: Workspace
) -> dict[str, dict[str, np.ndarray]]:
    """By arm and metric, in the order of `train_arms`: the logged values [seeds, steps]."""
    lines = [line for line in read_metrics(workspace.folder(name) / "metrics.jsonl") if metrics[0] in line]
    found = {metric: np.array([line[metric] for line in lines]).T for metric in metrics}
    parts = {metric: np.split(values, len(arms)) for metric, values in found.items()}
    return {arm: {metric: parts[metric][i] for metric in metrics} for i, arm in enumerate(arms)}


class Arms:
    """Reads them: `arms["topk", "fvu"]` is [seeds, ...]."""

    def __init__(self, results: Mapping[str, Any]):
        self.found: Mapping[str, Mapping[str, Any]] = results["arms"]

    def __getitem__(self, key: tuple[str, str]) -> np.ndarray:
        arm, metric = key
        return np.array(self.found[arm][metric])

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __contains__(self, arm: str) -> bool:
        return arm in self.found


def interpolated(
    x: Float[np.ndarray, "seeds settings"], y: Float[np.ndarray, "seeds settings"], at: np.ndarray | float
) -> np.ndarray:
    """y of each seed where x is `at`, linear in ln x; the nearest setting's where none is beyond."""
    wanted = np.broadcast_to(at, (len(x), *np.shape(at)[1:]))
    rows = []
    for place, row, values in zip(wanted, x, y, strict=True):
        order = np.argsort(row)
        logs = np.log(np.maximum(row[order], 1e-6))
        rows.append(np.interp(np.log(place), logs, values[order]))
    return np.array(rows)


def by(names: Iterable[Any], values: np.ndarray, form: str = "{}") -> dict[str, np.ndarray]:
    """[seeds, names] as [seeds] by name."""
    return {form.format(name): column for name, column in zip(names, values.T, strict=True)}
