"""Vision Transformers that others have trained, in timm's form, and the images of TFDS that they are judged on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lexinv.data.glyphs import Images
from lexinv.data.images import Crop, open_images
from lexinv.nn.vision_transformer import VisionConfig, load_vision_transformer
from lexinv.validation import Checked, Count, require


@dataclass(frozen=True)
class PublishedModel(Checked):
    """name: in the figure. weights: the folder with its *.safetensors. heads: which the tensors do not tell.

    images: for each seed, different ones; they are held in memory (0.6 GB for 1000 of 224 pixels).
    """

    name: str
    weights: str
    heads: Count
    dataset: str = "imagenet2012"
    split: str = "validation"
    crop: Crop = Crop()
    images: Count = 4992

    def checks(self):
        yield self.name != "", "name", "a name"


OF_THE_PAPER = tuple(
    PublishedModel(name, folder, heads, images=1984)
    for name, folder, heads in (
        ("DeiT-T", "deit-tiny", 3),
        ("DeiT-S", "deit-small", 6),
        ("DeiT-B", "deit-base", 12),
        ("MAE-L", "mae-large-finetuned", 16),
        ("MAE-H", "mae-huge-finetuned", 16),
    )
)
"""Those on which Tran et al. 2024 compare methods on ImageNet."""


@dataclass(frozen=True)
class Published:
    """A model made ready; images of each seed, and what tells its weights and images from others."""

    model: VisionConfig
    params: Any
    images: list[Images]
    fingerprint: str


def open_published(published: PublishedModel, seeds: int) -> Published:
    """Read the weights and so many disjoint random sets of images, the same in every run.

    Raises `InvalidConfig` for a folder without weights, a data set without so many images, and one of other classes or another size than
    the model's.
    """
    folder = Path(published.weights).expanduser()
    require(folder.is_dir(), "published.weights", published.weights, "a folder with the *.safetensors of timm's model")
    model, params = load_vision_transformer(folder, published.heads)
    require(published.crop.size == model.size, "published.crop.size", published.crop.size, f"the model's {model.size}")
    source = open_images(published.dataset, published.split)
    require(source.classes == model.classes, "published.dataset", published.dataset, f"one of {model.classes} classes")
    wanted = seeds * published.images
    require(
        wanted <= len(source), "published.images", published.images, f"at most {len(source) // seeds} for each seed"
    )
    rows = np.random.default_rng(0).permutation(len(source))[:wanted].reshape(seeds, -1)
    images = [Images(*map(jnp.asarray, source.batch(some, published.crop))) for some in rows]
    digest = hashlib.sha256(source.identity.encode())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return Published(model, params, images, digest.hexdigest()[:16])
