"""A vision-language model: the patches of a Vision Transformer, through a projector, as a prefix to a causal Transformer that answers.

As in LLaVA (Liu et al. 2023): an encoder with CLS, an MLP, and the visual tokens among those of the text. The text is a system prompt, the
image, and a question; the answer is one of a few classes, read at the last word. Visual tokens may be taken out in between: before the
decoder by their places (`prompt`), or from one of its layers on (`decode`).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.nn import vision_transformer
from lexinv.nn.attention import attention_weights, size_bias
from lexinv.nn.linear import layer_norm, linear, rms_norm
from lexinv.nn.positions import rotate
from lexinv.nn.reduced import Reduced, Seen, run_layers
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.nn.vision_transformer import VisionConfig, embed_images
from lexinv.randomness import threefry
from lexinv.validation import choose, require

Params = dict[str, Any]


@dataclass(frozen=True)
class VisionLanguageConfig:
    """vision: the encoder, whose head is only for training it. words: of questions, all of the same length. answers: classes.

    system: tokens before the image, always the same ones: all see the first, which says nothing and so can be a sink of attention.
    patch_classes: of a second head of the encoder, on each patch, for training it; 0 for none.
    """

    vision: VisionConfig
    decoder: TransformerConfig
    words: int
    answers: int
    patch_classes: int = 0
    system: int = 1

    def __post_init__(self):
        for field in ("words", "answers", "system"):
            require(getattr(self, field) >= 1, f"model.{field}", getattr(self, field), "at least 1")
        require(self.patch_classes >= 0, "model.patch_classes", self.patch_classes, "0 or more")
        require(self.vision.cls, "model.vision.cls", self.vision.cls, "True: its attention is looked at")
        fields = {"causal": True, "positions": "rope", "norm": "rms", "residual": "pre", "mixing": "none", "window": 0}
        for field, value in fields.items():
            found = getattr(self.decoder, field)
            require(found == value, f"model.decoder.{field}", found, repr(value))


class Encoded(NamedTuple):
    """visual: what the decoder reads of each patch. patches, cls: the encoder's last stream, normalised.

    attention: the weights of the encoder's last layer, CLS first.
    """

    visual: Float[Array, "batch patches width"]
    patches: Float[Array, "batch patches vision_width"]
    cls: Float[Array, "batch vision_width"]
    attention: Float[Array, "batch heads tokens tokens"]

    @property
    def cls_attention(self) -> Float[Array, "batch heads patches"]:
        """Of CLS to the patches, its share on itself apart."""
        return self.attention[:, :, 0, 1:]


class Prompt(NamedTuple):
    """What a layer of the decoder reads: system, image, question.

    positions: of each token, for its rotary embedding. size: how many tokens each stands for, as a key; 0 for one that nobody sees.
    visual: which tokens are the image's.
    """

    stream: Float[Array, "batch time width"]
    positions: Int[Array, "batch time"]
    size: Float[Array, "batch time"]
    visual: Bool[Array, " time"]


def initialize(config: VisionLanguageConfig, key: Key[Array, ""]) -> Params:
    """Parameters {"vision", "projector", "words", "layers", "norm", "answers", "answers_bias"}, and {"patch_head", "patch_head_bias"}.

    The first rows of `words` are the system prompt. Tables ~ N(0, 1), kernels ~ N(0, 1/n), heads and biases 0.
    """
    vision_key, in_key, out_key, word_key, layer_key = jax.random.split(key, 5)
    read, width = config.vision.layers.width, config.decoder.width
    one = jnp.zeros((1, 1, width))
    layers = jax.vmap(lambda k: Block(_plain(config), False).init(k, one, None)["params"])(
        jax.random.split(threefry(layer_key), config.decoder.depth)
    )
    params: Params = {
        "vision": vision_transformer.initialize(config.vision, vision_key),
        "projector": {
            "mlp_in": jax.random.normal(in_key, (read, width)) * read**-0.5,
            "mlp_in_bias": jnp.zeros(width),
            "mlp_out": jax.random.normal(out_key, (width, width)) * width**-0.5,
            "mlp_out_bias": jnp.zeros(width),
        },
        "words": jax.random.normal(word_key, (config.system + config.words, width)),
        "layers": layers,
        "norm": jnp.ones(width),
        "answers": jnp.zeros((width, config.answers)),
        "answers_bias": jnp.zeros(config.answers),
    }
    if config.patch_classes:
        params["patch_head"] = jnp.zeros((read, config.patch_classes))
        params["patch_head_bias"] = jnp.zeros(config.patch_classes)
    return params


def _plain(config: VisionLanguageConfig, masked: bool = False) -> TransformerConfig:
    """The decoder's layers, to which positions are added from outside. masked: keys have biases."""
    implementation = "dot_product" if masked else config.decoder.attention
    return replace(config.decoder, positions="none", attention=implementation)


def encode(
    config: VisionLanguageConfig, params: Params, images: Float[Array, "batch rows columns channels"]
) -> Encoded:
    """The image's tokens before and after the projector, and where CLS looks. What is not read is not computed under jit."""

    def look(seen: Seen) -> Reduced:
        return Reduced(seen.stream, seen.size, seen.attention_weights())

    vision, layers = params["vision"], config.vision.layers
    x = embed_images(config.vision, vision, images)
    x, _, handed_on = run_layers(layers, vision["layers"], x, None, [None] * (layers.depth - 1) + [look])
    features = layer_norm(x.astype(jnp.float32), vision["norm"], vision["norm_bias"], layers.norm_epsilon)
    return Encoded(project(params, features[:, 1:]), features[:, 1:], features[:, 0], handed_on[0])


def project(params: Params, patches: Float[Array, "batch patches vision_width"]) -> Float[Array, "batch patches width"]:
    """The MLP from the encoder to the decoder."""
    p = params["projector"]
    hidden = jax.nn.gelu(linear(patches, p["mlp_in"]) + p["mlp_in_bias"][None, None])
    return linear(hidden, p["mlp_out"]) + p["mlp_out_bias"][None, None]


def image_logits(params: Params, cls: Float[Array, "batch vision_width"]) -> Float[Array, "batch classes"]:
    """The encoder's head on CLS, which nothing but its training reads."""
    return cls @ params["vision"]["head"] + params["vision"]["head_bias"][None]


def patch_logits(
    params: Params, patches: Float[Array, "batch patches vision_width"]
) -> Float[Array, "batch patches patch_classes"]:
    """The encoder's second head, on every patch, which nothing but its training reads."""
    return linear(patches, params["patch_head"]) + params["patch_head_bias"][None, None]


def prompt(
    config: VisionLanguageConfig,
    params: Params,
    visual: Float[Array, "batch kept width"],
    words: Int[Array, "batch text"],
    places: Int[Array, "batch kept"] | None = None,
    size: Float[Array, "batch kept"] | None = None,
    gaps: Literal["keep", "close"] = "keep",
) -> Prompt:
    """System prompt, the visual tokens that are left, and the question's words, before the first layer.

    places: of the visual tokens among all patches, in rising order; all of them by default. size: how many patches each stands for, 1 by
    default. gaps: "keep" leaves every token its position among all patches, "close" counts those that are left.
    """
    choose("gaps", gaps, ("keep", "close"))
    batch, kept = visual.shape[:2]
    all_patches = config.vision.patches
    if places is None:
        require(kept == all_patches, "places", None, f"given where not all {all_patches} patches are left")
    if places is None or gaps == "close":
        places = jnp.broadcast_to(jnp.arange(kept, dtype=jnp.int32)[None], (batch, kept))
    after = kept if gaps == "close" else all_patches
    text = jnp.broadcast_to(jnp.arange(words.shape[1], dtype=jnp.int32)[None], words.shape)
    first, table = config.system, params["words"]
    system = jnp.broadcast_to(jnp.arange(first, dtype=jnp.int32)[None], (batch, first))
    positions = [system, first + places.astype(jnp.int32), first + after + text]
    stream = jnp.concatenate([table[system], visual.astype(table.dtype), table[first + words]], axis=1)
    sizes = jnp.ones((batch, kept), jnp.float32) if size is None else size
    ones = jnp.ones(system.shape, jnp.float32), jnp.ones(words.shape, jnp.float32)
    is_visual = jnp.zeros(stream.shape[1], bool).at[first : first + kept].set(True)
    return Prompt(
        stream.astype(config.decoder.dtype),
        jnp.concatenate(positions, axis=1),
        jnp.concatenate([ones[0], sizes, ones[1]], axis=1),
        is_visual,
    )


def decode(
    config: VisionLanguageConfig,
    params: Params,
    seen: Prompt,
    first: int = 0,
    last: int | None = None,
    remove_at: Int[Array, " batch"] | None = None,
    sized: bool = False,
    apart: Float[Array, "heads time time"] | None = None,
) -> Prompt:
    """The prompt after layers `first` to `last` - 1, all by default.

    remove_at: the layer from which on nobody sees a visual token, for each example; the text comes out as if they were gone, their stream
        means nothing any more. sized: whether keys count by their size, as after merging; otherwise all sizes must be 1.
    apart: added to the scores of every layer, to keep several questions about one image from seeing each other.
    """
    stop = config.decoder.depth if last is None else last
    require(0 <= first <= stop <= config.decoder.depth, "first, last", (first, last), f"0 to {config.decoder.depth}")
    masked = sized or remove_at is not None
    block, x = Block(_plain(config, masked), False), seen.stream
    for index in range(first, stop):
        bias = _bias(_size_in_layer(seen, index, remove_at) if masked else None, apart)
        x = block.apply({"params": _layer(params, index)}, x, bias, None, change=_turn(config, seen.positions))[0]
    return seen._replace(stream=x)


def without_image(seen: Prompt) -> Prompt:
    """The text alone, its positions unchanged: what remains when visual tokens are really removed. Not under jit."""
    text = jnp.flatnonzero(~seen.visual)
    return Prompt(seen.stream[:, text], seen.positions[:, text], seen.size[:, text], seen.visual[text])


def attention_in_layer(
    config: VisionLanguageConfig,
    params: Params,
    seen: Prompt,
    index: int,
    sized: bool = False,
    apart: Float[Array, "heads time time"] | None = None,
) -> Float[Array, "batch heads time time"]:
    """Softmax weights of the decoder's layer `index`, for the prompt as that layer reads it (`decode(..., last=index)`)."""
    found: dict[str, Array] = {}

    def change(site: str, activations: Array) -> Array:
        found[site] = _turn(config, seen.positions)(site, activations)
        return found[site]

    bias = _bias(seen.size if sized else None, apart)
    layer = {"params": _layer(params, index)}
    Block(_plain(config, sized), False).apply(layer, seen.stream, bias, None, change=change)
    return attention_weights(found["queries"], found["keys"], bias)


def answer_logits(params: Params, stream: Float[Array, "batch time width"]) -> Float[Array, "batch time answers"]:
    """float32 logits of the answers at every token of the last layer's stream; a question's are those at its last word."""
    return (
        linear(rms_norm(stream.astype(jnp.float32), params["norm"]), params["answers"])
        + params["answers_bias"][None, None]
    )


def _layer(params: Params, index: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[index], params["layers"])


def _bias(size: Array | None, apart: Array | None) -> Array | None:
    """Of pairs and heads, and of each example where keys have sizes."""
    if size is None:
        return apart
    of_keys = size_bias(size)[:, None, None]
    return of_keys if apart is None else of_keys + apart[None]


def _size_in_layer(seen: Prompt, index: int, remove_at: Array | None) -> Float[Array, "batch time"]:
    if remove_at is None:
        return seen.size
    return jnp.where(seen.visual[None] & (index >= remove_at)[:, None], 0.0, seen.size)


def _turn(config: VisionLanguageConfig, positions: Int[Array, "batch time"]) -> Any:
    """Rotates queries and keys by positions of their own, which need not be consecutive."""
    share = config.decoder.rotary_dim

    def change(site: str, activations: Array) -> Array:
        if site not in ("queries", "keys"):
            return activations
        return rotate(activations, config.decoder.rotary_base, share, positions)

    return change
