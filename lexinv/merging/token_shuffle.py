"""Fused codes: the s x s codes of a window of an image are one token of a causal Transformer, read and predicted together.

Ma et al. 2025 (Token-Shuffle, arXiv 2504.17789); method card token-shuffle. No code was found; where the paper leaves a choice, it is said.

    e = E[y] W_in                   [h, w, d] -> [h, w, d / s^2]: codes need few of the channels that a language model's tokens have
    shuffle                         the s^2 vectors of each window side by side, [h w / s^2, d], then residual MLPs
    causal Transformer              over the prompt and the windows, row by row
    unshuffle                       residual MLPs, then s^2 chunks of d / s^2, each through W_out [d / s^2, d] and one head [d, K]

Given the windows before it the codes of a window are independent: p(y) = prod_m prod_{c in m} p(y_c | windows before m). Against a model
that reads code by code this costs, whatever the training, the mean conditional total correlation of a window (`marginal_nll` in
`lexinv.merging.fused_sampling`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from lexinv.nn.flops import forward_flops
from lexinv.nn.linear import rms_norm
from lexinv.nn.transformer import Transformer, TransformerConfig
from lexinv.validation import Checked, Count, CountOrZero, require

Params = dict[str, Any]
Schedule = Literal["constant", "linear", "half_linear"]


@dataclass(frozen=True)
class FusedConfig(Checked):
    """layers: causal, with rotary or learned positions. codes: how many different ones there are. side: s, of a window in codes.

    blocks: residual MLPs on either side of the Transformer, as wide inside as outside; 2 in the paper. words: of prompts.
    fusion: of a window's vectors into one, side by side, or the mean of vectors of the whole width, which forgets who stood where.
    """

    layers: TransformerConfig
    codes: Count
    words: Count
    side: Count = 2
    blocks: CountOrZero = 2
    fusion: Literal["concatenate", "mean"] = "concatenate"

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.layers.causal, "layers.causal", "True: windows are predicted from those before"
        yield self.layers.width % self.fused == 0, "layers.width", f"a multiple of side^2 = {self.fused}"
        held = self.layers.mixing != "convolution" and self.layers.positions in ("rope", "learned")
        yield held, "layers.positions", "'rope' or 'learned', without convolutions: what a cache holds"

    @property
    def fused(self) -> int:
        """Codes of a window."""
        return self.side**2


def window_partition(x: Shaped[Array, "*batch h w c"], s: int) -> Shaped[Array, "*batch windows fused"]:
    """The s x s windows of a grid, row by row, each with the channels of its places row by row: [h w / s^2, s^2 c].

    Raises `InvalidConfig` where s does not divide h and w.
    """
    *batch, h, w, c = x.shape
    _check_grid(h, w, s)
    return x.reshape(*batch, h // s, s, w // s, s, c).swapaxes(-4, -3).reshape(*batch, h * w // s**2, s * s * c)


def window_merge(x: Shaped[Array, "*batch windows fused"], h: int, w: int, s: int) -> Shaped[Array, "*batch h w c"]:
    """The grid of these windows: the inverse of `window_partition`. Raises `InvalidConfig` as that, and for another number of windows."""
    *batch, windows, fused = x.shape
    _check_grid(h, w, s)
    fits = windows * s * s == h * w and fused % s**2 == 0
    require(fits, "x", x.shape, f"[..., {h * w // s**2}, a multiple of {s * s}]")
    return x.reshape(*batch, h // s, w // s, s, s, -1).swapaxes(-4, -3).reshape(*batch, h, w, -1)


def code_windows(codes: Int[np.ndarray, "*batch h w"], s: int, count: int) -> Int[np.ndarray, "*batch windows fused"]:
    """The codes of every window, in the order of `window_partition`. Raises `InvalidConfig` as that, and for codes outside `count`."""
    among = codes.size == 0 or (codes.min() >= 0 and codes.max() < count)
    require(bool(among), "codes", [int(codes.min()), int(codes.max())] if codes.size else [], f"from 0 to {count - 1}")
    return np.asarray(window_partition(jnp.asarray(codes)[..., None], s), np.int32)


def initialize(config: FusedConfig, key: Key[Array, ""]) -> Params:
    """Tables are N(0, 1), matrices [n, m] N(0, 1/n); what the residual MLPs add begins at zero."""
    d, part = config.layers.width, config.layers.width // config.fused
    names = ("words", "codes", "fuse", "shuffle", "unshuffle", "split", "readout", "transformer")
    keys: dict[str, Array] = dict(zip(names, jax.random.split(key, len(names)), strict=True))

    def matrix(name: str, *shape: int) -> Array:
        return jax.random.normal(keys[name], shape) * shape[-2] ** -0.5

    def mlps(name: str) -> Params:
        return {"mlp_in": matrix(name, config.blocks, d, d), "mlp_out": jnp.zeros((config.blocks, d, d))}

    return {
        "words": jax.random.normal(keys["words"], (config.words, d)),
        "codes": jax.random.normal(keys["codes"], (config.codes, d)),
        "fuse": {"kernel": matrix("fuse", d, d if config.fusion == "mean" else part)},
        "shuffle": mlps("shuffle"),
        "transformer": Transformer(config.layers).init(keys["transformer"], jnp.zeros((1, 1, d)))["params"],
        "unshuffle": mlps("unshuffle"),
        "split": {"kernel": matrix("split", part, d)},
        "readout": matrix("readout", d, config.codes),
    }


def token_shuffle(
    config: FusedConfig, params: Params, windows: Int[Array, "batch m fused"]
) -> Float[Array, "batch m width"]:
    """The one vector that the Transformer reads of each window."""
    parts = params["codes"][windows] @ params["fuse"]["kernel"]
    if config.fusion == "mean":
        return _mlps(params["shuffle"], jnp.mean(parts, axis=2))
    return _mlps(params["shuffle"], parts.reshape(*windows.shape[:2], config.layers.width))


def token_unshuffle(
    config: FusedConfig, params: Params, hidden: Float[Array, "batch m width"]
) -> Float[Array, "batch m fused codes"]:
    """float32 logits of every code of the window that comes after each of these vectors."""
    hidden = _mlps(params["unshuffle"], hidden.astype(jnp.float32))
    chunks = hidden.reshape(*hidden.shape[:2], config.fused, -1)
    return chunks @ params["split"]["kernel"] @ params["readout"]


def _mlps(blocks: Params, x: Array) -> Array:
    """x + gelu(rms(x) W) V, block after block; the paper does not say whether they normalise."""
    gain = jnp.ones(x.shape[-1:], x.dtype)
    for wide, back in zip(blocks["mlp_in"], blocks["mlp_out"], strict=True):
        x = x + jax.nn.gelu(rms_norm(x, gain) @ wide) @ back
    return x


def window_logits(
    config: FusedConfig, params: Params, prompt: Int[Array, "batch words"], windows: Int[Array, "batch m fused"]
) -> Float[Array, "batch m fused codes"]:
    """Logits of the codes of every window given the prompt, of at least one word, and the windows before it."""
    x = jnp.concatenate([params["words"][prompt], token_shuffle(config, params, windows[:, :-1])], axis=1)
    hidden, _ = Transformer(config.layers).apply({"params": params["transformer"]}, x)
    return token_unshuffle(config, params, hidden[:, prompt.shape[1] - 1 :])


def code_nll(
    logits: Float[Array, "*batch m fused codes"], targets: Int[Array, "*batch m fused"]
) -> Float[Array, "*batch m fused"]:
    """-log p of each code in nats."""
    chosen = jnp.sum(logits * jax.nn.one_hot(targets, logits.shape[-1]), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def fused_nll(
    logits: Float[Array, "*batch m fused codes"], targets: Int[Array, "*batch m fused"]
) -> Float[Array, "*batch"]:
    """Nats per code, not per window, of images under the factorised model: an honest likelihood at every s."""
    return jnp.mean(code_nll(logits, targets), axis=(-2, -1))


def z_loss(logits: Float[Array, "*batch codes"]) -> Float[Array, ""]:
    """The mean of log^2 Z, which keeps logits from drifting (Chowdhery et al. 2022, section 5); the paper has it at its largest size."""
    return jnp.mean(jnp.square(jax.nn.logsumexp(logits, axis=-1)))


def guidance_schedule(steps: int, strength: float, kind: Schedule) -> Float[np.ndarray, " steps"]:
    """g of each window in logits u + g (c - u) of unconditional u and conditional c.

    half_linear: from 1 to `strength` in the first half, where u has seen hardly anything, and `strength` from there. linear: over all.
    """
    share = np.arange(steps) / steps
    ramp = {"constant": np.ones(steps), "linear": share, "half_linear": np.minimum(2 * share, 1)}[kind]
    return (1 + (strength - 1) * ramp).astype(np.float32)


def image_flops(config: FusedConfig, words: int, windows: int) -> float:
    """Floating-point operations of reading and predicting one image behind a prompt: 2 for each multiply-add, as `forward_flops`."""
    d, part = config.layers.width, config.layers.width // config.fused
    time = words + windows - 1
    transformer = time * forward_flops(replace(config.layers, output="tied"), 1, time)
    mlps = 2 * windows * config.blocks * 2 * d**2
    codes = windows * config.fused * (2 * d * part + d * config.codes)
    return transformer + 2.0 * (mlps + codes)


def _check_grid(h: int, w: int, s: int) -> None:
    for name, size in (("h", h), ("w", w)):
        require(s >= 1 and size % s == 0, "s", s, f"a divisor of {name} = {size}")
