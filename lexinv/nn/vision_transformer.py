"""The Vision Transformer (Dosovitskiy et al. 2021) with the heads of DeiT and MAE or without, open to reduction from layer to layer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lexinv.nn.checkpoint_directories import Tensors, check_all_taken, norm_params, read_tensors, stack, take
from lexinv.nn.linear import layer_norm
from lexinv.nn.reduced import Reduction, run_layers
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.randomness import threefry
from lexinv.validation import require

Params = dict[str, Any]

LAYERS = TransformerConfig(
    depth=6,
    width=64,
    heads=4,
    mlp_width=256,
    positions="none",  # the model adds its own before the first layer
    causal=False,
    attention="dot_product",
    norm="layer",
    norm_epsilon=1e-6,
    bias=True,
    gelu="exact",
)


@dataclass(frozen=True)
class VisionConfig:
    """Images [size, size, channels] in patches of `patch` pixels, one token each.

    cls: whether a token that is no patch goes before them. pool: what the head reads: "cls", that token normalised (ViT, DeiT); "mean", the
        mean of the patches by size, then normalised (MAE). classes: 0 for a model without a head. registers: tokens between CLS and the
        patches that are no patches, without positions (Darcet et al. 2024).
    """

    size: int = 32
    patch: int = 4
    channels: int = 3
    classes: int = 10
    cls: bool = True
    pool: Literal["cls", "mean"] = "cls"
    layers: TransformerConfig = LAYERS
    registers: int = 0

    def __post_init__(self):
        for field, least in (("patch", 1), ("channels", 1), ("classes", 0), ("registers", 0)):
            require(getattr(self, field) >= least, f"model.{field}", getattr(self, field), f"at least {least}")
        divides = self.size >= 1 and self.size % self.patch == 0
        require(divides, "model.size", self.size, f"a positive multiple of model.patch = {self.patch}")
        require(self.cls or self.pool == "mean", "model.pool", self.pool, "'mean' without a CLS token")
        fields = {"causal": False, "positions": "none", "norm": "layer", "residual": "pre"}
        for field, value in fields.items():
            require(
                getattr(self.layers, field) == value, f"model.layers.{field}", getattr(self.layers, field), repr(value)
            )

    @property
    def patches(self) -> int:
        """Tokens of an image, CLS apart."""
        return (self.size // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Tokens of the first layer."""
        return self.patches + self.protected

    @property
    def protected(self) -> int:
        """Tokens in front of the patches, which no reduction should touch."""
        return self.cls + self.registers


def initialize(config: VisionConfig, key: Key[Array, ""]) -> Params:
    """Parameters {"patches", "patches_bias", "positions", "layers", "norm", "norm_bias"}, and where they are {"cls"}, {"registers"} and
    {"head", "head_bias"}.

    Kernels ~ N(0, 1/n), positions, CLS and registers ~ N(0, 0.02^2), head and biases 0.
    """
    width, pixels = config.layers.width, config.patch**2 * config.channels
    patch_key, layer_key, position_key, cls_key = jax.random.split(key, 4)
    one = jnp.zeros((1, 1, width))
    layers = jax.vmap(lambda k: Block(config.layers, False).init(k, one, None)["params"])(
        jax.random.split(threefry(layer_key), config.layers.depth)
    )
    params: Params = {
        "patches": jax.random.normal(patch_key, (pixels, width)) * pixels**-0.5,
        "patches_bias": jnp.zeros(width),
        "positions": 0.02 * jax.random.normal(position_key, (config.patches + config.cls, width)),
        "layers": layers,
        "norm": jnp.ones(width),
        "norm_bias": jnp.zeros(width),
    }
    if config.classes:
        params |= {"head": jnp.zeros((width, config.classes)), "head_bias": jnp.zeros(config.classes)}
    if config.registers:
        key = jax.random.fold_in(cls_key, 1)
        params["registers"] = 0.02 * jax.random.normal(key, (config.registers, width))
    return params | ({"cls": 0.02 * jax.random.normal(cls_key, (width,))} if config.cls else {})


def cut(
    config: VisionConfig, images: Float[Array, "batch rows columns channels"]
) -> Float[Array, "batch patches pixels"]:
    """The patches of images, row by row, each with its pixels row by row. Raises `InvalidConfig` for images of another shape."""
    shape = (config.size, config.size, config.channels)
    require(images.shape[1:] == shape, "images", images.shape, f"[batch, {', '.join(map(str, shape))}]")
    across = config.size // config.patch
    parts = images.reshape(-1, across, config.patch, across, config.patch, config.channels).swapaxes(2, 3)
    return parts.reshape(images.shape[0], config.patches, -1)


def embed_images(
    config: VisionConfig, params: Params, images: Float[Array, "batch rows columns channels"]
) -> Float[Array, "batch tokens width"]:
    """What the first layer reads: CLS, if there is one, and the patches through one linear layer, and positions; and the registers."""
    x = cut(config, images) @ params["patches"] + params["patches_bias"][None, None]
    if config.cls:
        cls = jnp.broadcast_to(params["cls"][None, None], (x.shape[0], 1, x.shape[2]))
        x = jnp.concatenate([cls, x], axis=1)
    x = x + params["positions"][None]
    if config.registers:
        registers = jnp.broadcast_to(params["registers"][None], (x.shape[0], *params["registers"].shape))
        x = jnp.concatenate([x[:, : int(config.cls)], registers, x[:, int(config.cls) :]], axis=1)
    return x.astype(config.layers.dtype)


class Encoded(NamedTuple):
    """tokens: those that are left after the last layer, normalised, float32. sizes: how many each stands for. handed_on: by the reductions.

    logits: float32; None of a model without a head.
    """

    tokens: Float[Array, "batch kept width"]
    sizes: Float[Array, "batch kept"]
    handed_on: list[Any]
    logits: Float[Array, "batch classes"] | None


def encode(
    config: VisionConfig,
    params: Params,
    images: Float[Array, "batch rows columns channels"],
    reductions: Sequence[Reduction | None] = (),
    proportional: bool = True,
) -> Encoded:
    """What the model makes of images; reductions as in `lexinv.nn.reduced.run_layers`. Under jit nothing is computed that is not used."""
    x = embed_images(config, params, images)
    x, size, handed_on = run_layers(config.layers, params["layers"], x, None, reductions, proportional)

    def normalised(x: Array) -> Array:
        return layer_norm(x.astype(jnp.float32), params["norm"], params["norm_bias"], config.layers.norm_epsilon)

    if not config.classes:
        return Encoded(normalised(x), size, handed_on, None)
    if config.pool == "cls":
        pooled = x[:, 0]
    else:
        patches, weight = x[:, config.protected :].astype(jnp.float32), size[:, config.protected :]
        total = jnp.sum(weight, axis=1, keepdims=True)
        pooled = jnp.sum((weight / jnp.where(total > 0, total, 1.0))[..., None] * patches, axis=1)
    logits = normalised(pooled) @ params["head"] + params["head_bias"][None]
    return Encoded(normalised(x), size, handed_on, logits)


def classify(
    config: VisionConfig,
    params: Params,
    images: Float[Array, "batch rows columns channels"],
    reductions: Sequence[Reduction | None] = (),
    proportional: bool = True,
) -> tuple[Float[Array, "batch classes"], list[Any]]:
    """(float32 logits, what the reductions handed on); see `encode`. Raises `InvalidConfig` without a head."""
    require(config.classes > 0, "model.classes", config.classes, "at least 1, to classify")
    found = encode(config, params, images, reductions, proportional)
    assert found.logits is not None
    return found.logits, found.handed_on


def load_vision_transformer(directory: Path, heads: int) -> tuple[VisionConfig, Params]:
    """A ViT or DeiT of timm, from the one *.safetensors file in a directory, in float32; sizes are read off the tensors.

    `heads` cannot be: 3, 6, 12 for DeiT-T, S, B (64 channels a head), 16 for MAE-L and H. Images are expected as timm normalises them.
    A model pools by the mean exactly if it has `fc_norm`: timm's `global_pool="avg"` with `fc_norm=False` cannot be told from its tensors.
    Raises `InvalidConfig` for tensors that are missing, of another shape, or of another model (such as DeiT's distillation token).
    """
    tensors = read_tensors(directory, "")

    def shape(name: str, rank: int) -> tuple[int, ...]:
        found = tensors[name].shape if name in tensors else None
        require(
            found is not None and len(found) == rank,
            f"tensor {name}",
            found,
            f"a tensor of {rank} axes, as in timm's ViT",
        )
        return tuple(found or ())

    width, channels, patch, _ = shape("patch_embed.proj.weight", 4)
    blocks = [int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))]
    depth = 1 + max(blocks, default=0)
    cls = "cls_token" in tensors
    tokens = shape("pos_embed", 3)[1]
    across = round((tokens - cls) ** 0.5)
    require(across**2 == tokens - cls, "tensor pos_embed", tokens, "a square of patches, and one more with cls_token")
    mlp_width, classes = shape("blocks.0.mlp.fc1.weight", 2)[0], shape("head.weight", 2)[0]
    layers = TransformerConfig(
        **{
            field: getattr(LAYERS, field)
            for field in ("positions", "causal", "attention", "norm", "norm_epsilon", "bias", "gelu")
        },
        depth=depth,
        width=width,
        heads=heads,
        mlp_width=mlp_width,
    )
    pooled = "fc_norm.weight" in tensors
    config = VisionConfig(across * patch, patch, channels, classes, cls, "mean" if pooled else "cls", layers)
    kernel = take(tensors, "patch_embed.proj.weight", width, channels, patch, patch)
    norm = "fc_norm" if pooled else "norm"
    params: Params = {
        "patches": kernel.transpose(2, 3, 1, 0).reshape(-1, width),
        "patches_bias": take(tensors, "patch_embed.proj.bias", width),
        "positions": take(tensors, "pos_embed", 1, tokens, width)[0],
        "layers": stack([_timm_layer(tensors, layers, index) for index in range(depth)]),
        **norm_params("norm", take(tensors, f"{norm}.weight", width), take(tensors, f"{norm}.bias", width)),
        "head": take(tensors, "head.weight", classes, width).T,
        "head_bias": take(tensors, "head.bias", classes),
    }
    if cls:
        params["cls"] = take(tensors, "cls_token", 1, 1, width)[0, 0]
    check_all_taken(tensors, ())
    return config, jax.tree.map(jnp.asarray, params)


def _timm_layer(tensors: Tensors, config: TransformerConfig, index: int) -> Params:
    width, at = config.width, f"blocks.{index}"

    def linear(name: str, stored: str, n: int, m: int) -> Params:
        weight, bias = take(tensors, f"{at}.{stored}.weight", m, n).T, take(tensors, f"{at}.{stored}.bias", m)
        return {name: weight, f"{name}_bias": bias}

    def norm(name: str, stored: str) -> Params:
        parts = (take(tensors, f"{at}.{stored}.{part}", width) for part in ("weight", "bias"))
        return norm_params(name, *parts)

    fused = linear("qkv", "attn.qkv", width, 3 * width)
    attention = linear("output", "attn.proj", width, width)
    for part, name in enumerate(("query", "key", "value")):
        span = slice(part * width, (part + 1) * width)
        attention |= {name: fused["qkv"][:, span], f"{name}_bias": fused["qkv_bias"][span]}
    return {
        "attention": attention,
        **norm("attention_norm", "norm1"),
        **norm("mlp_norm", "norm2"),
        **linear("mlp_in", "mlp.fc1", width, config.mlp_width),
        **linear("mlp_out", "mlp.fc2", config.mlp_width, width),
    }
