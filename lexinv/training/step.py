"""The train step: one jitted function from state and batches to state and metrics, compiled once per run."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from lexinv.randomness import threefry
from lexinv.training.state import TrainState
from lexinv.training.streams import stream
from lexinv.validation import choose, require

Metrics = dict[str, Array]
LossFn = Callable[[PyTree, PyTree, Key[Array, ""]], tuple[Float[Array, ""], Metrics]]
StatisticsLossFn = Callable[[PyTree, PyTree, PyTree, Key[Array, ""]], tuple[Float[Array, ""], tuple[Metrics, PyTree]]]
TrainStep = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def make_train_step(
    loss_fn: LossFn | StatisticsLossFn,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    population: Literal["none", "map", "vmap"] = "none",
    shared_batches: bool = False,
    statistics: bool = False,
) -> TrainStep:
    """The jitted `step(state, batches) -> (state, metrics)`. It donates `state`.

    `loss_fn(params, batch, key)` returns the loss and a dict of scalar metrics; `loss` and `gradient_norm` (before any
    clipping) are added. Every leaf of `batches` is [K, B, ...]: K steps are done in one dispatch, and every metric is
    [K]. Step t draws from `fold_in(stream(state.key, "loss"), t)`, so nothing depends on how steps are cut up.

    `microbatches` divides the B rows into that many slices and averages their gradients and metrics: less memory, on the
    CPU also less time, and the full batch's result within float tolerance where the loss is a mean over equally weighted
    rows, and where its randomness is folded per row from the batch and not from the position in the slice.

    `population`: every leaf of the state has a leading axis of S members, `batches` are [K, S, B, ...], and metrics
    [K, S]. "vmap" computes the members together (accelerators), "map" one after another (CPU). With `shared_batches` all
    members read the same batches, [K, B, ...].

    `statistics`: the loss also keeps `state.statistics`. It is called as `loss_fn(params, statistics, batch, key)` and
    returns (loss, (metrics, statistics after this batch)); not with microbatches, which would not see each other's.

    Raises `InvalidConfig` when traced, before anything is compiled, if `microbatches` does not divide B.
    """
    choose("population", population, ("none", "map", "vmap"))
    require(microbatches >= 1, "microbatches", microbatches, "at least 1")
    require(microbatches == 1 or not statistics, "microbatches", microbatches, "1, since the loss keeps statistics")
    evaluate: Callable[..., tuple[Array, Any]] = loss_fn

    def gradient(params: PyTree, batch: PyTree, key: Key[Array, ""]) -> tuple[PyTree, Metrics]:
        (loss, metrics), gradients = jax.value_and_grad(evaluate, has_aux=True)(params, batch, key)
        return gradients, {**metrics, "loss": loss}

    def accumulated_gradient(params: PyTree, batch: PyTree, key: Key[Array, ""]) -> tuple[PyTree, Metrics]:
        def split(leaf: Array) -> Array:
            rows = leaf.shape[0]
            require(rows % microbatches == 0, "microbatches", microbatches, f"a divisor of the batch size {rows}")
            # Row r goes to slice r mod M: on a mesh every device then holds its share of every slice.
            return leaf.reshape(rows // microbatches, microbatches, *leaf.shape[1:]).swapaxes(0, 1)

        slices = jax.tree.map(split, batch)
        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda leaf: leaf[0], slices), key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, part, key)), None

        # Two at a time on the CPU, where what does not depend on each other runs side by side: the cores then wait less.
        total, _ = jax.lax.scan(add, zeros, slices, unroll=2 if jax.default_backend() == "cpu" else 1)
        return jax.tree.map(lambda leaf: leaf / microbatches, total)

    def one_step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(stream(threefry(state.key), "loss"), state.step)
        kept = state.statistics
        if statistics:
            evaluated = jax.value_and_grad(evaluate, has_aux=True)(state.params, kept, batch, key)
            (loss, (metrics, kept)), gradients = evaluated
            metrics = {**metrics, "loss": loss}
        else:
            gradients, metrics = (gradient if microbatches == 1 else accumulated_gradient)(state.params, batch, key)
        # Optax is not written for the strict modes that our tests switch on.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(state.step + 1, params, optimizer_state, state.key, kept), metrics

    def steps(state: TrainState, batches: PyTree) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(one_step, state, batches)

    def steps_one_member_after_another(state: TrainState, batches: PyTree) -> tuple[TrainState, Metrics]:
        if shared_batches:
            state, metrics = jax.lax.map(lambda member: steps(member, batches), state)
        else:
            by_member = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), batches)
            state, metrics = jax.lax.map(lambda member: steps(*member), (state, by_member))
        return state, jax.tree.map(jnp.transpose, metrics)

    dispatch = {
        "none": steps,
        "map": steps_one_member_after_another,
        "vmap": jax.vmap(steps, in_axes=(0, None if shared_batches else 1), out_axes=(0, 1)),
    }[population]
    return jax.jit(dispatch, donate_argnums=0)
