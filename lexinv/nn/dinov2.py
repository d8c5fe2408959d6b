"""DINOv2 (Oquab et al. 2024), a Vision Transformer with LayerScale and without a head, from an exported graph."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lexinv.nn.checkpoint_directories import Params, Tensors, norm_params, stack, take
from lexinv.nn.vision_transformer import LAYERS, VisionConfig
from lexinv.nn.weight_files import read_onnx
from lexinv.validation import InvalidConfig, require

HEAD_WIDTH = 64
CUBIC = -0.75
"""The free coefficient of the cubic convolution that PyTorch resamples with (Keys 1981)."""


def load_dinov2(file: Path, size: int = 224) -> tuple[VisionConfig, Params]:
    """The backbone in an ONNX file with the names of `transformers`, for images of `size` pixels, normalised as ImageNet's, in float32.

    What else the graph holds is left out. Positions are those of the file, resampled to the patches of such images. Raises `InvalidConfig`
    for tensors that are missing, of another shape or not finite, for registers, and a size that is no multiple of a patch.
    """
    tensors = {name.removeprefix("backbone."): each for name, each in read_onnx(file).items()}
    try:
        return _backbone(tensors, size)
    except InvalidConfig as error:
        raise InvalidConfig(error.field, error.value, f"{error.allowed} (in {file})") from None


def _backbone(tensors: Tensors, size: int) -> tuple[VisionConfig, Params]:
    kernel = tensors.get("embeddings.patch_embeddings.projection.weight", np.zeros(()))
    require(kernel.ndim == 4, "tensor patch_embeddings.projection.weight", kernel.shape, "four axes, as in DINOv2")
    width, channels, patch, _ = kernel.shape
    require(not any("register" in name for name in tensors), "tensor", "register_tokens", "none in this kind of file")
    depth = len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")})
    require(depth >= 1, "tensor encoder.layer", depth, "at least one layer, as in DINOv2")
    mlp_width = tensors.get("encoder.layer.0.mlp.fc1.bias", np.zeros(1)).size
    sizes = {"depth": depth, "width": width, "heads": width // HEAD_WIDTH, "mlp_width": mlp_width}
    layers = replace(LAYERS, **sizes, layer_scale=True)
    config = VisionConfig(size, patch, channels, classes=0, layers=layers)

    def norm(name: str, stored: str) -> Params:
        return norm_params(name, *(take(tensors, f"{stored}.{part}", width) for part in ("weight", "bias")))

    def linear(name: str, stored: str, n: int, m: int) -> Params:
        """Stored [in, out], as a graph multiplies."""
        return {name: take(tensors, f"{stored}.weight", n, m), f"{name}_bias": take(tensors, f"{stored}.bias", m)}

    def layer(index: int) -> Params:
        at = f"encoder.layer.{index}"
        attention = linear("output", f"{at}.attention.output.dense", width, width)
        for name in ("query", "key", "value"):
            attention |= linear(name, f"{at}.attention.attention.{name}", width, width)
        return {
            "attention": attention,
            **norm("attention_norm", f"{at}.norm1"),
            **norm("mlp_norm", f"{at}.norm2"),
            **linear("mlp_in", f"{at}.mlp.fc1", width, mlp_width),
            **linear("mlp_out", f"{at}.mlp.fc2", mlp_width, width),
            "attention_scale": take(tensors, f"{at}.layer_scale1.lambda1", width),
            "mlp_scale": take(tensors, f"{at}.layer_scale2.lambda1", width),
        }

    # The exporter has cut the positions in two and left them nameless: CLS's own, and those of a square of patches.
    nameless = {name: each.shape for name, each in tensors.items() if name.startswith("onnx::") and each.ndim == 3}
    first = [name for name, shape in nameless.items() if shape == (1, 1, width)]
    grids = [name for name, shape in nameless.items() if shape[1] > 1 and shape[::2] == (1, width)]
    require(len(first) == len(grids) == 1, "tensor positions", (first, grids), "one of CLS and one of the patches")
    positions = resample(take(tensors, grids[0], *tensors[grids[0]].shape)[0], size // patch)
    kernel = take(tensors, "embeddings.patch_embeddings.projection.weight", width, channels, patch, patch)
    params: Params = {
        "patches": kernel.transpose(2, 3, 1, 0).reshape(-1, width),
        "patches_bias": take(tensors, "embeddings.patch_embeddings.projection.bias", width),
        "cls": take(tensors, "embeddings.cls_token", 1, 1, width)[0, 0],
        "positions": np.concatenate([take(tensors, first[0], 1, 1, width)[0], positions]),
        "layers": stack([layer(index) for index in range(depth)]),
        **norm("norm", "layernorm"),
    }
    return config, jax.tree.map(jnp.asarray, params)


def resample(positions: Float[np.ndarray, "patches width"], across: int) -> Float[np.ndarray, "resampled width"]:
    """Positions of a square of patches for one of `across` x `across`, by cubic convolution, as PyTorch has it."""
    before = round(len(positions) ** 0.5)
    require(before**2 == len(positions), "tensor positions", len(positions), "a square of patches")
    centre = (np.arange(across) + 0.5) * before / across - 0.5
    rows = np.zeros((across, before))
    for tap in range(-1, 3):
        index = np.floor(centre).astype(int) + tap
        away = np.abs(centre - index)
        near = ((CUBIC + 2) * away - (CUBIC + 3)) * away**2 + 1
        far = ((CUBIC * away - 5 * CUBIC) * away + 8 * CUBIC) * away - 4 * CUBIC
        np.add.at(rows, (np.arange(across), np.clip(index, 0, before - 1)), np.where(away <= 1, near, far))
    grid = positions.reshape(before, before, -1)
    return np.einsum("ai,bj,ijw->abw", rows, rows, grid).reshape(across**2, -1).astype(np.float32)
