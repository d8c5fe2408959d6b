"""One way to train the models of every family: seeds and learning rates as one population, or one seed after another on a mesh.

A model gives `start(key) -> params` and `loss(params, batch, key) -> (loss, metrics)`; batches are windows of text, any dataset, or drawn
from the key inside the step. All that is resumed, planned or trained together with other runs goes through `experiments.harness.work`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int64, Key

from experiments.harness.work import MapDataset, Members, Params, Population, Work
from experiments.harness.workspace import Workspace
from lexinv.data.windows import Windows
from lexinv.data.windows import batches as window_batches
from lexinv.randomness import threefry
from lexinv.training.mesh import MeshConfig, make_mesh, process_rows
from lexinv.training.metrics import read_metrics
from lexinv.training.optimizers import OptimizerConfig, make_optimizer, rated_in_state, scaled_in_state
from lexinv.training.population import create_population, member, over_members
from lexinv.training.processes import agree, whole
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import LossFn, TrainStep, make_train_step
from lexinv.training.streams import stream
from lexinv.validation import MOST, Checked, Count, Seeds, require

Batches = Windows | Callable[[int], MapDataset] | None
"""Windows of text, in an order by seed; or `batches(seed)`, a dataset with leaves [K, B, ...] for dispatches of K steps; or None, where
the loss draws a batch from its key. It is then handed {"row": int32[B], "step": int32[B]}: numbers of rows, and the step, B times."""
MANY = 20
"""Steps that one call of a compiled step does at most, where the configuration does not say more."""
Optimizer = Callable[[OptimizerConfig, int, Any], optax.GradientTransformation]
"""`optimizer(config, steps, rate)`, of which only `init` reads the rate."""


@dataclass(frozen=True)
class Training(Checked):
    """How every model of an experiment is trained; each seed decides initialisation, order of the data and what is drawn.

    On a mesh of more than one device the seeds are trained one after another, otherwise as one population.

    steps_per_dispatch: that one call of the compiled step does on the CPU; elsewhere it may do more, see `steps_in_dispatch`.
    """

    steps: Count = 1000
    batch_size: Count = 16
    seeds: Seeds = (0,)
    optimizer: OptimizerConfig = OptimizerConfig()
    microbatches: Count = 1
    steps_per_dispatch: Count = 1
    mesh: MeshConfig = MeshConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        rows, parts = self.batch_size, self.mesh.batch_parts
        yield rows % self.microbatches == 0, "microbatches", f"a divisor of batch_size = {rows}"
        yield parts > 0 and rows % parts == 0, "batch_size", f"a multiple of the mesh's data * fsdp = {parts}"
        yield self.steps % self.steps_per_dispatch == 0, "steps_per_dispatch", f"a divisor of steps = {self.steps}"
        make_optimizer(self.optimizer, self.steps)  # refuses what cannot be meant


def steps_in_dispatch(training: Training, evaluated: bool, backend: str) -> int:
    """Steps that one call of the compiled step does. No number depends on it but when models are evaluated, which is after every call.

    As many as the configuration says on the CPU, and where models are evaluated. Elsewhere, where a small step is computed sooner than it
    is called, the largest multiple of that up to `MANY` that divides the steps into two calls or more.
    """
    stated = training.steps_per_dispatch
    if backend == "cpu" or evaluated:
        return stated
    most = min(MANY, training.steps // 2)
    return max((count for count in range(stated, most + 1, stated) if training.steps % count == 0), default=stated)


def scaled(config: OptimizerConfig, steps: int, rate: Any) -> optax.GradientTransformation:
    """The optimiser at the learning rate 1 with its updates multiplied by the rate: up to rounding `rated_in_state`."""
    return scaled_in_state(make_optimizer(replace(config, learning_rate=1.0), steps), rate)


def train(
    name: str,
    start: Callable[[Key[Array, ""]], Params] | Params,
    loss: LossFn,
    batches: Batches,
    training: Training,
    workspace: Workspace,
    *,
    members: Members | None = None,
    optimizer: Optimizer = rated_in_state,
    tokens: int = 1,
    flops_per_token: float = 0.0,
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
) -> list[Params]:
    """Parameters after training, a tree for each member. Runs in the workspace's folder `name`, resumes there, returns at once when done.

    start: also the parameters themselves, with an axis of members: models to go on with. members: (seed, learning rate) of each; by
    default those of `training`. tokens: of an example, and what each costs, for the speed that is shown. evaluate: of the state of
    all members, before the first step and after every dispatch: {name: [S, ...]}; `evaluations` reads what it gave.

    The learning rate is in the state, so that trainings that differ in it run the same program. A member's numbers depend on which
    others there are by rounding only. Of several processes, which train on one mesh, each gets all of the parameters on its first device:
    they have to fit there, and what is then computed from them is computed in every process alike.

    Raises `InvalidConfig` and `lexinv.training.fit.NonFiniteLoss`, and what `workspace.postpone` raises.
    """
    members = tuple((seed, training.optimizer.learning_rate) for seed in training.seeds) if members is None else members
    (seeds, rates), mesh = zip(*members, strict=True), make_mesh(training.mesh)
    one = batches is not None or training.mesh.devices == training.microbatches == 1
    require(one, "training", training, "one device and one microbatch: batches are drawn inside the step")
    require(
        evaluate is None or mesh.size == 1, "training.mesh", training.mesh, "one device, where models are evaluated"
    )

    count = steps_in_dispatch(training, evaluate is not None, jax.default_backend())

    def begin(key: Key[Array, ""], rate: Any, params: Params = None) -> TrainState:
        params = start(stream(key, "parameters")) if callable(start) else params
        return create_state(params, optimizer(training.optimizer, training.steps, rate), key)

    def states() -> TrainState:
        if callable(start):
            return create_population(begin, seeds, rates)
        return jax.vmap(begin)(
            jnp.stack([jax.random.key(seed) for seed in seeds]), jnp.asarray(rates, jnp.float32), start
        )

    def step(population: Population) -> TrainStep:
        made = optimizer(training.optimizer, training.steps, 1.0)
        return make_train_step(loss, made, microbatches=training.microbatches, population=population)

    def dataset() -> MapDataset:
        return together([member_batches(batches, training, seed, count) for seed in seeds])

    work = Work(
        name,
        workspace,
        training.steps,
        training.batch_size,
        members,
        states,
        step,
        dataset,
        drawn=batches is None,
        mesh=training.mesh,
        tokens=tokens,
        flops_per_token=flops_per_token,
        evaluate=evaluate,
    )
    if mesh.size == 1:
        params = work.run().params
        return [member(params, index) for index in range(len(members))]
    begun, made, rows = jax.jit(begin), step("none"), training.batch_size

    def alone(index: int) -> Params:
        (seed, rate), given = members[index], None if callable(start) else member(start, index)
        single = replace(
            work,
            name=f"{name}/seed-{seed}",
            members=(members[index],),
            states=lambda: begun(jax.random.key(seed), rate, given),
            step=lambda _: made,
            dataset=lambda: member_batches(batches, training, seed, count, process_rows(mesh, rows)),
            population="none",
            held=rows if isinstance(batches, Windows) else None,
        )
        return whole(single.run().params)

    return [alone(index) for index in range(len(members))]


def member_batches(
    batches: Batches, training: Training, seed: int, count: int, held: Int64[np.ndarray, " rows"] | None = None
) -> MapDataset:
    """What one member reads, leaves [K, B, ...] with K = `count`; of windows only the rows that are `held`."""
    import grain

    rows = training.batch_size
    if isinstance(batches, Windows):
        return window_batches(batches, rows, seed, count, held)
    if batches is not None:
        return grouped(batches(seed), count // training.steps_per_dispatch)
    numbers = np.broadcast_to(np.arange(rows, dtype=np.int32), (count, rows))

    def number(index: int) -> dict[str, np.ndarray]:
        steps = np.arange(index * count, (index + 1) * count, dtype=np.int32)
        return {"row": numbers, "step": np.broadcast_to(steps[:, None], (count, rows))}

    return grain.MapDataset.range(MOST // count).map(number)


def grouped(dataset: MapDataset, count: int) -> MapDataset:
    """So many dispatches, leaves [K, B, ...], as one, [count K, B, ...]."""
    import grain

    def joined(index: int) -> Any:
        parts = [dataset[index * count + part] for part in range(count)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return dataset if count == 1 else grain.MapDataset.range(sys.maxsize // count).map(joined)


def together(datasets: Sequence[MapDataset]) -> MapDataset:
    """Datasets of members, leaves [K, B, ...], as those of a population, [K, S, B, ...]."""
    import grain

    def stack(index: int) -> Any:
        return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *[dataset[index] for dataset in datasets])

    return grain.MapDataset.range(sys.maxsize).map(stack)


def initial(start: Callable[[Key[Array, ""]], Params], seeds: Sequence[int]) -> Params:
    """`start(key)` for every seed as `train` makes it, stacked."""
    keys = jnp.stack([stream(threefry(jax.random.key(seed)), "parameters") for seed in seeds])
    return jax.jit(partial(over_members, start))(keys)


def stacked(trees: Sequence[Params]) -> Params:
    """Trees of single members as one with a leading axis of members."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def training_losses(name: str, training: Training, workspace: Workspace) -> Float[np.ndarray, "seeds steps"]:
    """The loss at every step of what `train` trained under this name with the seeds of `training`, in its own units."""
    alone = make_mesh(training.mesh).size == 1
    folders = [name] if alone else [f"{name}/seed-{seed}" for seed in training.seeds]
    losses = agree(
        lambda: [
            [line["loss"] for line in read_metrics(workspace.folder(folder) / "metrics.jsonl") if "loss" in line]
            for folder in folders
        ]
    )
    return np.atleast_3d(losses).swapaxes(1, 2).reshape(len(training.seeds), -1)  # a population logs a list per step


def evaluations(name: str, workspace: Workspace) -> dict[str, Any]:
    """What `evaluate` gave in the course of `train`, by its names: [S, evaluations, ...]; "steps" [evaluations], from 0."""
    lines = [line for line in read_metrics(workspace.folder(name) / "metrics.jsonl") if "evaluation" in line]
    found = [workspace.cached(f"{name}/begun", dict), *(line["evaluation"] for line in lines)]
    courses = {kind: np.stack([one[kind] for one in found], axis=1) for kind in found[0]}
    return {"steps": [0, *(line["step"] for line in lines)], **courses}
