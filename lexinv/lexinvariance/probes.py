"""Probes: what can be read off the frozen hidden states of a network by a classifier of little power of its own.

Huang et al. 2023, deciphering: the label is the plain symbol under the present cipher symbol. Hidden states are streamed: they are
computed in the step that uses them, so that only one batch of them exists at a time, and one pass serves the probes of all layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from lexinv.validation import require

Probe = dict[str, Array]
"""Parameters with a leading axis of layers: `out`, `bias`, and for a hidden layer `in`, `in_bias`."""


@dataclass(frozen=True)
class ProbeConfig:
    """hidden: 0 for multinomial logistic regression, otherwise the units of one hidden layer (GELU).

    steps, learning_rate: of Adam, the rate falling to zero along a cosine.
    """

    hidden: int = 0
    steps: int = 300
    learning_rate: float = 3e-3

    def __post_init__(self):
        require(self.hidden >= 0, "probe.hidden", self.hidden, "0 or a number of units")
        require(self.steps >= 1, "probe.steps", self.steps, "at least 1")
        require(self.learning_rate > 0, "probe.learning_rate", self.learning_rate, "a positive number")


def init_probe(rng: Key[Array, ""], config: ProbeConfig, layers: int, width: int, classes: int) -> Probe:
    """Uniform predictions at first: `out` and the biases are zero."""
    out = {
        "out": jnp.zeros((layers, config.hidden or width, classes)),
        "bias": jnp.zeros((layers, classes)),
    }
    if not config.hidden:
        return out
    kernel = jax.random.normal(rng, (layers, width, config.hidden)) * width**-0.5
    return {"in": kernel, "in_bias": jnp.zeros((layers, config.hidden)), **out}


def probe_log_probs(probe: Probe, states: Float[Array, "layers n width"]) -> Float[Array, "layers n classes"]:
    """ln of the probabilities that each layer's probe gives to the classes.

    States are first scaled to a root mean square of one, whatever the size of a layer's residual stream.
    """
    x = states * jax.lax.rsqrt(jnp.mean(jnp.square(states), axis=-1, keepdims=True) + 1e-6)
    if "in" in probe:
        x = jax.nn.gelu(jnp.einsum("lnd,ldh->lnh", x, probe["in"]) + probe["in_bias"][:, None])
    return jax.nn.log_softmax(jnp.einsum("lnh,lhc->lnc", x, probe["out"]) + probe["bias"][:, None])


def probe_loss(
    probe: Probe, states: Float[Array, "layers n width"], labels: Int[Array, " n"]
) -> Float[Array, " layers"]:
    """Mean cross-entropy in nats of each layer's probe."""
    return -jnp.take_along_axis(probe_log_probs(probe, states), labels[None, :, None], axis=2).mean(axis=(1, 2))


def fit_probe(
    rng: Key[Array, ""],
    config: ProbeConfig,
    classes: int,
    states: Callable[[PyTree], Float[Array, "layers n width"]],
    batches: PyTree,
    labels: Int[Array, "steps n"],
) -> tuple[Probe, Float[Array, "steps layers"]]:
    """Train a probe for each layer on `states(batch)`, one batch a step; returns the probes and their losses in nats.

    `batches` are the inputs of all `config.steps` steps, stacked, and `labels` what their states shall be told apart by. The layers do
    not influence one another: Adam works on each number alone and the losses are added.
    """
    require(len(labels) == config.steps, "labels", labels.shape, f"one row for each of {config.steps} steps")
    layers, _, width = jax.eval_shape(states, jax.tree.map(lambda leaf: leaf[0], batches)).shape
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    probe = init_probe(rng, config, layers, width, classes)

    def step(carry, batch):
        probe, moments = carry
        frozen = jax.lax.stop_gradient(states(batch[0]))

        def total(probe):
            losses = probe_loss(probe, frozen, batch[1])
            return losses.sum(), losses

        gradient, losses = jax.grad(total, has_aux=True)(probe)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of an int32
            updates, moments = optimizer.update(gradient, moments)
        updated: Any = optax.apply_updates(probe, updates)
        return (updated, moments), losses

    start = probe, optimizer.init(probe)
    (fitted, _), losses = jax.lax.scan(step, start, (batches, labels))
    return fitted, losses
