"""Sparse autoencoders: one frame, x ~ z W_dec + b_dec with z = act((x - b_dec) W_enc + b_enc), and the activations that variants differ in.

Conventions follow Gao et al. 2024 (arXiv 2406.04093) where a variant does not say otherwise. Released codes differ in what they add; what
is built here is said at each function.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.sae.selection import Per, select
from lexinv.validation import choose, require

Params = dict[str, Array]
Kind = Literal["relu", "gated", "jumprelu", "topk", "mutual", "feature", "matryoshka"]
PER: dict[str, Per] = {"topk": "token", "mutual": "batch", "matryoshka": "batch", "feature": "feature"}
"""Over what the budget of a selecting variant is spent."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """width D, features F, and the variant.

    relu: z = relu(pre), with an L1 penalty. gated: Rajamanoharan et al. 2024a. jumprelu: Rajamanoharan et al. 2024b. topk: Gao et al. 2024.
    mutual: Mutual Choice = BatchTopK (Ayonrinde 2024; Bussmann et al. 2024). feature: Feature Choice (Ayonrinde 2024).
    matryoshka: Mutual Choice with a loss for each prefix of the features (Bussmann et al. 2025).
    free_norms: of `relu`: the penalty weighs features by the norms of their decoder rows, which are then free; otherwise rows have norm 1.
    bandwidth: of the kernel behind the gradient of JumpReLU's thresholds, in units of the pre-activations.
    prefixes: of `matryoshka`: sizes of the nested dictionaries, the last of which is F.
    centre: of the sample at which b_dec begins: its mean, or its geometric median, which outliers move less (Gao et al. 2024).
    most_active: of `topk`: the largest k of any member. Training then holds codes as so many values and indices for each token
        (`lexinv.sae.sparse`), the same but for rounding, which is faster where F / k is large. 0: codes are [tokens, features].
    """

    width: int
    features: int
    kind: Kind = "topk"
    free_norms: bool = False
    bandwidth: float = 0.2
    initial_threshold: float = 0.1
    prefixes: tuple[int, ...] = ()
    centre: Literal["mean", "median"] = "mean"
    most_active: int = 0

    def __post_init__(self):
        for field in ("width", "features"):
            require(getattr(self, field) >= 1, f"autoencoder.{field}", getattr(self, field), "at least 1")
        for field in ("bandwidth", "initial_threshold"):
            require(getattr(self, field) > 0, f"autoencoder.{field}", getattr(self, field), "a positive number")
        choose("autoencoder.kind", self.kind, get_args(Kind))
        require(
            self.kind == "relu" or not self.free_norms, "autoencoder.free_norms", self.free_norms, "for kind = 'relu'"
        )
        limit = self.features if self.kind == "topk" else 0
        require(0 <= self.most_active <= limit, "autoencoder.most_active", self.most_active, f"0 to {limit}")
        nested = self.kind == "matryoshka"
        rising = list(self.prefixes) == sorted(set(self.prefixes)) and self.prefixes[-1:] == (self.features,)
        rising = rising and self.prefixes[0] >= 1
        allowed = (
            f"rising sizes of which the last is {self.features}" if nested else "empty: only `matryoshka` has prefixes"
        )
        require(rising if nested else not self.prefixes, "autoencoder.prefixes", self.prefixes, allowed)

    @property
    def unit_norm(self) -> bool:
        """Whether decoder rows are kept at norm 1."""
        return not self.free_norms


class Codes(NamedTuple):
    """What an encoder gives: affinities relu(pre) before selection or gate, and activations z."""

    affinities: Float[Array, "tokens features"]
    activations: Float[Array, "tokens features"]


def initialize(config: AutoencoderConfig, sample: Float[Array, "tokens width"], key: Key[Array, ""]) -> Params:
    """Decoder rows uniform on the sphere, W_enc = W_dec^T, b_enc = 0, and b_dec the mean of `sample`, or its geometric median.

    The centre matters where it is large against the spread: latents on the wrong side of it are born dead.
    """
    directions = jax.random.normal(key, (config.features, config.width), jnp.float32)
    decoder = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    zeros = jnp.zeros(config.features, jnp.float32)
    centre = jnp.mean(sample, axis=0) if config.centre == "mean" else geometric_median(sample)
    params = {"encoder": decoder.T, "encoder_bias": zeros, "decoder": decoder, "decoder_bias": centre}
    if config.kind == "jumprelu":
        params["threshold"] = jnp.full(config.features, config.initial_threshold, jnp.float32)
    if config.kind == "gated":
        params |= {"log_magnitude": zeros, "magnitude_bias": zeros}
    return params


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
    """(x - b_dec) W_enc + b_enc; of a gated autoencoder, those of its gate."""
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
    pre = pre_activations(params, x)
    affinities = jax.nn.relu(pre)
    if config.kind == "relu":
        return Codes(affinities, affinities)
    if config.kind == "jumprelu":
        return Codes(affinities, jump_relu(affinities, params["threshold"], config.bandwidth))
    if config.kind == "gated":
        centred = (x - params["decoder_bias"][None]) @ params["encoder"]
        magnitudes = jax.nn.relu(jnp.exp(params["log_magnitude"])[None] * centred + params["magnitude_bias"][None])
        return Codes(affinities, jnp.where(pre > 0, magnitudes, 0.0))
    if budget is None:
        raise ValueError(f"{config.kind} needs a budget")
    return Codes(affinities, jnp.where(select(affinities, budget, PER[config.kind]), affinities, 0.0))


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


@jax.custom_vjp
def _jump(affinities, threshold, bandwidth):
    return jnp.where(affinities > threshold[None], affinities, 0.0)


def _kernel(affinities: Array, threshold: Array, bandwidth: Array) -> Bool[Array, "tokens features"]:
    """The rectangle K((a - theta) / eps), 1 within half a bandwidth; 0 for the many affinities that relu has made exactly 0."""
    return (jnp.abs(affinities - threshold[None]) < bandwidth / 2) & (affinities > 0)


def _jump_forward(affinities, threshold, bandwidth):
    return _jump(affinities, threshold, bandwidth), (affinities, threshold, bandwidth)


def _jump_backward(saved, gradient):
    affinities, threshold, bandwidth = saved
    near = _kernel(affinities, threshold, bandwidth)
    to_threshold = -jnp.sum(jnp.where(near, gradient, 0.0), axis=0) * threshold / bandwidth
    return jnp.where(affinities > threshold[None], gradient, 0.0), to_threshold, jnp.zeros_like(bandwidth)


_jump.defvjp(_jump_forward, _jump_backward)


@jax.custom_vjp
def _step(affinities, threshold, bandwidth):
    return (affinities > jnp.maximum(threshold, 0.0)[None]).astype(affinities.dtype)


def _step_forward(affinities, threshold, bandwidth):
    return _step(affinities, threshold, bandwidth), (affinities, threshold, bandwidth)


def _step_backward(saved, gradient):
    affinities, threshold, bandwidth = saved
    near = _kernel(affinities, threshold, bandwidth)
    to_threshold = -jnp.sum(jnp.where(near, gradient, 0.0), axis=0) / bandwidth
    return jnp.zeros_like(affinities), to_threshold, jnp.zeros_like(bandwidth)


_step.defvjp(_step_forward, _step_backward)


def jump_relu(
    affinities: Float[Array, "tokens features"], threshold: Float[Array, " features"], bandwidth: float
) -> Float[Array, "tokens features"]:
    """a where a > theta, else 0 (Rajamanoharan et al. 2024b, eq. 5).

    d / da is 1 above the threshold; d / dtheta is estimated by -(theta / eps) K((a - theta) / eps), K the rectangle of width 1 (eq. 11).
    """
    return _jump(affinities, threshold, jnp.float32(bandwidth))


def step(
    affinities: Float[Array, "tokens features"], threshold: Float[Array, " features"], bandwidth: float
) -> Float[Array, "tokens features"]:
    """1 where a > theta and a > 0, else 0. d / da is 0, d / dtheta is estimated by -(1 / eps) K((a - theta) / eps) (ibid., eq. 12)."""
    return _step(affinities, threshold, jnp.float32(bandwidth))
