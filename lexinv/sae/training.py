"""Training sparse autoencoders: the optimiser with its constraint on the decoder, the step, and resampling of dead features."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, PyTree

from lexinv.sae.autoencoders import (
    decode,
    encode,
    initialize,
    normalise_decoder,
    pre_activations,
)
from lexinv.sae.losses import LossConfig, budget_of, check_terms, loss, start_statistics
from lexinv.sae.methods import AutoencoderConfig, Params
from lexinv.sae.selection import select, smallest_kept
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import TrainStep, make_train_step
from lexinv.training.streams import stream
from lexinv.validation import require

BEGINNING = 4.0
"""The L0 at which JumpReLU begins, over its target: with fewer active at first it recovers fewer features, with more it comes down late."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with linear warm-up, a constant rate, and a linear decay to zero over the last `decay` share of the steps, after it.

    epsilon: 6.25e-10 (OpenAI's code): gradients of large batches are tiny. clip: to this global norm.
    """

    learning_rate: float = 2e-3
    warmup_steps: int = 100
    decay: float = 0.2
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 6.25e-10
    clip: float = 1.0

    def __post_init__(self):
        for field in ("learning_rate", "epsilon", "clip"):
            require(getattr(self, field) > 0, f"optimizer.{field}", getattr(self, field), "a positive number")
        require(0 <= self.decay <= 1, "optimizer.decay", self.decay, "0 to 1")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "zero or more")
        for field in ("b1", "b2"):
            require(0 <= getattr(self, field) < 1, f"optimizer.{field}", getattr(self, field), "at least 0 and below 1")


def make_optimizer(config: OptimizerConfig, autoencoder: AutoencoderConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser of a run of `steps` steps.

    Where decoder rows have norm 1, their gradient loses its component along the row before the step, and the row is normalised after it:
    what is saved lies on the sphere (released codes that normalise before the step save decoders that do not).
    """
    require(config.warmup_steps < steps, "optimizer.warmup_steps", config.warmup_steps, f"0 to {steps - 1}")
    decay_steps = min(round(config.decay * steps), steps - config.warmup_steps)
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0.0, decay_steps),
        ],
        [config.warmup_steps, steps - decay_steps],
    )
    adam = optax.chain(
        optax.clip_by_global_norm(config.clip), optax.adam(schedule, config.b1, config.b2, config.epsilon)
    )
    if not autoencoder.unit_norm:
        return adam
    return optax.chain(_stateless(_tangent), adam, _stateless(_back_to_the_sphere))


def _stateless(change: Callable[[Params, Params], Params]) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return change(updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _tangent(gradients: Params, params: Params) -> Params:
    rows, gradient = params["decoder"], gradients["decoder"]
    along = jnp.sum(rows * gradient, axis=1, keepdims=True) / jnp.sum(jnp.square(rows), axis=1, keepdims=True)
    return gradients | {"decoder": gradient - along * rows}


def _back_to_the_sphere(updates: Params, params: Params) -> Params:
    moved = normalise_decoder({"decoder": params["decoder"] + updates["decoder"]})["decoder"]
    return updates | {"decoder": moved - params["decoder"]}


def create_autoencoder_state(
    config: AutoencoderConfig,
    optimizer: optax.GradientTransformation,
    sample: Float[Array, "tokens width"],
    k: float | Float[Array, ""],
    coefficient: float | Float[Array, ""],
    key: Key[Array, ""],
    budgets: Int[Array, " features"] | None = None,
) -> TrainState:
    """The state before the first step; see `initialize` for `sample`, and `start_statistics` for k, coefficient and budgets.

    JumpReLU has one threshold at first, above which `BEGINNING` times k affinities of a token of the sample lie.
    Raises `InvalidConfig` for a sample of another width, and for one that is not finite (where it can be looked at).
    """
    require(sample.shape[1] == config.width, "sample", sample.shape, f"[tokens, {config.width}]")
    if not isinstance(sample, Tracer):
        require(bool(np.isfinite(np.asarray(sample)).all()), "sample", "not finite", "finite activations")
    sample = jnp.asarray(sample, jnp.float32)
    params = initialize(config, sample, stream(key, "parameters"))
    if "threshold" in params:
        affinities = jax.nn.relu(pre_activations(params, sample))
        kept = jnp.round(BEGINNING * jnp.asarray(k, jnp.float32) * len(sample)).astype(jnp.int32)
        smallest = smallest_kept(affinities, select(affinities, kept, "batch"), "batch")
        params["threshold"] = jnp.full(config.features, jnp.where(jnp.isfinite(smallest), smallest, 0.0))
    return create_state(params, optimizer, key, start_statistics(config, k, coefficient, budgets))


def make_autoencoder_step(
    config: AutoencoderConfig,
    terms: LossConfig,
    optimizer: optax.GradientTransformation,
    population: Literal["none", "map", "vmap"] = "none",
) -> TrainStep:
    """The jitted `step(state, batches)` of `lexinv.training.step`, batches {"activations": float32[K, N, D]}, the same for all members."""

    check_terms(config, terms)

    def autoencoder_loss(params: PyTree, statistics: PyTree, batch: PyTree, key: Key[Array, ""]) -> Any:
        del key
        # Activations of NumPy are float64, and stay it where that is JAX's default.
        return loss(config, terms, params, statistics, batch["activations"].astype(jnp.float32))

    return make_train_step(
        autoencoder_loss, optimizer, population=population, shared_batches=population != "none", statistics=True
    )


def resample(
    config: AutoencoderConfig,
    terms: LossConfig,
    state: TrainState,
    optimizer: optax.GradientTransformation,
    x: Float[Array, "tokens width"],
    key: Key[Array, ""],
) -> TrainState:
    """Give features that have not fired for `terms.dead_after` tokens a direction in which reconstruction fails (Bricken et al. 2023).

    For each of them a token of `x` is drawn with probability proportional to its squared loss (Bricken et al.; dictionary_learning draws by
    the norm of the residual). The decoder row becomes the unit vector of x - b_dec, the encoder column that times a fifth of the living
    columns' mean norm (1 where none lives), a threshold a fifth of the living ones' mean, bias and magnitudes what they were at the start,
    and Adam's moments of all these 0.
    Features that fire are left as they are.
    """
    params, statistics = state.params, state.statistics
    dead = statistics.tokens_since_fired >= terms.dead_after
    centred = x - params["decoder_bias"][None]
    codes = encode(config, params, x, budget_of(config, terms, statistics, x.shape[0])).activations
    losses = jnp.sum(jnp.square(x - decode(params, codes)), axis=1)
    drawn = jax.random.categorical(key, 2 * jnp.log(jnp.maximum(losses, 1e-30)), shape=dead.shape)
    directions = centred[drawn] / jnp.maximum(jnp.linalg.norm(centred[drawn], axis=1, keepdims=True), 1e-12)
    living = jnp.sum((~dead).astype(jnp.float32))

    def of_the_living(values: Array) -> Array:
        return jnp.sum(jnp.where(dead, 0.0, values)) / jnp.maximum(living, 1.0)

    begun = {"decoder": directions, **config.method.own(config)}
    if "encoder" in params:
        norms = jnp.linalg.norm(params["encoder"], axis=0)
        begun["encoder"] = 0.2 * jnp.where(living > 0, of_the_living(norms), 1.0) * directions.T
    if "threshold" in params:
        begun["threshold"] = jnp.full_like(params["threshold"], 0.2 * of_the_living(params["threshold"]))
    masks = {"decoder": dead[:, None], "encoder": dead[None], "decoder_bias": jnp.zeros((), bool)}
    touched = {name: jnp.broadcast_to(masks.get(name, dead), leaf.shape) for name, leaf in params.items()}
    fresh = {
        name: jnp.where(touched[name], begun.get(name, jnp.zeros_like(leaf)), leaf) for name, leaf in params.items()
    }
    moments = optax.tree_utils.tree_map_params(
        optimizer, lambda leaf, mask: jnp.where(mask, jnp.zeros((), leaf.dtype), leaf), state.optimizer_state, touched
    )
    since = jnp.where(dead, 0, statistics.tokens_since_fired)
    return state._replace(
        params=fresh, optimizer_state=moments, statistics=statistics._replace(tokens_since_fired=since)
    )
