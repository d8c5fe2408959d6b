"""Meshes of devices: data-parallel and fully sharded training with an unchanged train step."""

from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from lexinv.training.state import TrainState
from lexinv.validation import require

AXES = ("data", "fsdp")


@dataclass(frozen=True)
class MeshConfig:
    """`data * fsdp` devices share each batch; the `fsdp` among them also share parameters and optimiser moments."""

    data: int = 1
    fsdp: int = 1


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over the first `data * fsdp` devices. Raises `InvalidConfig` if there are not so many."""
    require(config.data >= 1, "mesh.data", config.data, "at least 1")
    require(config.fsdp >= 1, "mesh.fsdp", config.fsdp, "at least 1")
    count, devices = config.data * config.fsdp, jax.devices()
    require(count <= len(devices), "mesh", config, f"data * fsdp of at most the {len(devices)} devices there are")
    return jax.make_mesh((config.data, config.fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices[:count])


def shard_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Place the state on the mesh: each array divided over `fsdp` along its largest axis that `fsdp` divides, or copied.

    Moments have their parameter's shape, so they are divided like it. Step and key are copied to every device.
    """
    return jax.device_put(state, state_shardings(state, mesh))


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Where `shard_state` places each leaf; the state may be one of shapes."""
    copied = NamedSharding(mesh, PartitionSpec())
    divided = jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf.shape, mesh.shape["fsdp"])), state)
    return divided._replace(step=copied, key=copied)


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Divide the rows, axis 1 of every [K, B, ...], over all devices of the mesh.

    Raises `InvalidConfig` if there are not equally many rows for every device.
    """
    for leaf in jax.tree.leaves(batch):
        allowed = f"a multiple of the mesh's {mesh.size} devices"
        require(leaf.shape[1] % mesh.size == 0, "batch_size", leaf.shape[1], allowed)
    return jax.device_put(batch, batch_sharding(mesh))


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
