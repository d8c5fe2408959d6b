"""Several members (seeds, learning rates) trained in one program: one compile, one dispatch."""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from lexinv.randomness import threefry
from lexinv.training.state import TrainState
from lexinv.validation import require


def population_here() -> Literal["map", "vmap"]:
    """How the members of a population are computed on the default backend (`lexinv.training.step.make_train_step`).

    "map", one after another, on the CPU, whose cores one member keeps busy; "vmap", together, elsewhere.
    """
    return "map" if jax.default_backend() == "cpu" else "vmap"


def over_members(function: Callable[[PyTree], PyTree], members: PyTree) -> PyTree:
    """`function` of every member of a stacked tree, stacked, as `population_here` says. Keys have to be threefry ones."""
    return jax.lax.map(function, members) if population_here() == "map" else jax.vmap(function)(members)


def create_population(init_fn: Callable[..., TrainState], seeds: Sequence[int], *values: Sequence[float]) -> TrainState:
    """`init_fn(threefry(jax.random.key(seed)))` for every seed, stacked: each leaf gets a leading axis of `len(seeds)` members.

    Each of `values` holds a float32 for every member, handed to `init_fn` after the key: what else the members differ in, such as the
    learning rate of `lexinv.training.optimizers.scaled_in_state`. Raises `InvalidConfig` if there are more or fewer than seeds.

    On the CPU one seed after another, also since batched LAPACK calls of one program (such as the QR behind `jax.random.orthogonal`) may
    wait for each other's threads forever where there are few cores (seen with jax 0.10.2 and two).
    """
    for numbers in values:
        require(len(numbers) == len(seeds), "values", numbers, f"a number for each of {len(seeds)} members")
    keys = jnp.stack([threefry(jax.random.key(seed)) for seed in seeds])
    members = (keys, *(jnp.asarray(numbers, jnp.float32) for numbers in values))
    return jax.jit(lambda members: over_members(lambda one: init_fn(*one), members))(members)


def member(tree: PyTree, index: int) -> PyTree:
    """One member's state or parameters out of a population's."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
