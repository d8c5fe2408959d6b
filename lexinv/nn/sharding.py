"""Where activations lie on a mesh of devices (see `lexinv.training.mesh`), said where XLA would choose worse by itself.

The mesh is that of the arrays: nothing is done to arrays that lie on none.
"""

import math

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

BATCH_AXES = ("data", "fsdp")
"""The axes of a mesh that the rows of a batch are divided over."""
MODEL_AXIS = "model"


def on_mesh(x: Shaped[Array, "..."]) -> bool:
    """Whether an array, as it is traced, lies on such a mesh."""
    return {*BATCH_AXES, MODEL_AXIS} <= set(jax.typeof(x).sharding.mesh.axis_names)


def divide_rows(x: Shaped[Array, "batch ..."]) -> Shaped[Array, "batch ..."]:
    """`x` and its gradient with the rows divided over `BATCH_AXES`, and everything else whole.

    Where parameters are divided over `fsdp`, XLA would otherwise divide the width of activations like theirs, and not the rows.
    """
    return _constrain(x, BATCH_AXES)


def divide_lexica(lexica: Float[Array, "batch vocab dim"]) -> Float[Array, "batch vocab dim"]:
    """Lexica with the rows divided over `BATCH_AXES` and the vocabulary over `MODEL_AXIS`: they are drawn, and nothing else says how."""
    return _constrain(lexica, BATCH_AXES, (MODEL_AXIS,))


def whole_vectors(table: Float[Array, "vocab dim"]) -> Float[Array, "vocab dim"]:
    """`table` with every vector whole on its devices, whatever the vocabulary is divided over.

    Where `fsdp` divides the vectors, XLA would otherwise look up parts of them for the whole batch on every device.
    """
    return _constrain(table, None, ())


def _constrain(x: Array, *axes: tuple[str, ...] | None) -> Array:
    """Each axis of `x` divided over mesh axes, where they divide it; None leaves it to XLA, and axes that are not given stay whole."""
    if not on_mesh(x):
        return x
    mesh = jax.typeof(x).sharding.mesh

    def over(size: int, names: tuple[str, ...] | None):
        if names is None:
            return PartitionSpec.UNCONSTRAINED
        return names if size % math.prod(mesh.shape[name] for name in names) == 0 else None

    spec = PartitionSpec(*map(over, x.shape, axes))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
