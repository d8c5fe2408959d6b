"""JumpReLU and the step behind its L0, with gradients for their thresholds by a kernel estimator (Rajamanoharan et al. 2024b)."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _jump(affinities, threshold, bandwidth, both):
    return jnp.where(affinities > threshold[None], affinities, 0.0)


def _kernel(affinities: Array, threshold: Array, bandwidth: Array) -> Bool[Array, "tokens features"]:
    """The rectangle K((a - theta) / eps), 1 within half a bandwidth; 0 for the many affinities that relu has made exactly 0."""
    return (jnp.abs(affinities - threshold[None]) < bandwidth / 2) & (affinities > 0)


def _jump_forward(affinities, threshold, bandwidth, both):
    return _jump(affinities, threshold, bandwidth, both), (affinities, threshold, bandwidth)


def _jump_backward(both, saved, gradient):
    affinities, threshold, bandwidth = saved
    inside = jnp.where(_kernel(affinities, threshold, bandwidth), gradient, 0.0) * threshold[None] / bandwidth
    to_affinities = jnp.where(affinities > threshold[None], gradient, 0.0) + (inside if both else 0.0)
    return to_affinities, -jnp.sum(inside, axis=0).astype(threshold.dtype), jnp.zeros_like(bandwidth)


_jump.defvjp(_jump_forward, _jump_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _step(affinities, threshold, bandwidth, both):
    return (affinities > jnp.maximum(threshold, 0.0)[None]).astype(affinities.dtype)


def _step_forward(affinities, threshold, bandwidth, both):
    return _step(affinities, threshold, bandwidth, both), (affinities, threshold, bandwidth)


def _step_backward(both, saved, gradient):
    affinities, threshold, bandwidth = saved
    inside = jnp.where(_kernel(affinities, threshold, bandwidth), gradient, 0.0) / bandwidth
    to_affinities = inside if both else jnp.zeros_like(affinities)
    return to_affinities, -jnp.sum(inside, axis=0).astype(threshold.dtype), jnp.zeros_like(bandwidth)


_step.defvjp(_step_forward, _step_backward)


def entry_size(affinities: Float[Array, "tokens features"], threshold: Float[Array, " features"]) -> Float[Array, ""]:
    """The unit of a bandwidth: root mean square of the affinities above their thresholds; the largest affinity where none is."""
    affinities, threshold = (jax.lax.stop_gradient(part).astype(jnp.float32) for part in (affinities, threshold))
    active = affinities > threshold[None]
    count = jnp.sum(active, dtype=jnp.float32)
    square = jnp.sum(jnp.where(active, jnp.square(affinities), 0.0)) / jnp.maximum(count, 1.0)
    return jnp.where(count > 0, jnp.sqrt(square), jnp.maximum(jnp.max(affinities), 1e-12))


def near(
    affinities: Float[Array, "tokens features"], threshold: Float[Array, " features"], bandwidth: float | Array
) -> Float[Array, ""]:
    """Affinities inside the kernel over those above their thresholds. At 0 thresholds get no gradient: they are frozen."""
    inside = jnp.sum(_kernel(affinities, threshold, jnp.asarray(bandwidth, affinities.dtype)), dtype=jnp.float32)
    return inside / jnp.maximum(jnp.sum(affinities > threshold[None], dtype=jnp.float32), 1.0)


def jump_relu(
    affinities: Float[Array, "tokens features"],
    threshold: Float[Array, " features"],
    bandwidth: float | Array,
    both: bool = False,
) -> Float[Array, "tokens features"]:
    """a where a > theta, else 0 (Rajamanoharan et al. 2024b, eq. 5).

    d / da is 1 above the threshold; d / dtheta is estimated by -(theta / eps) K((a - theta) / eps), K the rectangle of width 1 (eq. 11).
    both: the estimate is added to d / da with the other sign, as whether a is kept depends on a - theta alone.
    """
    return _jump(affinities, threshold, jnp.asarray(bandwidth, affinities.dtype), both)


def step(
    affinities: Float[Array, "tokens features"],
    threshold: Float[Array, " features"],
    bandwidth: float | Array,
    both: bool = False,
) -> Float[Array, "tokens features"]:
    """1 where a > theta and a > 0, else 0. d / dtheta is estimated by -(1 / eps) K((a - theta) / eps) (ibid., eq. 12).

    d / da is 0, or with `both` the estimate with the other sign.
    """
    return _step(affinities, threshold, jnp.asarray(bandwidth, affinities.dtype), both)
