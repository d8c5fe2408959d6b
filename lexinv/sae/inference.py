"""Autoencoders outside of training: codes of a token that depend on that token alone, reconstructions, and the common form JumpReLU."""

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lexinv.sae.autoencoders import (
    decode,
    encode,
    encode_by_threshold,
)
from lexinv.sae.methods import AutoencoderConfig, Params
from lexinv.sae.metrics import calibrate_feature_thresholds, calibrate_threshold
from lexinv.validation import require

Threshold = float | Float[Array, "..."] | Float[np.ndarray, "..."]
"""One, or one for each feature: above it a pre-activation is kept."""


def check_inference(config: AutoencoderConfig, threshold: Threshold | None, k: int | None) -> None:
    """Raises `InvalidConfig` unless there is what the variant needs and no more.

    That is a threshold for `mutual`, `matryoshka` and `feature`, k for `topk`, and nothing for those whose parameters say all.
    """
    batch_wise = config.method.needs == "threshold"
    allowed = f"{'one, or one for each feature' if batch_wise else 'None'} for kind = {config.kind!r}"
    require((threshold is not None) == batch_wise, "threshold", threshold, allowed)
    if threshold is not None:
        shape = jnp.shape(threshold)
        require(shape in ((), (config.features,)), "threshold", shape, f"() or ({config.features},)")
    top = config.method.needs == "k"
    require((k is not None) == top, "k", k, f"{'a whole number' if top else 'None'} for kind = {config.kind!r}")
    if k is not None:
        require(1 <= k <= config.features, "k", k, f"1 to the {config.features} features")


def calibrate(
    config: AutoencoderConfig,
    affinities: Float[np.ndarray, "tokens features"],
    k: float,
    shares: Float[np.ndarray, " features"],
) -> Threshold | None:
    """The threshold with which tokens one by one spend what a batch spends in training, exactly on these; None where none is needed.

    One with k per token on average, or of Feature Choice one for each feature, which is then in its share m_j / N of the tokens.
    """
    if config.method.needs != "threshold":
        return None
    if config.method.per == "batch":
        return jnp.float32(calibrate_threshold(affinities, k))
    return jnp.asarray(calibrate_feature_thresholds(affinities, shares))


def encode_alone(
    config: AutoencoderConfig,
    params: Params,
    x: Float[Array, "tokens width"],
    threshold: Threshold | None = None,
    k: int | None = None,
) -> Float[Array, "tokens features"]:
    """Activations z of every variant without a budget for the batch: the same whatever other tokens stand beside.

    threshold: of `mutual`, `matryoshka` and `feature`, calibrated. k: of `topk`. Raises `InvalidConfig` as `check_inference`, and for
    activations of another width than the autoencoder's.
    """
    check_inference(config, threshold, k)
    require(x.shape[-1] == config.width, "x", x.shape, f"[tokens, {config.width}]: of the model that it was trained on")
    if threshold is not None:
        return encode_by_threshold(params, x, jnp.asarray(threshold, jnp.float32))
    return encode(config, params, x, k).activations


def make_reconstruct(
    config: AutoencoderConfig, k: int | None = None
) -> Callable[[tuple[Params, Threshold | None], Float[Array, "*tokens width"]], Float[Array, "*tokens width"]]:
    """`reconstruct((params, threshold), x)`: each row of x encoded by `encode_alone` and decoded; of any leading axes.

    Parameters are an argument, not part of the function, so that they are no constants where it is compiled.
    """

    def reconstruct(
        autoencoder: tuple[Params, Threshold | None], x: Float[Array, "*tokens width"]
    ) -> Float[Array, "*tokens width"]:
        params, threshold = autoencoder
        rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        return decode(params, encode_alone(config, params, rows, threshold, k)).reshape(x.shape).astype(x.dtype)

    return reconstruct


def to_jumprelu(
    config: AutoencoderConfig, params: Params, threshold: Threshold | None = None
) -> tuple[AutoencoderConfig, Params]:
    """The JumpReLU autoencoder that does the same to every token, and its config.

    relu: thresholds 0; free norms of the decoder go into the encoder, so that its rows have norm 1 and activations are larger by the norm.
    gated: see `methods.ungated`. mutual, matryoshka, feature: their calibrated `threshold`. jumprelu: as it is.
    Raises `InvalidConfig` for topk, whose threshold is another one for each token, and where a threshold is missing or not wanted.
    """
    method = config.method
    require(method.needs != "k", "kind", config.kind, "a variant that does not count in each token")
    check_inference(config, threshold, None)
    jump = replace(config, kind="jumprelu", free_norms=False, prefixes=())
    shared = {name: params[name] for name in ("encoder", "encoder_bias", "decoder", "decoder_bias")}
    if config.free_norms:
        shared = fold_norms(shared)
    if method.as_jumprelu is not None:
        return jump, shared | method.as_jumprelu(params)
    return jump, shared | {"threshold": jnp.broadcast_to(jnp.asarray(threshold, jnp.float32), (config.features,))}


def fold_norms(params: Params) -> Params:
    """Decoder rows of norm 1 and their norms in the encoder and its bias instead: pre-activations times the norm, same reconstructions."""
    norms = jnp.maximum(jnp.linalg.norm(params["decoder"], axis=1), 1e-8)
    return params | {
        "encoder": params["encoder"] * norms[None],
        "encoder_bias": params["encoder_bias"] * norms,
        "decoder": params["decoder"] / norms[:, None],
    }


def fold_scale(params: Params, scale: float) -> Params:
    """The autoencoder of x with the codes that the given one has of `scale` x, and with its reconstructions over `scale`.

    For one that was trained on scaled activations (`activation_streams.scale_to_unit`): W_enc c, W_dec / c, b_dec / c, all else as it was,
    so that thresholds, k and densities stay what they are. Raises `InvalidConfig` unless the scale is a positive number.
    """
    require(bool(np.isfinite(scale)) and scale > 0, "scale", scale, "a positive number")
    return params | {
        "encoder": params["encoder"] * scale,
        "decoder": params["decoder"] / scale,
        "decoder_bias": params["decoder_bias"] / scale,
    }
