"""Digits in matplotlib's own fonts on cuts of photographs, and small Vision Transformers that are trained to read them, several seeds.

A labelled task out of installed packages. A digit is light, the photograph behind it darkened; place, height, slant, font and photograph
are random, and nothing is aligned with the patches. Models are judged on families of fonts and on photographs that they did not see.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, UInt8

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Params, Training, train
from experiments.harness.work import MapDataset
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_vision import fingerprint, photographs
from lexinv.data.glyphs import Images
from lexinv.nn.vision_transformer import LAYERS, VisionConfig, classify, initialize
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.step import LossFn
from lexinv.training.streams import stream
from lexinv.validation import MOST, Checked, Count, Fraction, Share, require

DEJAVU = {"Sans": "Oblique", "SansMono": "Oblique", "Serif": "Italic"}
"""Families, and what they call slanted."""


def _dejavu(family: str) -> tuple[str, ...]:
    return tuple(f"DejaVu{family}{style}" for style in ("", "-Bold", f"-{DEJAVU[family]}", f"-Bold{DEJAVU[family]}"))


STIX = tuple(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta"))
FONTS = (*_dejavu("Sans"), *_dejavu("SansMono"), *STIX, "cmr10", "cmb10", "cmti10")
HELD_OUT_FONTS = (*_dejavu("Serif"), "cmss10", "cmtt10")
HELD_OUT_PHOTOGRAPHS = ("coffee", "coins", "flower", "grass")
SEEDS = tuple(range(12))
DIGITS = "0123456789"
DRAWN_AT = 96
"""Pixels of a digit's em before it is slanted and scaled."""
DARK, LIGHT = 0.35, 220
"""Brightness of a photograph behind a digit relative to its own, and of a digit at least, of 255."""


@dataclass(frozen=True)
class CharacterSubject(Checked):
    """images: grey ones, to train on. least, most: the height of a digit as a share of the image's. slant: at most, either way."""

    images: Count = 16_384
    least: Fraction = 0.6
    most: Fraction = 0.9
    slant: Share = 0.2
    model: VisionConfig = VisionConfig(48, 6, 1, layers=replace(LAYERS, depth=4, width=32, heads=2, mlp_width=128))
    training: Training = field(
        default_factory=lambda: Training(
            1000, 32, SEEDS, OptimizerConfig("muon", learning_rate=1.5e-2, warmup_steps=50), steps_per_dispatch=10
        )
    )

    def checks(self):
        made = (self.model.channels, self.model.classes)
        yield made == (1, len(DIGITS)), "model", f"1 channel and {len(DIGITS)} classes"
        yield self.least <= self.most, "least", f"at most most = {self.most}"


CHARACTERS = CharacterSubject()
FULL_SIZE = replace(
    CHARACTERS,
    images=65_536,
    model=VisionConfig(224, 16, 1, layers=replace(LAYERS, depth=12, width=384, heads=6, mlp_width=1536)),
    training=replace(CHARACTERS.training, steps=20_000, batch_size=256),
)
"""As large as a DeiT-S on ImageNet."""


def tiny(depth: int = 2) -> CharacterSubject:
    """With a net and a training that show nothing but that all runs."""
    layers = replace(LAYERS, depth=depth, width=16, heads=2, mlp_width=32)
    training = Training(10, 8, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=10)
    return replace(CHARACTERS, images=64, model=replace(CHARACTERS.model, layers=layers), training=training)


class Drawn(NamedTuple):
    """Pictures and their classes."""

    pixels: UInt8[np.ndarray, "images size size 1"]
    labels: Int[np.ndarray, " images"]


@cache
def upright(font: str, digit: str) -> Any:
    """The digit in white on black, with room for a slant."""
    from PIL import Image, ImageDraw, ImageFont

    file = Path(matplotlib.get_data_path()) / "fonts/ttf" / f"{font}.ttf"
    image = Image.new("L", (2 * DRAWN_AT, 2 * DRAWN_AT))
    ImageDraw.Draw(image).text((DRAWN_AT, DRAWN_AT), digit, 255, ImageFont.truetype(str(file), DRAWN_AT), "mm")
    return image


@lru_cache(2)
def draw(subject: CharacterSubject, count: int, seed: int, held_out: bool) -> Drawn:
    """So many images, of the fonts and photographs to train on or of the others. Raises `InvalidConfig` without photographs."""
    from PIL import Image

    generator, size = np.random.default_rng((seed, held_out)), subject.model.size
    fonts = HELD_OUT_FONTS if held_out else FONTS
    behind = [image for name, image in photographs().items() if (name in HELD_OUT_PHOTOGRAPHS) == held_out]
    require(len(behind) > 0, "photographs", sorted(photographs()), f"with and without one of {HELD_OUT_PHOTOGRAPHS}")
    labels = generator.integers(0, len(DIGITS), count, dtype=np.int32)
    pixels = np.empty((count, size, size, 1), np.uint8)
    for row, label in enumerate(labels):
        photograph = behind[generator.integers(len(behind))]
        side = generator.integers(size, min(3 * size, *photograph.shape[:2]) + 1)
        top, left = (generator.integers(0, whole - side + 1) for whole in photograph.shape[:2])
        cut = Image.fromarray(photograph[top : top + side, left : left + side]).convert("L").resize((size, size))
        slant = generator.uniform(-subject.slant, subject.slant)
        plain = upright(fonts[generator.integers(len(fonts))], DIGITS[label])
        slanted = plain.transform(plain.size, Image.Transform.AFFINE, (1, slant, -slant * DRAWN_AT, 0, 1, 0), 2)
        found = slanted.crop(slanted.getbbox())
        height = round(size * generator.uniform(subject.least, subject.most))
        width = min(max(round(found.width * height / found.height), 1), size)
        mask = np.zeros((size, size))
        y, x = (generator.integers(0, size - extent + 1) for extent in (height, width))
        mask[y : y + height, x : x + width] = np.asarray(found.resize((width, height))) / 255
        pixels[row, :, :, 0] = DARK * np.asarray(cut) * (1 - mask) + generator.uniform(LIGHT, 255) * mask
    return Drawn(pixels, labels)


def normalised(pixels: UInt8[Array, "images size size 1"]) -> Float[Array, "images size size 1"]:
    """As the models read them."""
    return (jnp.asarray(pixels).astype(jnp.float32) / 255 - 0.3) / 0.25


def to_train_on(subject: CharacterSubject) -> Drawn:
    """The same for all seeds."""
    return draw(subject, subject.images, 0, False)


def held_out(subject: CharacterSubject, seed: int, count: int) -> Images:
    """Images to judge on, of this seed alone."""
    drawn = draw(subject, count, seed, True)
    return Images(normalised(drawn.pixels), jnp.asarray(drawn.labels))


def corpora(subject: CharacterSubject) -> dict[str, str]:
    """What tells the photographs, and the images to train on, from others."""
    digest = hashlib.sha256(to_train_on(subject).pixels.tobytes()).hexdigest()[:16]
    return {**fingerprint(photographs()), "characters": digest}


def batches(subject: CharacterSubject, training: Training) -> Callable[[int], MapDataset]:
    """By seed, images drawn with replacement: {"pixels": uint8, "labels": int32}, leaves [dispatch, batch, ...]."""
    drawn, shape = to_train_on(subject), (training.steps_per_dispatch, training.batch_size)

    def of_seed(seed: int) -> MapDataset:
        import grain

        def dispatch(index: int) -> dict[str, np.ndarray]:
            rows = np.random.default_rng((seed, index)).integers(0, len(drawn.labels), shape)
            return {"pixels": drawn.pixels[rows], "labels": drawn.labels[rows]}

        return grain.MapDataset.range(MOST // shape[0]).map(dispatch)

    return of_seed


def cross_entropy(logits: Float[Array, "images classes"], labels: Int[Array, " images"]) -> Float[Array, ""]:
    """In nats, the mean over images."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def make_loss(apply: Callable[[Params, Array, Key[Array, ""]], Array]) -> LossFn:
    """Cross-entropy in nats of logits = apply(params, pixels, key), such as of a model that merges."""

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        logits = apply(params, normalised(batch["pixels"]), stream(key, "model"))
        return cross_entropy(logits, batch["labels"]), {}

    return loss


def character_models(subject: CharacterSubject, workspace: Workspace) -> list[Params]:
    """The subject's models, one for each seed, from the user's cache or trained now. Raises `lexinv.training.fit.NonFiniteLoss`."""
    model, training = subject.model, subject.training

    def trained(shared: Workspace) -> list[Params]:
        loss = make_loss(lambda params, pixels, _: classify(model, params, pixels)[0])
        given = batches(subject, training)
        return train("vision", partial(initialize, model), loss, given, training, shared, tokens=model.tokens)

    return shared_models({"subject": asdict(subject), "images": corpora(subject)}, trained, workspace).params
