"""Several members (seeds) trained in one program: one compile, one dispatch."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from lexinv.training.state import TrainState


def create_population(init_fn: Callable[[Key[Array, ""]], TrainState], seeds: Sequence[int]) -> TrainState:
    """`init_fn(jax.random.key(seed))` for every seed, stacked: each leaf gets a leading axis of `len(seeds)` members.

    One seed after another, since batched LAPACK calls of one program (such as the QR behind `jax.random.orthogonal`) may wait for each
    other's threads forever on a CPU of few cores (seen with jax 0.10.2 and two cores).
    """
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    return jax.jit(lambda keys: jax.lax.map(init_fn, keys))(keys)


def member(tree: PyTree, index: int) -> PyTree:
    """One member's state or parameters out of a population's."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
