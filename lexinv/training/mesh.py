"""Meshes of devices: data-parallel and fully sharded training with an unchanged train step.

A mesh may lie over the devices of several processes, on one machine or many. Each runs the same program, which begins with
`jax.distributed.initialize(coordinator_address="HOST:PORT", num_processes=N, process_id=I)` (no arguments on TPU pods, Slurm and
Open MPI, where JAX finds them itself; on CPUs also `jax.config.update("jax_cpu_collectives_implementation", "gloo")` before it).
From then on `jax.devices()` are those of all processes. All of them make the same mesh and the same initial state, load their
`process_rows` of every batch, and call `fit` with a directory that all of them can read and write. Afterwards
`lexinv.training.processes.whole` gives each of them all of the parameters, and `agree` the first's answer to what all must do alike.
`python -m experiments run NAME PRESET --distributed HOST:PORT,N,I` does all this for an experiment.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int64, PyTree

from lexinv.training.state import TrainState
from lexinv.validation import require

AXES = ("data", "fsdp")


@dataclass(frozen=True)
class MeshConfig:
    """`data * fsdp` devices share each batch; the `fsdp` among them also share parameters and optimiser moments."""

    data: int = 1
    fsdp: int = 1


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over the first `data * fsdp` devices. Raises `InvalidConfig` if there are not so many.

    Of several processes none may be left without a device, since all wait for each other: the mesh then has all devices.
    """
    require(config.data >= 1, "mesh.data", config.data, "at least 1")
    require(config.fsdp >= 1, "mesh.fsdp", config.fsdp, "at least 1")
    count, devices = config.data * config.fsdp, jax.devices()
    require(count <= len(devices), "mesh", config, f"data * fsdp of at most the {len(devices)} devices there are")
    if jax.process_count() > 1:
        every = f"data * fsdp of all {len(devices)} devices of the {jax.process_count()} processes"
        require(count == len(devices), "mesh", config, every)
    return jax.make_mesh((config.data, config.fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices[:count])


def shard_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Place the state on the mesh: each array divided over `fsdp` along its largest axis that `fsdp` divides, or copied.

    Moments have their parameter's shape, so they are divided like it. Step and key are copied to every device. Of several
    processes all have to give the same state.
    """
    place = jax.device_put if jax.process_count() == 1 else _place_part
    return jax.tree.map(place, state, state_shardings(state, mesh))


def _place_part(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """This process's part of an array that is whole on every process, as `device_put` does not do for it."""
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            _place_part(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf)
        )
    return jax.make_array_from_callback(leaf.shape, sharding, np.asarray(leaf).__getitem__)


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Where `shard_state` places each leaf; the state may be one of shapes."""
    copied = NamedSharding(mesh, PartitionSpec())
    divided = jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf.shape, mesh.shape["fsdp"])), state)
    return divided._replace(step=copied, key=copied)


def process_rows(mesh: Mesh, batch_size: int) -> Int64[np.ndarray, " rows"]:
    """Which rows of a batch the devices of this process hold, ascending: all of them where there is one process.

    Raises `InvalidConfig` if there are not equally many rows for every device.
    """
    _require_divisible(batch_size, mesh)
    held = batch_sharding(mesh).addressable_devices_indices_map((1, batch_size)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index[1]] for index in held if index is not None]))


def shard_batch(batch: PyTree, mesh: Mesh, batch_size: int | None = None) -> PyTree:
    """Divide the rows, axis 1 of every [K, B, ...], over all devices of the mesh.

    `batch` holds all rows, on every process the same, or, if `batch_size` is given, only the `process_rows` of so many.
    No process waits for another one here, so that it may run in a thread that reads ahead.
    Raises `InvalidConfig` if there are not equally many rows for every device, or other rows than those of the process.
    """
    for leaf in jax.tree.leaves(batch):
        _require_divisible(leaf.shape[1] if batch_size is None else batch_size, mesh)
        held = leaf.shape[1] if batch_size is None else batch_size * len(mesh.local_devices) // mesh.size
        require(leaf.shape[1] == held, "batch", leaf.shape, f"the {held} rows of this process")
    sharding = batch_sharding(mesh)

    def place(leaf: np.ndarray | jax.Array) -> jax.Array:
        whole = (leaf.shape[0], batch_size or leaf.shape[1], *leaf.shape[2:])
        return jax.make_array_from_process_local_data(sharding, leaf, whole)

    return jax.tree.map(place, batch)


def _require_divisible(rows: int, mesh: Mesh) -> None:
    require(rows % mesh.size == 0, "batch_size", rows, f"a multiple of the mesh's {mesh.size} devices")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where `shard_batch` places each leaf."""
    return NamedSharding(mesh, PartitionSpec(None, AXES))


def _spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    divisible = [axis for axis, size in enumerate(shape) if size % parts == 0 and size > 0]
    if parts == 1 or not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda axis: shape[axis])
    # Without trailing None, as JAX writes it itself: to the step's cache any other spelling is another input.
    return PartitionSpec(*[None] * largest, AXES[1])
