"""Several members (seeds) trained in one program: one compile, one dispatch."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from lexinv.training.state import TrainState


def create_population(init_fn: Callable[[Key[Array, ""]], TrainState], seeds: Sequence[int]) -> TrainState:
    """`init_fn(jax.random.key(seed))` for every seed, stacked: each leaf gets a leading axis of `len(seeds)` members."""
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    return jax.jit(jax.vmap(init_fn))(keys)


def member(tree: PyTree, index: int) -> PyTree:
    """One member's state or parameters out of a population's."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
