"""Several members (seeds, learning rates) trained in one program: one compile, one dispatch."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from lexinv.training.state import TrainState
from lexinv.validation import require

FEWEST_HELD = 3


def create_population(init_fn: Callable[..., TrainState], seeds: Sequence[int], *values: Sequence[float]) -> TrainState:
    """`init_fn(jax.random.key(seed))` for every seed, stacked: each leaf gets a leading axis of `len(seeds)` members.

    Each of `values` holds a float32 for every member, handed to `init_fn` after the key: what else the members differ in, such as the
    learning rate of `lexinv.training.optimizers.scaled_in_state`. Raises `InvalidConfig` if there are more or fewer than seeds.

    One seed after another, since batched LAPACK calls of one program (such as the QR behind `jax.random.orthogonal`) may wait for each
    other's threads forever on a CPU of few cores (seen with jax 0.10.2 and two cores).
    """
    for numbers in values:
        require(len(numbers) == len(seeds), "values", numbers, f"a number for each of {len(seeds)} members")
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    members = (keys, *(jnp.asarray(numbers, jnp.float32) for numbers in values))
    return jax.jit(lambda members, rounds: map_members(lambda one: init_fn(*one), members, rounds))(members, len(seeds))


def map_members(function: Callable[[PyTree], PyTree], members: PyTree, rounds: Int[Array, ""] | int) -> PyTree:
    """`function` of one member after another, with its results stacked, as by `jax.lax.map`; leaves are [S, ...].

    A member's results are, bit for bit, the same whichever and how many members there are beside it. XLA would unroll a loop of one or two
    rounds, fuse its body with what is around it, and round otherwise. So `rounds`, which is S, is to be a number that it does not know,
    and members of whom there are few are held beside others that are never computed.
    """
    count = jax.tree.leaves(members)[0].shape[0]
    held = max(count, FEWEST_HELD)
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, *[leaf[:1]] * (held - count)]), members)

    def one(index: Array) -> PyTree:
        return function(jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), padded))

    def put(index: Array, results: PyTree) -> PyTree:
        return jax.tree.map(
            lambda every, leaf: jax.lax.dynamic_update_index_in_dim(every, leaf, index, 0), results, one(index)
        )

    shapes = jax.eval_shape(one, jnp.int32(0))
    empty = jax.tree.map(lambda leaf: jax.lax.full((held, *leaf.shape), 0, leaf.dtype), shapes)
    results = jax.lax.fori_loop(0, rounds, put, empty)
    return jax.tree.map(lambda leaf: leaf[:count], results)


def member(tree: PyTree, index: int) -> PyTree:
    """One member's state or parameters out of a population's."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
