"""Sparse autoencoders: one frame, x ~ z W_dec + b_dec with z = act((x - b_dec) W_enc + b_enc)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lexinv.sae.methods import AutoencoderConfig, Params
from lexinv.sae.selection import select


class Codes(NamedTuple):
    """What an encoder gives: affinities relu(pre) before selection or gate, and activations z."""

    affinities: Float[Array, "tokens features"]
    activations: Float[Array, "tokens features"]


def initialize(config: AutoencoderConfig, sample: Float[Array, "tokens width"], key: Key[Array, ""]) -> Params:
    """Decoder rows uniform on the sphere, W_enc = W_dec^T, b_enc = 0, and b_dec the mean of `sample`, or its geometric median.

    A tied variant has neither W_enc nor b_enc.
    The centre matters where it is large against the spread: latents on the wrong side of it are born dead.
    """
    directions = jax.random.normal(key, (config.features, config.width), jnp.float32)
    decoder = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    centre = jnp.mean(sample, axis=0) if config.centre == "mean" else geometric_median(sample)
    bias = jnp.zeros(config.features, jnp.float32)
    encoder = {} if config.method.tied else {"encoder": decoder.T, "encoder_bias": bias}
    return encoder | {"decoder": decoder, "decoder_bias": centre} | config.method.own(config)


def geometric_median(
    sample: Float[Array, "tokens width"], most_steps: int = 100, tolerance: float = 1e-5
) -> Float[Array, " width"]:
    """The point with the smallest sum of distances to the tokens, by Weiszfeld's iteration from the mean.

    Until a step is below `tolerance` times the mean distance, or after `most_steps`. 1e-8 is added to distances, so that a token may be it.
    """

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, point, _ = carry
        distances = jnp.linalg.norm(sample - point[None], axis=1) + 1e-8
        moved = jnp.sum(sample / distances[:, None], axis=0) / jnp.sum(1 / distances)
        return count + 1, moved, jnp.linalg.norm(moved - point) / jnp.mean(distances)

    def going(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[0] < most_steps) & (carry[2] > tolerance)

    return jax.lax.while_loop(going, step, (jnp.int32(0), jnp.mean(sample, axis=0), jnp.float32(jnp.inf)))[1]


def pre_activations(params: Params, x: Float[Array, "tokens width"]) -> Float[Array, "tokens features"]:
    """(x - b_dec) W_enc + b_enc; of a gated autoencoder, those of its gate; of a tied one (x - b_dec) W_dec^T."""
    if "encoder" not in params:
        return (x - params["decoder_bias"][None]) @ params["decoder"].T
    return (x - params["decoder_bias"][None]) @ params["encoder"] + params["encoder_bias"][None]


def encode(
    config: AutoencoderConfig,
    params: Params,
    x: Float[Array, "tokens width"],
    budget: int | Int[Array, "..."] | None = None,
) -> Codes:
    """Activations as in training. `budget` is that of `selection.select`: k, M = kN, or m_j for each feature; others have none.

    The selection of `mutual`, `matryoshka` and `feature` depends on the batch: outside of training see `encode_by_threshold`.
    """
    affinities, method = jax.nn.relu(pre_activations(params, x)), config.method
    if method.activate is not None:
        return Codes(affinities, method.activate(config, params, x, affinities, budget))
    if method.per is None or budget is None:
        raise ValueError(f"{config.kind} needs a budget")
    return Codes(affinities, jnp.where(select(affinities, budget, method.per), affinities, 0.0))


def encode_by_threshold(
    params: Params, x: Float[Array, "tokens width"], threshold: Float[Array, "..."]
) -> Float[Array, "tokens features"]:
    """relu(pre) where it is above `threshold` (one, or one for each feature), else 0: every token by itself, as JumpReLU.

    Of the variants that select; not of a gated one, whose pre-activations are those of the gate.
    """
    affinities = jax.nn.relu(pre_activations(params, x))
    return jnp.where(affinities > jnp.broadcast_to(threshold, affinities.shape[1:])[None], affinities, 0.0)


def decode(params: Params, activations: Float[Array, "tokens features"]) -> Float[Array, "tokens width"]:
    """z W_dec + b_dec."""
    return activations @ params["decoder"] + params["decoder_bias"][None]


def progressive(
    activations: Float[Array, "tokens features"], k: int | Int[Array, ""]
) -> Float[Array, "tokens features"]:
    """The k largest entries of every token's code, which still reconstruct if it was trained for it (Gao et al. 2024, section 5.2.2)."""
    return jnp.where(select(activations, k, "token"), activations, 0.0)


def normalise_decoder(params: Params) -> Params:
    """Decoder rows scaled to norm 1, all else as it was."""
    norms = jnp.linalg.norm(params["decoder"], axis=1, keepdims=True)
    return params | {"decoder": params["decoder"] / jnp.maximum(norms, 1e-12)}
