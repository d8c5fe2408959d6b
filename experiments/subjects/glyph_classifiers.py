"""Small Vision Transformers that the experiments on images share: trained once on glyphs, on large glyphs or on digits, several seeds each.

Method card token-merging, small reproduction 2. Glyphs are drawn anew at every step (`lexinv.data.glyphs`); digits are the 8 x 8 images of
scikit-learn with a token for each pixel, moved by up to one pixel, with a fixed split into training and test images.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Params, Training, train
from experiments.harness.workspace import Workspace
from lexinv.data.glyphs import GlyphConfig, Images, sample_images
from lexinv.nn.vision_transformer import LAYERS, VisionConfig, classify, initialize
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.step import LossFn
from lexinv.training.streams import stream
from lexinv.validation import Checked, InvalidConfig, one_of, require

SMALL = replace(LAYERS, depth=6, width=48, heads=3, mlp_width=192, attention="auto")
DEIT_S = replace(LAYERS, depth=12, width=384, heads=6, mlp_width=1536, attention="auto")
MUON = OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=50)
SEEDS = (0, 1, 2, 3, 4)
TRAIN_DIGITS = 1000
"""Of the 1797 digits; the others are for testing."""


@dataclass(frozen=True)
class VisionSubject(Checked):
    """What a model is trained on, the model, and how. data: glyphs as `glyphs` says, or "digits" of scikit-learn."""

    data: Annotated[Literal["glyphs", "digits"], one_of(("glyphs", "digits"))] = "glyphs"
    glyphs: GlyphConfig = GlyphConfig()
    model: VisionConfig = VisionConfig(layers=SMALL)
    training: Training = field(default_factory=lambda: Training(3000, 32, SEEDS, MUON, steps_per_dispatch=10))

    def checks(self):
        digits = self.data == "digits"
        made = (8, 1, 10) if digits else (self.glyphs.size, 3, self.glyphs.classes)
        fits = (self.model.size, self.model.channels, self.model.classes) == made
        yield fits, "model", f"size, channels and classes of the data, {made}"
        patch = digits or self.model.patch == self.glyphs.patch
        yield patch, "model.patch", f"that of the glyphs, {self.glyphs.patch}"


GLYPHS = VisionSubject()
LARGE = VisionSubject(
    glyphs=GlyphConfig(cell=2, distractor=False, plate=True),
    training=Training(600, 64, SEEDS, MUON, steps_per_dispatch=10),
)
"""The glyph covers 36 of 64 patches: what a method keeps cannot be all of it (method card zero-tprune)."""
SUBJECTS = {"small": "small glyph, distractor", "large": "large glyph"}
"""`GLYPHS` and `LARGE` where experiments compare them."""
FULL_SIZE = replace(
    GLYPHS,
    glyphs=GlyphConfig(size=224, patch=16, classes=17),
    model=VisionConfig(size=224, patch=16, classes=17, layers=DEIT_S),
    training=replace(GLYPHS.training, steps=20000, batch_size=256),
)
"""As large as a DeiT-S on ImageNet."""
DIGITS = VisionSubject(
    "digits",
    model=VisionConfig(size=8, patch=1, channels=1, layers=SMALL),
    training=Training(2000, 32, SEEDS, replace(MUON, weight_decay=0.1), steps_per_dispatch=10),
)


def tiny(subject: VisionSubject, depth: int = 2) -> VisionSubject:
    """The same with a net and a training that show nothing but that all runs."""
    layers = replace(subject.model.layers, depth=depth, width=16, heads=2, mlp_width=32)
    training = Training(10, 8, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=10)
    return replace(subject, model=replace(subject.model, layers=layers), training=training)


def one_seed(subject: VisionSubject) -> VisionSubject:
    """The subject with its first seed alone, for presets that must not take long."""
    return replace(subject, training=replace(subject.training, seeds=subject.training.seeds[:1]))


def vision_models(subject: VisionSubject, workspace: Workspace) -> dict[int, Params]:
    """The subject's models by seed, from the user's cache or trained now. Raises `lexinv.training.fit.NonFiniteLoss`."""

    def trained(shared: Workspace) -> list[Params]:
        start, tokens = partial(initialize, subject.model), subject.model.tokens
        return train("vision", start, make_loss(subject), None, subject.training, shared, tokens=tokens)

    content = {"subject": asdict(subject), "images": fingerprint(subject)}
    return dict(zip(subject.training.seeds, shared_models(content, trained, workspace).params, strict=True))


def make_loss(subject: VisionSubject, apply: Any = None) -> LossFn:
    """Cross-entropy in nats of a batch drawn from the key, with the metric `accuracy`.

    apply: logits = apply(params, pixels, key), such as of a model that merges; the subject's plain model by default.
    """

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        images = draw(subject, subject.training.batch_size, stream(key, "images"))
        if apply is None:
            logits, _ = classify(subject.model, params, images.pixels)
        else:
            logits = apply(params, images.pixels, stream(key, "model"))
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), images.labels[:, None], axis=1)
        return -jnp.mean(own), {"accuracy": jnp.mean(_right(logits, images.labels))}

    return loss


def draw(subject: VisionSubject, count: int, key: Key[Array, ""]) -> Images:
    """Images to train on. Digits: drawn with replacement, moved by -1, 0 or 1 pixel each way, and zeros moved in."""
    if subject.data == "glyphs":
        return sample_images(subject.glyphs, count, key)
    pixels, labels = digits()
    row_key, move_key = jax.random.split(key)
    rows = jax.random.randint(row_key, (count,), 0, TRAIN_DIGITS)
    padded = jnp.pad(jnp.asarray(pixels)[rows], ((0, 0), (1, 1), (1, 1), (0, 0)))
    moves = jax.random.randint(move_key, (count, 2), 0, 3)
    cut = jax.vmap(lambda image, move: jax.lax.dynamic_slice(image, (move[0], move[1], 0), (8, 8, 1)))
    return Images(cut(padded, moves), jnp.asarray(labels)[rows])


def held_out(subject: VisionSubject, seed: int, count: int) -> Images:
    """Images to judge on: glyphs drawn for this seed alone, never seen in training; the first `count` test digits, for every seed the same.

    Raises `InvalidConfig` for more digits than there are.
    """
    if subject.data == "glyphs":
        sample = jax.jit(sample_images, static_argnums=(0, 1))
        return sample(subject.glyphs, count, stream(jax.random.key(seed), "held out"))
    pixels, labels = digits()
    require(count <= len(labels) - TRAIN_DIGITS, "count", count, f"at most {len(labels) - TRAIN_DIGITS} test digits")
    rows = slice(TRAIN_DIGITS, TRAIN_DIGITS + count)
    return Images(jnp.asarray(pixels[rows]), jnp.asarray(labels[rows]))


def accuracy(logits: Float[Array, "images classes"], labels: Int[Array, " images"]) -> float:
    """The share of images whose largest logit is their class's."""
    return float(jnp.mean(_right(logits, labels)))


def _right(logits: Array, labels: Array) -> Array:
    return (jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels).astype(jnp.float32)


@cache
def digits() -> tuple[Float[np.ndarray, "images 8 8 1"], Int[np.ndarray, " images"]]:
    """scikit-learn's 1797 digits from 0 to 1 and their classes, in one fixed random order.

    Raises `InvalidConfig` where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InvalidConfig("package", "scikit-learn", "installed: pip install scikit-learn, or lexinv[test]") from None
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    pixels = (found.images[order, :, :, None] / 16).astype(np.float32)
    return pixels, found.target[order].astype(np.int32)


def fingerprint(subject: VisionSubject) -> str:
    """What tells the images of this subject from others; generated ones are told by their configuration and code."""
    if subject.data == "glyphs":
        return "generated"
    import hashlib

    pixels, labels = digits()
    return hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()[:16]
