"""The optimisers of the experiments: AdamW, or Muon for the matrices with Adam for the rest."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree
from optax.contrib import MuonDimensionNumbers, muon

from lexinv.validation import choose, require

# The linear maps of lexinv.nn, and Flax's own name for one.
MATRICES = frozenset({"query", "key", "value", "output", "mlp_in", "mlp_gate", "mlp_out", "readout", "kernel"})


@dataclass(frozen=True)
class OptimizerConfig:
    """Linear warm-up over `warmup_steps` to `learning_rate`, then a cosine to a tenth of it at the last step.

    Gradients are clipped to the global norm `clip`. `weight_decay` is applied to the matrices only and is multiplied
    by the learning rate.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.98
    clip: float = 1.0


def is_matrix(params: PyTree) -> PyTree:
    """True for the arrays [..., in, out] of linear maps, which are those whose name is in `MATRICES`.

    By name and not by rank, since layers are stacked: a norm's gains are [L, D] and a convolution [L, width, D].
    """

    def decide(path, leaf) -> bool:
        return leaf.ndim >= 2 and str(getattr(path[-1], "key", "")) in MATRICES

    return jax.tree_util.tree_map_with_path(decide, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser of a run of `steps` steps.

    Muon (Jordan 2024, as in `optax.contrib.muon`) orthogonalises the momentum of each matrix over its last two axes;
    leading axes (layers) are independent matrices. Everything that is not in `MATRICES` goes to Adam, with Nesterov's momentum.

    Raises `InvalidConfig` for a name or a number that cannot be meant.
    """
    choose("optimizer.name", config.name, ("adamw", "muon"))
    require(config.learning_rate > 0, "optimizer.learning_rate", config.learning_rate, "a positive number")
    require(config.weight_decay >= 0, "optimizer.weight_decay", config.weight_decay, "zero or more")
    require(config.clip > 0, "optimizer.clip", config.clip, "a positive number")
    require(0 <= config.b1 < 1, "optimizer.b1", config.b1, "at least 0 and below 1")
    require(0 <= config.b2 < 1, "optimizer.b2", config.b2, "at least 0 and below 1")
    require(steps > 0, "steps", steps, "at least 1")
    require(0 <= config.warmup_steps < steps, "optimizer.warmup_steps", config.warmup_steps, f"0 to {steps - 1}")
    return _rule(config, steps, config.learning_rate)


def _rule(config: OptimizerConfig, steps: int, rate: Float[Array, ""] | float) -> optax.GradientTransformation:
    warmup = config.warmup_steps
    schedules = [
        optax.linear_schedule(0.0 if warmup else rate, rate, warmup),
        optax.cosine_decay_schedule(rate, steps - warmup, 0.1),
    ]
    schedule = optax.join_schedules(schedules, [warmup])
    if config.name == "adamw":
        update = optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=is_matrix)
    else:
        update = muon(
            schedule,
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=lambda params: jax.tree.map(
                lambda matrix: MuonDimensionNumbers(-2, -1) if matrix else None, is_matrix(params)
            ),
        )
    return optax.chain(optax.clip_by_global_norm(config.clip), update)


class Rated(NamedTuple):
    """The state of an optimiser with the learning rate that it is to have."""

    rate: Float[Array, "..."]
    state: Any


def rated_in_state(
    config: OptimizerConfig, steps: int, rate: Float[Array, ""] | float = 1.0
) -> optax.GradientTransformation:
    """`make_optimizer(config, steps)` with the learning rate `rate`, kept in the state: members of one population can differ in it.

    Only `init` reads `rate`. Updates are those of `make_optimizer`, bit for bit on the CPU.
    """
    make_optimizer(config, steps)  # refuses what cannot be meant

    def init(params: PyTree) -> Rated:
        return Rated(jnp.asarray(rate, jnp.float32), _rule(config, steps, 1.0).init(params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Rated]:
        updates, inner = _rule(config, steps, state.rate).update(updates, state.state, params)
        return updates, Rated(state.rate, inner)

    return optax.GradientTransformation(init, update)


class Scale(NamedTuple):
    """The number that all updates of a run are multiplied by."""

    value: Float[Array, "..."]


def scaled_in_state(
    optimizer: optax.GradientTransformation, value: Float[Array, ""] | float = 1.0
) -> optax.GradientTransformation:
    """`optimizer` with its updates multiplied by `value`, which is kept in the state: members of one population can differ in it.

    Updates of `make_optimizer` are proportional to the learning rate, weight decay included, at every step of its schedule. So with
    `learning_rate` 1 in the configuration, `value` is the learning rate. Only `init` reads `value`.
    """

    def init(params: PyTree) -> Scale:
        del params
        return Scale(jnp.asarray(value, jnp.float32))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Scale]:
        del params
        return jax.tree.map(lambda leaf: state.value * leaf, updates), state

    return optax.chain(optimizer, optax.GradientTransformation(init, update))
