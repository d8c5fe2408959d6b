"""How many tokens to keep, learned: differentiable discrete proxies (DiffRate).

Chen et al. 2023 (arXiv 2305.17997), method card token-merging. In training no token leaves: a mask with straight-through gradient stands
for it in a masked softmax (`masked_classify`, a Vision Transformer with such masks), and (FLOPs - target)^2, with `costs.relative_flops` of
the learned counts, is added to the loss. The counts that come out are then a static schedule. Only pruning is masked: DiffRate learns a
second rate, of merging, likewise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lexinv.merging.plan import check_whole, descending_rank
from lexinv.merging.ranking import cls_attention
from lexinv.nn.linear import layer_norm, linear
from lexinv.nn.reduced import unstack
from lexinv.nn.vision_transformer import VisionConfig, embed_images
from lexinv.validation import require

Mask = Callable[[Float[Array, " patches"], Float[Array, " patches"]], Float[Array, " patches"]]
"""mask(scores, alive) -> which patches stay, of one example: scores are what CLS gives to each, alive those that earlier layers kept."""


def candidates(tokens: int, granularity: int = 1) -> Int[Array, " candidates"]:
    """The counts to choose from: N, N - g, N - 2g, ... down to 1 at least."""
    check_whole(tokens=tokens, granularity=granularity)
    require(tokens >= 1, "tokens", tokens, "at least 1")
    require(granularity >= 1, "granularity", granularity, "at least 1 token")
    return jnp.arange(tokens, 0, -granularity, dtype=jnp.int32)


def kept_count(logits: Float[Array, " candidates"], counts: Int[Array, " candidates"]) -> Float[Array, ""]:
    """ceil(sum_k p_k c_k) of p = softmax(logits), with the gradient of the sum (straight-through)."""
    mean = jnp.sum(jax.nn.softmax(logits) * counts.astype(logits.dtype))
    return mean + jax.lax.stop_gradient(jnp.ceil(mean - 1e-4) - mean)


def survival(
    logits: Float[Array, " candidates"], counts: Int[Array, " candidates"], tokens: int
) -> Float[Array, " tokens"]:
    """The probability that the token of rank i (from 0) is kept: that of all counts above i. Never rising in i."""
    kept = counts[None, :] > jnp.arange(tokens, dtype=counts.dtype)[:, None]
    return jnp.sum(jnp.where(kept, jax.nn.softmax(logits)[None, :], 0.0), axis=1)


def survival_mask(
    logits: Float[Array, " candidates"], counts: Int[Array, " candidates"], tokens: int
) -> Float[Array, " tokens"]:
    """1 for the first `kept_count` ranks and 0 after, with the gradient of `survival`."""
    soft = survival(logits, counts, tokens)
    hard = (jnp.arange(tokens, dtype=soft.dtype) < kept_count(logits, counts)).astype(soft.dtype)
    return soft + jax.lax.stop_gradient(hard - soft)


def masked_softmax(logits: Float[Array, "*rows keys"], mask: Float[Array, " keys"]) -> Float[Array, "*rows keys"]:
    """exp(l_j) m_j / sum_j exp(l_j) m_j: a masked key is as good as gone, yet its mask has a gradient. Zeros where all are masked."""
    mask = jnp.broadcast_to(mask, logits.shape)
    # The largest of those that count: a masked one far above them would leave nothing of the others. The clip is for its own gradient.
    largest = jnp.max(jnp.where(mask > 0, logits, -jnp.inf), axis=-1, keepdims=True)
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    weights = jnp.exp(jnp.minimum(logits - largest, 30.0)) * mask
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def mask_by_rank(logits: Float[Array, " candidates"]) -> Mask:
    """Keeps the first `kept_count` patches by CLS attention, of those that are left; with the gradient of their survival."""

    def mask(scores: Array, alive: Array) -> Array:
        patches = scores.shape[0]
        return survival_mask(logits, candidates(patches), patches)[descending_rank(scores, alive > 0)]

    return mask


def learned_counts(logits: Float[Array, "layers candidates"]) -> Float[Array, " depth"]:
    """Patches left after each layer, the first of which removes none; never rising. Whole numbers, with the gradient of their means."""
    counts = candidates(logits.shape[1])
    left = [jnp.float32(logits.shape[1])]
    for own in logits:
        left.append(jnp.minimum(left[-1], kept_count(own, counts)))
    return jnp.stack(left)


def masked_classify(
    config: VisionConfig,
    params: Any,
    images: Float[Array, "batch rows columns channels"],
    masks: Sequence[Mask | None],
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch depth"]]:
    """(logits, patches that are left after each layer's attention). A model with CLS, which its head reads; CLS is never masked.

    With masks of 0 and 1 the logits are those of the model from which the tokens are really removed.
    masks: one for each layer, None for a layer that keeps what it gets. A mask acts after the layer's attention, as in
    `lexinv.nn.reduced`; once masked, a token is no key in any later layer. What the MLP then makes of it is seen by nobody.
    """
    x = embed_images(config, params, images)
    alive, kept = jnp.ones(x.shape[:2]), []
    for layer, mask in zip(unstack(params["layers"]), masks, strict=True):
        attended, scores = _attention(config, layer, x, alive)
        x = x + attended
        if mask is not None:
            stays = jax.vmap(mask)(jax.lax.stop_gradient(scores[:, 1:]), jax.lax.stop_gradient(alive[:, 1:]))
            alive = jnp.concatenate([alive[:, :1], alive[:, 1:] * stays], axis=1)
        kept.append(jnp.sum(alive[:, 1:], axis=1))
        x = x + _mlp(config, layer, x)
    features = layer_norm(x[:, 0], params["norm"], params["norm_bias"], config.layers.norm_epsilon)
    return features @ params["head"] + params["head_bias"][None], jnp.stack(kept, axis=1)


def _attention(config: VisionConfig, layer: Any, x: Array, alive: Array) -> tuple[Array, Array]:
    """What attention adds to the stream, and what CLS gives to every token."""
    weights = layer["attention"]
    read = layer_norm(x, layer["attention_norm"], layer["attention_norm_bias"], config.layers.norm_epsilon)
    heads = (*x.shape[:2], config.layers.heads, config.layers.head_dim)
    q, k, v = (jnp.swapaxes(_linear(weights, name, read).reshape(heads), 1, 2) for name in ("query", "key", "value"))
    scores = jnp.einsum("bhqd,bhkd->bhqk", q * config.layers.head_dim**-0.5, k)
    attention = jax.vmap(masked_softmax)(scores, alive)
    mixed = jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", attention, v), 1, 2).reshape(x.shape)
    return _linear(weights, "output", mixed), jax.vmap(cls_attention)(attention)


def _mlp(config: VisionConfig, layer: Any, x: Array) -> Array:
    read = layer_norm(x, layer["mlp_norm"], layer["mlp_norm_bias"], config.layers.norm_epsilon)
    hidden = jax.nn.gelu(_linear(layer, "mlp_in", read), approximate=config.layers.gelu == "tanh")
    return _linear(layer, "mlp_out", hidden)


def _linear(weights: Any, name: str, x: Array) -> Array:
    return linear(x, weights[name]) + weights[f"{name}_bias"][None, None]
