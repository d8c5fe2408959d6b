"""Small Vision Transformers that some experiments on images share: trained once on glyphs or on large glyphs, several seeds each.

Method card zero-tprune. Glyphs are drawn anew at every step (`lexinv.data.glyphs`), so that it is known which patches show them.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Params, Training, train
from experiments.harness.workspace import Workspace
from lexinv.data.glyphs import GlyphConfig, Images, sample_images
from lexinv.nn.vision_transformer import LAYERS, VisionConfig, classify, initialize
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.step import LossFn
from lexinv.training.streams import stream
from lexinv.validation import Checked, one_of

SMALL = replace(LAYERS, depth=6, width=48, heads=3, mlp_width=192, attention="auto")
MUON = OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=50)
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class VisionSubject(Checked):
    """What a model is trained on, the model, and how. data: the records of these models name it."""

    data: Annotated[Literal["glyphs"], one_of(("glyphs",))] = "glyphs"
    glyphs: GlyphConfig = GlyphConfig()
    model: VisionConfig = VisionConfig(layers=SMALL)
    training: Training = field(default_factory=lambda: Training(3000, 32, SEEDS, MUON, steps_per_dispatch=10))

    def checks(self):
        made = (self.glyphs.size, 3, self.glyphs.classes)
        fits = (self.model.size, self.model.channels, self.model.classes) == made
        yield fits, "model", f"size, channels and classes of the data, {made}"
        yield self.model.patch == self.glyphs.patch, "model.patch", f"that of the glyphs, {self.glyphs.patch}"


GLYPHS = VisionSubject()
LARGE = VisionSubject(
    glyphs=GlyphConfig(cell=2, distractor=False, plate=True),
    training=Training(600, 64, SEEDS, MUON, steps_per_dispatch=10),
)
"""The glyph covers 36 of 64 patches: what a method keeps cannot be all of it (method card zero-tprune)."""
SUBJECTS = {"small": "small glyph, distractor", "large": "large glyph"}
"""`GLYPHS` and `LARGE` where experiments compare them."""


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

    found = shared_models({"subject": asdict(subject)}, trained, workspace)
    return dict(zip(subject.training.seeds, found.params, strict=True))


def make_loss(subject: VisionSubject) -> LossFn:
    """Cross-entropy in nats of a batch drawn from the key, with the metric `accuracy`."""

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        images = sample_images(subject.glyphs, subject.training.batch_size, stream(key, "images"))
        logits, _ = classify(subject.model, params, images.pixels)
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), images.labels[:, None], axis=1)
        return -jnp.mean(own), {"accuracy": jnp.mean(_right(logits, images.labels))}

    return loss


def held_out(subject: VisionSubject, seed: int, count: int) -> Images:
    """Images to judge on: drawn for this seed alone, never seen in training."""
    sample = jax.jit(sample_images, static_argnums=(0, 1))
    return sample(subject.glyphs, count, stream(jax.random.key(seed), "held out"))


def accuracy(logits: Float[Array, "images classes"], labels: Int[Array, " images"]) -> float:
    """The share of images whose largest logit is their class's."""
    return float(jnp.mean(_right(logits, labels)))


def _right(logits: Array, labels: Array) -> Array:
    return (jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels).astype(jnp.float32)
