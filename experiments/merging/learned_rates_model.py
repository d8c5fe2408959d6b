"""A Vision Transformer in which tokens are masked instead of removed, so that how many stay can be learned; its FLOPs with a gradient.

DiffRate's forward pass in training (Chen et al. 2023, arXiv 2305.17997; method card token-merging). With masks of 0 and 1 the logits are
those of the model from which the tokens are really removed. Only pruning is masked: DiffRate learns a second rate, of merging, likewise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lexinv.merging.costs import block_flops
from lexinv.merging.plan import descending_rank
from lexinv.merging.ranking import cls_attention
from lexinv.merging.rates import candidates, kept_count, masked_softmax, survival_mask, threshold_mask
from lexinv.nn.linear import layer_norm, linear
from lexinv.nn.reduced import unstack
from lexinv.nn.vision_transformer import VisionConfig, embed_images

Mask = Callable[[Float[Array, " patches"], Float[Array, " patches"]], Float[Array, " patches"]]
"""mask(scores, alive) -> which patches stay, of one example: scores are what CLS gives to each, alive those that earlier layers kept."""


def masked_classify(
    config: VisionConfig,
    params: Any,
    images: Float[Array, "batch rows columns channels"],
    masks: Sequence[Mask | None],
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch depth"]]:
    """(logits, patches that are left after each layer's attention). A model with CLS, which its head reads; CLS is never masked.

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


def mask_by_rank(logits: Float[Array, " candidates"]) -> Mask:
    """Keeps the first `kept_count` patches by CLS attention, of those that are left; with the gradient of their survival."""

    def mask(scores: Array, alive: Array) -> Array:
        patches = scores.shape[0]
        return survival_mask(logits, candidates(patches), patches)[descending_rank(scores, alive > 0)]

    return mask


def mask_by_threshold(threshold: Float[Array, ""], temperature: float) -> Mask:
    """Keeps the patches whose CLS attention, relative to an even one over all tokens, has a logarithm above the threshold."""

    def mask(scores: Array, alive: Array) -> Array:
        relative = jnp.log(jnp.maximum(scores * (scores.shape[0] + 1), 1e-9))
        return threshold_mask(relative, threshold, temperature)

    return mask


def learned_counts(logits: Float[Array, "layers candidates"]) -> Float[Array, " depth"]:
    """Patches left after each layer, the first of which removes none; never rising. Whole numbers, with the gradient of their means."""
    counts = candidates(logits.shape[1])
    left = [jnp.float32(logits.shape[1])]
    for own in logits:
        left.append(jnp.minimum(left[-1], kept_count(own, counts)))
    return jnp.stack(left)


def flops_share(config: VisionConfig, kept: Float[Array, " depth"]) -> Float[Array, ""]:
    """Multiply-adds of all blocks relative to the unreduced model's. kept: patches left after each layer's attention."""
    width, mlp_width, whole = config.layers.width, config.layers.mlp_width, config.tokens
    after = kept + config.protected
    before = jnp.concatenate([jnp.full(1, whole, after.dtype), after[:-1]])
    spent = sum(block_flops(before[i], after[i], width, mlp_width) for i in range(config.layers.depth))
    return spent / (config.layers.depth * block_flops(float(whole), float(whole), width, mlp_width))
