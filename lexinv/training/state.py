"""The state of a training run: everything that the next step depends on, besides the data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree


class TrainState(NamedTuple):
    """`step` counts the optimiser updates done; `key` is the root key and never changes during a run.

    `statistics` is what a loss keeps from batch to batch beside the parameters, such as running means; mostly nothing.
    The state of a population has a leading axis of members on every leaf.
    """

    step: Int[Array, "..."]
    params: PyTree
    optimizer_state: PyTree
    key: Key[Array, "..."]
    statistics: PyTree = ()


def create_state(
    params: PyTree, optimizer: optax.GradientTransformation, key: Key[Array, ""], statistics: PyTree = ()
) -> TrainState:
    """The state before the first step.

    `params`, `key` and `statistics` are copied: the train step donates its state, and the caller's arrays must survive that.
    """
    params, key, statistics = jax.tree.map(jnp.copy, (params, key, statistics))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key, statistics)


def parameter_count(params: PyTree[Any]) -> int:
    """Number of scalars in `params`."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
