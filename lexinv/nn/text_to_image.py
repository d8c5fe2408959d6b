"""Images from text: a causal encoder of the prompt, and a Transformer over patches that attends to it, trained by flow matching.

Lipman et al. 2023 (arXiv 2210.02747) with straight paths: x_t = (1 - t) noise + t image, and the velocity image - noise. What the encoder
gives is not normalised, so that an embedding of zeros has the key zero.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.nn.linear import linear, rms_norm
from lexinv.nn.transformer import Block, Transformer, TransformerConfig
from lexinv.validation import require

Params = dict[str, Any]


@dataclass(frozen=True)
class TextToImageConfig:
    """words: of the vocabulary. patches, features: of an image, and numbers of a patch. text and image are of one width."""

    words: int
    patches: int
    features: int
    text: TransformerConfig
    image: TransformerConfig

    def __post_init__(self):
        for field in ("words", "patches", "features"):
            require(getattr(self, field) >= 1, f"model.{field}", getattr(self, field), "at least 1")
        require(self.text.causal, "model.text.causal", self.text.causal, "True")
        require(not self.image.causal, "model.image.causal", self.image.causal, "False")
        allowed = f"model.text.width = {self.text.width}"
        require(self.image.width == self.text.width, "model.image.width", self.image.width, allowed)


class CrossAttention(nn.Module):
    """What each patch reads from the prompt, and its attention to every token of it."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array, text: Array, mask: Array) -> tuple[Array, Array]:
        width, heads = self.config.width, self.config.heads
        matrix = nn.initializers.normal(width**-0.5)
        normed = rms_norm(x, self.param("norm", nn.initializers.ones, (width,)))

        def of_heads(name: str, read: Array) -> Array:
            return linear(read, self.param(name, matrix, (width, width))).reshape(*read.shape[:-1], heads, -1)

        q, k, v = of_heads("query", normed), of_heads("key", text), of_heads("value", text)
        logits = jnp.einsum("bphd,bthd->bhpt", q, k) / (width / heads) ** 0.5
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, -jnp.inf), axis=-1)
        mixed = jnp.einsum("bhpt,bthd->bphd", weights, v).reshape(x.shape)
        return linear(mixed, self.param("output", matrix, (width, width))), weights


class Denoiser(nn.Module):
    """Layers of a Transformer over patches, each after a cross-attention."""

    config: TransformerConfig
    features: int

    @nn.compact
    def __call__(self, x: Array, time: Array, text: Array, mask: Array) -> tuple[Array, Array]:
        width = self.config.width
        matrix = nn.initializers.normal(width**-0.5)
        angles = time[:, None] * (2.0 ** jnp.arange(8, dtype=jnp.float32))[None] * jnp.pi
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        places = self.param("places", nn.initializers.normal(1.0), (x.shape[1], width))
        read = self.param("patches", nn.initializers.normal(self.features**-0.5), (self.features, width))
        h = (
            linear(x, read)
            + places[None]
            + linear(waves, self.param("time", nn.initializers.normal(0.5), (16, width)))[:, None]
        )
        maps = []
        for number in range(self.config.depth):
            found, weights = CrossAttention(self.config, name=f"cross_{number}")(h, text, mask)
            h, _ = Block(self.config, False, name=f"layer_{number}")(h + found, None)
            maps.append(weights)
        h = rms_norm(h, self.param("norm", nn.initializers.ones, (width,)))
        return linear(h, self.param("readout", matrix, (width, self.features))), jnp.stack(maps, axis=1)


class Predicted(NamedTuple):
    """velocity: from noise to image. maps: each patch's attention to every token, summing to one over these."""

    velocity: Float[Array, "batch patches features"]
    maps: Float[Array, "batch depth heads patches tokens"]


def initialize(config: TextToImageConfig, key: Key[Array, ""]) -> Params:
    """Weights of `encode_text` and `predict`."""
    words_key, text_key, image_key = jax.random.split(key, 3)
    width = config.text.width
    text, x = jnp.zeros((1, 1, width)), jnp.zeros((1, config.patches, config.features))
    image = Denoiser(config.image, config.features)
    return {
        "words": jax.random.normal(words_key, (config.words, width)),
        "text": Transformer(config.text).init(text_key, text)["params"],
        "image": image.init(image_key, x, jnp.zeros(1), text, jnp.ones((1, 1), bool))["params"],
    }


def encode_text(
    config: TextToImageConfig, params: Params, words: Int[Array, "batch tokens"]
) -> Float[Array, "batch tokens width"]:
    """The encoder's last stream, without a final norm."""
    seen: Any = Transformer(config.text).apply({"params": params["text"]}, params["words"][words], capture=True)[1]
    return seen["residual_out"][-1]


def predict(
    config: TextToImageConfig,
    params: Params,
    x: Float[Array, "batch patches features"],
    time: Float[Array, " batch"],
    text: Float[Array, "batch tokens width"],
    mask: Bool[Array, "batch tokens"] | None = None,
) -> Predicted:
    """At time 0, of noise, to 1, of images. mask: tokens that can be attended to, by default all."""
    there = jnp.ones(text.shape[:2], bool) if mask is None else mask
    denoiser = Denoiser(config.image, config.features)
    found: Any = denoiser.apply({"params": params["image"]}, x, time, text, there)
    return Predicted(*found)


def flow_matching_loss(
    config: TextToImageConfig,
    params: Params,
    images: Float[Array, "batch patches features"],
    words: Int[Array, "batch tokens"],
    key: Key[Array, ""],
) -> Float[Array, ""]:
    """Mean squared error of the velocity at a time drawn evenly for each image."""
    noise_key, time_key = jax.random.split(key)
    noise, time = jax.random.normal(noise_key, images.shape), jax.random.uniform(time_key, (len(images),))
    share = time[:, None, None]
    found = predict(config, params, (1 - share) * noise + share * images, time, encode_text(config, params, words))
    return jnp.mean((found.velocity - (images - noise)) ** 2)
