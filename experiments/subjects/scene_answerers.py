"""A toy vision-language model that answers questions about generated scenes, trained once for all experiments that take tokens from it.

Method cards divprune, todre and token-reduction-beyond-efficiency. Everything is trained together: the answers to all questions of a scene,
which share one image and do not see each other; and two heads of the encoder that are dropped afterwards, as those of a pretrained one: CLS
names all objects, for every shape its colour or that it is not there; every patch shape and colour of its object.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Params, Training, train
from experiments.harness.workspace import Workspace
from lexinv.data.scenes import KINDS, LENGTH, Questions, SceneConfig, Scenes, ask, sample_scenes
from lexinv.nn.attention import UNSEEN
from lexinv.nn.transformer import TransformerConfig
from lexinv.nn.vision_language import (
    Prompt,
    VisionLanguageConfig,
    answer_logits,
    decode,
    encode,
    image_logits,
    initialize,
    patch_logits,
    prompt,
)
from lexinv.nn.vision_transformer import LAYERS, VisionConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, NonNegative

CAPTION = 4.0
"""How much more than what one patch shows the mean over what CLS says of every shape weighs."""


@dataclass(frozen=True)
class SceneSubject(Checked):
    """What decides the models. counts, presences: questions of these kinds for each scene in training, besides one for each object.

    system: tokens of the prompt before the image. auxiliary: weight of the losses of the encoder's two heads.
    """

    data: SceneConfig = SceneConfig()
    vision_depth: Count = 2
    vision_width: Count = 64
    depth: Count = 6
    width: Count = 64
    heads: Count = 2
    system: Count = 4
    counts: int = 2
    presences: int = 4
    auxiliary: NonNegative = 0.5
    training: Training = Training(
        700, 16, tuple(range(10)), OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=30), steps_per_dispatch=10
    )

    def checks(self):
        self.model  # noqa: B018 - refuses what the model refuses
        yield from ()

    @property
    def model(self) -> VisionLanguageConfig:
        """MLPs are twice as wide as the stream."""
        layers = replace(
            LAYERS, depth=self.vision_depth, width=self.vision_width, heads=self.heads, mlp_width=2 * self.vision_width
        )
        side = self.data.grid * self.data.patch
        shapes, colours = self.data.shapes, self.data.colours
        return VisionLanguageConfig(
            VisionConfig(side, self.data.patch, 3, shapes * (colours + 1), layers=replace(layers, gelu="tanh")),
            TransformerConfig(self.depth, self.width, self.heads, 2 * self.width),
            self.data.words,
            self.data.answers,
            shapes + colours + 2,
            self.system,
        )


SMOKE = {
    "subject.data.grid": 4,
    "subject.data.sizes": (2, 1, 1, 1),
    "subject.vision_depth": 1,
    "subject.vision_width": 16,
    "subject.depth": 3,
    "subject.width": 16,
    "subject.heads": 2,
    "subject.training": Training(10, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=10),
}
"""A subject that shows nothing but that all runs, by dotted names."""
PUBLISHED = {
    "subject.data.grid": 24,
    "subject.data.patch": 16,
    "subject.data.sizes": (8, 4, 1, 1, 1, 1, 1, 1),
    "subject.vision_depth": 24,
    "subject.vision_width": 1024,
    "subject.depth": 32,
    "subject.width": 4096,
    "subject.heads": 32,
    "subject.training": Training(20_000, 256, (0, 1, 2), OptimizerConfig("muon", 2e-3, 500), steps_per_dispatch=10),
}
"""One of the size that the papers prune."""


def scene_models(subject: SceneSubject, workspace: Workspace) -> dict[int, Params]:
    """The models of the subject by seed, from the user's cache or trained now."""

    def trained(shared: Workspace) -> list[Params]:
        start = partial(initialize, subject.model)
        # The tokens of one example are those that the decoder reads.
        asked = len(subject.data.sizes) + subject.counts + subject.presences
        tokens = subject.system + subject.data.patches + LENGTH * asked
        return train("scenes", start, partial(loss, subject), None, subject.training, shared, tokens=tokens)

    return dict(zip(subject.training.seeds, shared_models(asdict(subject), trained, workspace).params, strict=True))


def loss(subject: SceneSubject, params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of the answers, in nats, plus the weighted cross-entropies of the encoder's heads; metrics by kind of question."""
    scene_key, question_key = jax.random.split(key)
    scenes = sample_scenes(subject.data, subject.training.batch_size, scene_key)
    questions = ask(subject.data, scenes, question_key, subject.counts, subject.presences)
    encoded = encode(subject.model, params, scenes.pixels)
    logits = answer_together(subject, params, encoded.visual, questions)
    answered = optax.softmax_cross_entropy_with_integer_labels(logits, questions.answer)
    right = jnp.argmax(logits, axis=-1) == questions.answer
    of_kind = _slices(subject)
    metrics = {kind: jnp.mean(right[:, asked]) for kind, asked in of_kind.items()}

    shapes = subject.data.shapes
    caption = _cost(named(subject, params, encoded.cls), said_of(subject.data, scenes))
    there, owner = scenes.owner >= 0, jnp.maximum(scenes.owner, 0)
    shape = jnp.where(there, jnp.take_along_axis(scenes.shape, owner, axis=1), shapes)
    colour = jnp.where(there, jnp.take_along_axis(scenes.colour, owner, axis=1), subject.data.colours)
    patches = patch_logits(params, encoded.patches)
    content = _cost(patches[..., : shapes + 1], shape) + _cost(patches[..., shapes + 1 :], colour)
    metrics |= {"answers": jnp.mean(answered), "caption": caption, "patches": content}
    return jnp.mean(answered) + subject.auxiliary * (CAPTION * caption + content), metrics


def _cost(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def named(subject: SceneSubject, params: Params, cls: jax.Array) -> jax.Array:
    """Logits [scenes, shapes, colours + 1] of what CLS says of every shape: its colour, or, last, that it is not there."""
    return image_logits(params, cls).reshape(len(cls), subject.data.shapes, -1)


def said_of(data: SceneConfig, scenes: Scenes) -> jax.Array:
    """What is right to say of every shape, [scenes, shapes]."""
    absent = jnp.full((len(scenes.shape), data.shapes), data.colours, jnp.int32)
    return absent.at[jnp.arange(len(absent))[:, None], scenes.shape].set(scenes.colour.astype(jnp.int32))


def _slices(subject: SceneSubject) -> dict[str, slice]:
    """Where the questions of each kind are."""
    ends = np.cumsum([0, len(subject.data.sizes), subject.counts, subject.presences])
    found = {kind: slice(int(a), int(b)) for kind, a, b in zip(KINDS, ends[:-1], ends[1:], strict=True)}
    return {kind: asked for kind, asked in found.items() if asked.stop > asked.start}


class Asked(NamedTuple):
    """All questions of each scene behind one image: each sees the image and itself, at the positions that it has alone."""

    prompt: Prompt
    apart: jax.Array
    """Hides the words of one question from another, [heads, time, time]."""
    words: np.ndarray
    """Where the words of each question are, [questions, LENGTH]; its answer is read at the last."""


def ask_together(
    subject: SceneSubject,
    params: Params,
    visual: jax.Array,
    questions: Questions,
    places: jax.Array | None = None,
    size: jax.Array | None = None,
    gaps: Literal["keep", "close"] = "keep",
) -> Asked:
    """visual, places, size, gaps: as for `lexinv.nn.vision_language.prompt`."""
    count, number = questions.answer.shape
    seen = prompt(subject.model, params, visual, questions.words.reshape(count, -1), places, size, gaps)
    before = subject.system + visual.shape[1]
    which = np.concatenate([np.full(before, -1), np.repeat(np.arange(number), LENGTH)])
    apart = np.where((which[None, :] < 0) | (which[:, None] == which[None, :]), 0.0, UNSEEN).astype(np.float32)
    behind = np.tile(np.arange(LENGTH), number) - np.arange(LENGTH * number)
    shift = jnp.asarray(np.concatenate([np.zeros(before), behind]), jnp.int32)
    bias = jnp.broadcast_to(jnp.asarray(apart)[None], (subject.heads, *apart.shape))
    words = before + np.arange(LENGTH * number).reshape(number, LENGTH)
    return Asked(seen._replace(positions=seen.positions + shift[None]), bias, words)


def answer_together(subject: SceneSubject, params: Params, visual: jax.Array, questions: Questions) -> jax.Array:
    """Logits [scenes, questions, answers] of all questions of a scene at once."""
    asked = ask_together(subject, params, visual, questions)
    after = decode(subject.model, params, asked.prompt, apart=asked.apart)
    return answer_logits(params, after.stream[:, asked.words[:, -1]])


class HeldOut(NamedTuple):
    """Scenes that were not trained on, and their questions."""

    scenes: Scenes
    questions: Questions


def held_out(subject: SceneSubject, seed: int, count: int) -> HeldOut:
    """`count` fresh scenes with the questions of training, drawn from a stream that training does not use."""
    scene_key, question_key = jax.random.split(stream(jax.random.key(seed), "held out"))
    scenes = sample_scenes(subject.data, count, scene_key)
    return HeldOut(scenes, ask(subject.data, scenes, question_key, subject.counts, subject.presences))
