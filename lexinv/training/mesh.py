"""Meshes of devices: data-parallel, fully sharded and tensor-parallel training with an unchanged train step.

A mesh may lie over the devices of several processes, on one machine or many. Each runs the same program, which begins with
`jax.distributed.initialize(coordinator_address="HOST:PORT", num_processes=N, process_id=I)` (no arguments on TPU pods, Slurm and
Open MPI, where JAX finds them itself; on CPUs also `jax.config.update("jax_cpu_collectives_implementation", "gloo")` before it).
From then on `jax.devices()` are those of all processes. All of them make the same mesh and the same initial state, load their
`process_rows` of every batch, and call `fit` with a directory that all of them can read and write. Afterwards
`lexinv.training.processes.whole` gives each of them all of the parameters, and `agree` the first's answer to what all must do alike.
`python -m experiments run NAME PRESET --distributed HOST:PORT,N,I` does all this for an experiment.
"""

import math
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int64, PyTree

from lexinv.nn.sharding import BATCH_AXES, MODEL_AXIS
from lexinv.training.state import TrainState
from lexinv.validation import require

AXES = (*BATCH_AXES, MODEL_AXIS)

LOGICAL_AXES = {
    **dict.fromkeys(("query", "key", "value"), ("embed", "heads")),
    **dict.fromkeys(("query_bias", "key_bias", "value_bias", "smear"), ("heads",)),
    **dict.fromkeys(("query_convolution", "key_convolution"), ("taps", "heads")),
    "relative_bias": ("buckets", "heads"),
    "output": ("heads", "embed"),
    **dict.fromkeys(("mlp_in", "mlp_gate"), ("embed", "mlp")),
    "mlp_in_bias": ("mlp",),
    "mlp_out": ("mlp", "embed"),
    **dict.fromkeys(("table", "output_table"), ("vocab", "embed")),
    "encoder": ("embed", "latents"),
    "decoder": ("latents", "embed"),
    **dict.fromkeys(("encoder_bias", "threshold", "log_magnitude", "magnitude_bias"), ("latents",)),
    **dict.fromkeys(("tokens_since_fired", "budgets"), ("latents",)),
}
"""What the last axes of an array count, by its name in `lexinv.nn` and `lexinv.sae`. `heads`: the channels of all heads, head by head."""

RULES = dict.fromkeys(("heads", "mlp", "vocab", "latents"), MODEL_AXIS)
"""Which mesh axis a logical axis is divided over. Others are copied over `model`."""


@dataclass(frozen=True)
class MeshConfig:
    """`data * fsdp * model` devices.

    The rows of each batch are divided over `data * fsdp` of them. The `fsdp` among these also share parameters and optimiser moments.
    The `model` devices of each group have the same rows and share the heads, the hidden units of MLPs, the vocabulary and the latents
    (Shoeybi et al. 2019): parameters, moments, activations and the work on them.
    """

    data: int = 1
    fsdp: int = 1
    model: int = 1

    @property
    def batch_parts(self) -> int:
        """Into how many parts the rows of a batch are divided."""
        return self.data * self.fsdp

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.model


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over the first `data * fsdp * model` devices. Raises `InvalidConfig` if there are not so many.

    Of several processes none may be left without a device, since all wait for each other: the mesh then has all devices.
    """
    for axis in AXES:
        require(getattr(config, axis) >= 1, f"mesh.{axis}", getattr(config, axis), "at least 1")
    count, devices, product = config.devices, jax.devices(), " * ".join(AXES)
    require(count <= len(devices), "mesh", config, f"{product} of at most the {len(devices)} devices there are")
    if jax.process_count() > 1:
        every = f"{product} of all {len(devices)} devices of the {jax.process_count()} processes"
        require(count == len(devices), "mesh", config, every)
    shape = (config.data, config.fsdp, config.model)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:count])


def shard_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Place the state on the mesh, as `state_shardings` says. Of several processes all have to give the same state."""
    place = jax.device_put if jax.process_count() == 1 else _place_part
    return jax.tree.map(place, state, state_shardings(state, mesh))


def _place_part(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """This process's part of an array that is whole on every process, as `device_put` does not do for it."""
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            _place_part(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf)
        )
    return jax.make_array_from_callback(leaf.shape, sharding, np.asarray(leaf).__getitem__)


def state_shardings(state: TrainState, mesh: Mesh | AbstractMesh) -> TrainState:
    """Where `shard_state` places each leaf; the state may be one of shapes, and the mesh one without devices.

    An array with a name in `LOGICAL_AXES` is divided by `RULES`, whatever axes (layers, members) come before the named ones; an axis that
    its mesh axis does not divide stays whole, as the vocabulary of characters often does. Then `fsdp` divides the largest axis left that
    it can. Moments end in the name of their parameter and have its shape, so they are divided like it. Step and key are copied.
    """
    copied = NamedSharding(mesh, PartitionSpec())
    divided = jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(_name(path), leaf.shape, mesh)), state
    )
    return divided._replace(step=copied, key=copied)


def process_rows(mesh: Mesh, batch_size: int) -> Int64[np.ndarray, " rows"]:
    """Which rows of a batch the devices of this process hold, ascending: all of them where there is one process.

    Raises `InvalidConfig` if there are not equally many rows for every part of a batch.
    """
    _require_divisible(batch_size, mesh)
    held = batch_sharding(mesh).addressable_devices_indices_map((1, batch_size)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index[1]] for index in held if index is not None]))


def shard_batch(batch: PyTree, mesh: Mesh, batch_size: int | None = None) -> PyTree:
    """Divide the rows, axis 1 of every [K, B, ...], over `data` and `fsdp`; each part is copied to the devices along `model`.

    `batch` holds all rows, on every process the same, or, if `batch_size` is given, only the `process_rows` of so many.
    No process waits for another one here, so that it may run in a thread that reads ahead.
    Raises `InvalidConfig` if there are not equally many rows for every part, or other rows than those of the process.
    """
    for leaf in jax.tree.leaves(batch):
        _require_divisible(leaf.shape[1] if batch_size is None else batch_size, mesh)
        held = leaf.shape[1] if batch_size is None else len(process_rows(mesh, batch_size))
        require(leaf.shape[1] == held, "batch", leaf.shape, f"the {held} rows of this process")
    sharding = batch_sharding(mesh)

    def place(leaf: np.ndarray | jax.Array) -> jax.Array:
        whole = (leaf.shape[0], batch_size or leaf.shape[1], *leaf.shape[2:])
        return jax.make_array_from_process_local_data(sharding, leaf, whole)

    return jax.tree.map(place, batch)


def _require_divisible(rows: int, mesh: Mesh) -> None:
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    require(rows % parts == 0, "batch_size", rows, f"a multiple of the mesh's data * fsdp = {parts}")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where `shard_batch` places each leaf."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def _name(path: tuple) -> str:
    """The key or field that an array is kept under."""
    return str(getattr(path[-1], "key", getattr(path[-1], "name", "")))


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    logical = LOGICAL_AXES.get(name, ())
    if len(logical) > len(shape):  # something else of this name
        logical = ()
    over = [None] * (len(shape) - len(logical)) + [RULES.get(axis) for axis in logical]

    def divides(axis: int, mesh_axis: str) -> bool:
        parts = mesh.shape[mesh_axis]
        return parts > 1 and shape[axis] > 0 and shape[axis] % parts == 0

    over = [at if at is not None and divides(axis, at) else None for axis, at in enumerate(over)]
    free = [axis for axis, at in enumerate(over) if at is None and divides(axis, "fsdp")]
    if free:
        over[max(free, key=lambda axis: shape[axis])] = "fsdp"
    # Without trailing None, as JAX writes it itself: to the step's cache any other spelling is another input.
    while over and over[-1] is None:
        over.pop()
    return PartitionSpec(*over)
