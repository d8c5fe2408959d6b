"""Labelled images of TFDS data sets, cut and normalised as vision models expect them when they are evaluated."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from lexinv.validation import choose, require

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Crop:
    """How an image becomes [size, size, 3]: its shorter side scaled to size / share, bicubic; the middle; (x / 255 - mean) / std.

    The default is that of DeiT and MAE; timm's ViT of AugReg has mean and std 0.5 and share 0.9.
    """

    size: int = 224
    share: float = 0.875
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self):
        require(self.size >= 1, "crop.size", self.size, "at least 1 pixel")
        require(0 < self.share <= 1, "crop.share", self.share, "above 0, at most 1")
        require(min(self.std) > 0, "crop.std", self.std, "positive numbers")


@dataclass(frozen=True)
class ImageSource:
    """A split in random access. `classes`: how many labels there are. identity: what tells this data set from others."""

    examples: Sequence[Mapping[str, Any]]
    classes: int
    identity: str

    def __len__(self) -> int:
        return len(self.examples)

    def batch(
        self, rows: Sequence[int] | Int[np.ndarray, " images"], crop: Crop
    ) -> tuple[Float[np.ndarray, "images size size 3"], Int[np.ndarray, " images"]]:
        """(pixels, labels) of these images."""
        found = [self.examples[int(row)] for row in rows]
        pixels = np.stack([evaluation_pixels(decode(example["image"]), crop) for example in found])
        return pixels, np.array([example["label"] for example in found], np.int32)


def open_images(dataset: str, split: str) -> ImageSource:
    """A split of a TFDS data set with the features `image` and `label`, such as "imagenet2012" and "validation"; prepared if need be.

    Needs no TensorFlow. Raises `InvalidConfig` for an unknown data set or split, other features, and data that is not ArrayRecord.
    """
    import tensorflow_datasets as tfds

    from lexinv.data.builder import open_sources

    # Encoded, since some files of ImageNet are in colour spaces that TFDS hands on as they are.
    sources, info, identity = open_sources("dataset", dataset, dataset, {"image": tfds.decode.SkipDecoding()})
    features = dict(info.features.items())
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    labelled = all(isinstance(features.get(name), kind) for name, kind in kinds.items())
    allowed = f"one with an image called image and a class called label, here {sorted(features)}"
    require(labelled, "dataset", dataset, allowed)
    return ImageSource(sources[choose("split", split, sources)], features["label"].num_classes, identity)


def decode(encoded: bytes) -> UInt8[np.ndarray, "rows columns 3"]:
    """An image file, JPEG, PNG or another, as RGB."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def evaluation_pixels(image: UInt8[np.ndarray, "rows columns 3"], crop: Crop) -> Float[np.ndarray, "size size 3"]:
    """Scaled, cut and normalised as `crop` says."""
    from PIL import Image

    rows, columns, _ = image.shape
    shorter = int(crop.size / crop.share)
    scale = shorter / min(rows, columns)
    scaled = (max(round(columns * scale), shorter), max(round(rows * scale), shorter))
    resized = np.asarray(Image.fromarray(image).resize(scaled, Image.Resampling.BICUBIC))
    top, left = (round((side - crop.size) / 2) for side in resized.shape[:2])
    middle = resized[top : top + crop.size, left : left + crop.size].astype(np.float32) / 255
    return (middle - np.array(crop.mean, np.float32)) / np.array(crop.std, np.float32)
