"""A toy vision-language model that reads a large scene as a small picture of it all and as crops at full resolution.

Method card globalcom2. A scene is `across` by `across` crops. The thumbnail, as large as one crop, is the mean of its pixels, so that the
shape of an object of a patch is lost there and its colour is not. All objects are crowded into one crop, or each crop has equally many:
the same objects at the same places of another crop. Models of `scene_answerers`, of crowded crops, go on with whole scenes, trained as
there: the answers, and two heads of the encoder, by which CLS names all objects of every picture, and patches of crops theirs. A second
encoder, the control, goes on from there with thumbnails alone until CLS names nothing but the largest object.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Params, Training, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects import scene_answerers
from experiments.subjects.scene_answerers import CAPTION, Asked, SceneSubject, ask_together, named, scene_models
from lexinv.data.scenes import BACKGROUND, LENGTH, Questions, SceneConfig, Scenes, ask, sample_scenes
from lexinv.nn.vision_language import Encoded, answer_logits, decode, encode, patch_logits
from lexinv.randomness import threefry
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count

SEEDS = (0, 1, 2, 3, 4)
ASKED = slice(None, None, 2)
"""Objects whose colour is asked for in training."""


@dataclass(frozen=True)
class CropSubject(Checked):
    """scenes: of one crop, and their model, which is trained on crowded crops alone first. across: crops along a side.

    training: how it goes on with thumbnail and crops. naming: how the second encoder then goes on.
    """

    scenes: SceneSubject = SceneSubject(
        SceneConfig(grid=8, sizes=(2, *[1] * 11)),
        depth=3,
        counts=0,
        presences=0,
        training=Training(450, 16, SEEDS, OptimizerConfig("muon", 1e-2, 30), steps_per_dispatch=10),
    )
    across: Count = 2
    training: Training = Training(300, 8, SEEDS, OptimizerConfig("muon", 1e-2, 10), steps_per_dispatch=10)
    naming: Training = Training(150, 16, SEEDS, OptimizerConfig("muon", 1e-2, 10), steps_per_dispatch=10)

    def checks(self):
        objects = len(self.scenes.data.sizes)
        yield objects % self.crops == 0, "across", f"crops that divide the {objects} objects"
        for part in ("training", "naming"):
            same = getattr(self, part).seeds == self.scenes.training.seeds
            yield same, f"{part}.seeds", "those of scenes.training"

    @property
    def crops(self) -> int:
        return self.across**2

    @property
    def visual(self) -> int:
        """Visual tokens of a scene: of the thumbnail, then of one crop after another."""
        return (1 + self.crops) * self.scenes.data.patches


class Pictures(NamedTuple):
    """pixels: the thumbnail, then the crops. owner: the object that each patch of a crop shows, `BACKGROUND` for none.

    home: the crop that each object is in.
    """

    pixels: Float[Array, "scenes pictures side side 3"]
    owner: Int[Array, "scenes crops patches"]
    home: Int[Array, "scenes objects"]


class Models(NamedTuple):
    """Parameters of the model, and {"vision", "projector"} of the encoder whose CLS names the largest object only."""

    params: Params
    largest: Params


def crop_models(subject: CropSubject, workspace: Workspace) -> dict[int, Models]:
    """By seed, from the user's cache or trained now."""

    def trained(shared: Workspace) -> list[Models]:
        own = subject.scenes
        start = stacked(list(scene_models(own, workspace).values()))
        tokens = own.system + subject.visual + LENGTH * len(own.data.sizes[ASKED])
        models = train("crops", start, partial(loss, subject), None, subject.training, shared, tokens=tokens)
        encoders = stacked([{part: params[part] for part in ("vision", "projector")} for params in models])
        largest = train("largest", encoders, partial(naming_loss, subject), None, subject.naming, shared)
        return [Models(*both) for both in zip(models, largest, strict=True)]

    found = shared_models(asdict(subject), trained, workspace, (scene_answerers,)).params
    return dict(zip(subject.training.seeds, found, strict=True))


def draw(subject: CropSubject, count: int, key: Key[Array, ""], crowded: Any) -> tuple[Scenes, Pictures, Questions]:
    """Scenes, their pictures, and a question for the colour of each object. crowded: of each scene whether all are in one crop."""
    scene_key, home_key, noise_key, question_key = jax.random.split(threefry(key), 4)
    data = subject.scenes.data
    scenes = sample_scenes(replace(data, noise=0.0), count, scene_key)
    objects = scenes.shape.shape[1]

    def homes(one: Key[Array, ""]) -> Int[Array, "2 objects"]:
        order = jax.random.permutation(one, objects).astype(jnp.int32) % subject.crops
        return jnp.stack([order, jnp.broadcast_to(order[:1], order.shape)])

    both = jax.vmap(homes)(jax.random.split(home_key, count))
    home = jnp.where(jnp.broadcast_to(jnp.asarray(crowded), (count,))[:, None], both[:, 1], both[:, 0])
    return scenes, _cut(subject, scenes, home, noise_key), ask(data, scenes, question_key, 0, 0)


def _cut(subject: CropSubject, scenes: Scenes, home: Int[Array, "scenes objects"], key: Key[Array, ""]) -> Pictures:
    data, across, count = subject.scenes.data, subject.across, len(home)
    side, there = data.grid * data.patch, scenes.owner >= 0
    at_home = jnp.take_along_axis(home, jnp.maximum(scenes.owner, 0), axis=1)[:, None]
    shown = there[:, None] & (at_home == jnp.arange(subject.crops, dtype=jnp.int32)[None, :, None])
    owner = jnp.where(shown, scenes.owner[:, None], BACKGROUND)

    def of_pixels(patches: Array) -> Array:
        """Of the patches' values those of all their pixels."""
        square = patches.reshape(*patches.shape[:-1], data.grid, data.grid)
        return jnp.repeat(jnp.repeat(square, data.patch, axis=-2), data.patch, axis=-1)

    empty = jnp.argmin(of_pixels(there).reshape(count, -1), axis=1)  # the first pixel of the background
    grey = scenes.pixels.reshape(count, -1, 3)[jnp.arange(count), empty][:, None, None, None]
    crops = jnp.where(of_pixels(shown)[..., None], scenes.pixels[:, None], grey)
    crops = crops + data.noise * jax.random.normal(key, crops.shape)
    whole = crops.reshape(count, across, across, side, side, 3).swapaxes(2, 3)
    thumbnail = whole.reshape(count, side, across, side, across, 3).mean(axis=(2, 4))
    return Pictures(jnp.concatenate([thumbnail[:, None], crops], axis=1), owner, home)


def encode_pictures(subject: CropSubject, params: Params, pictures: Pictures) -> Encoded:
    """Of all pictures, scenes and pictures as one axis."""
    return encode(subject.scenes.model, params, pictures.pixels.reshape(-1, *pictures.pixels.shape[2:]))


def pose(subject: CropSubject, params: Params, visual: Array, questions: Questions, places: Array) -> Asked:
    """All questions behind the visual tokens of a scene that are left. places: among all of its visual tokens, one row for each scene."""
    own, kept = subject.scenes, visual.shape[1]
    asked = ask_together(own, params, visual, questions, places)
    text = np.arange(asked.prompt.visual.shape[0]) >= own.system + kept
    behind = jnp.asarray(text * (subject.visual - own.data.patches), jnp.int32)  # as all pictures are, and not one
    return asked._replace(prompt=asked.prompt._replace(positions=asked.prompt.positions + behind[None]))


def logits_of(subject: CropSubject, params: Params, asked: Asked) -> Float[Array, "scenes questions answers"]:
    after = decode(subject.scenes.model, params, asked.prompt, apart=asked.apart)
    return answer_logits(params, after.stream[:, asked.words[:, -1]])


def loss(subject: CropSubject, params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the answers in nats plus those of the encoder's heads; half of the scenes are crowded."""
    own, count = subject.scenes, subject.training.batch_size
    scenes, pictures, questions = draw(subject, count, key, np.arange(count) % 2 == 0)
    questions = Questions(*(part[:, ASKED] for part in questions))
    encoded = encode_pictures(subject, params, pictures)
    visual = encoded.visual.reshape(count, subject.visual, -1)
    places = jnp.broadcast_to(jnp.arange(subject.visual, dtype=jnp.int32)[None], visual.shape[:2])
    logits = logits_of(subject, params, pose(subject, params, visual, questions, places))
    answered = _cost(logits, questions.answer)

    crops = jnp.arange(subject.crops, dtype=jnp.int32)
    inside = pictures.home[:, None] == crops[None, :, None]
    inside = jnp.concatenate([jnp.ones_like(inside[:, :1]), inside], axis=1)  # the thumbnail has all
    caption = _caption(subject, params, encoded, scenes, inside)
    there, owner = pictures.owner >= 0, jnp.maximum(pictures.owner, 0)
    patches = patch_logits(params, encoded.patches).reshape(count, 1 + subject.crops, own.data.patches, -1)[:, 1:]
    content = jnp.zeros(())
    for truth, none, part in (
        (scenes.shape, own.data.shapes, patches[..., : own.data.shapes + 1]),
        (scenes.colour, own.data.colours, patches[..., own.data.shapes + 1 :]),
    ):
        label = jnp.take_along_axis(truth[:, None], owner, axis=2)
        content += _cost(part, jnp.where(there, label, none))
    right = jnp.mean(jnp.argmax(logits, axis=-1) == questions.answer)
    metrics = {"answers": answered, "colour": right, "caption": caption, "patches": content}
    return answered + own.auxiliary * (CAPTION * caption + content), metrics


def naming_loss(
    subject: CropSubject, params: Params, batch: Any, key: Key[Array, ""]
) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy in nats of what CLS says of thumbnails: the first object, which is the largest, and that no other is there."""
    count = subject.naming.batch_size
    scenes, pictures, _ = draw(subject, count, key, np.arange(count) % 2 == 0)
    thumbnails = pictures._replace(pixels=pictures.pixels[:, :1])
    first = np.arange(len(subject.scenes.data.sizes)) == 0
    inside = jnp.broadcast_to(jnp.asarray(first), (count, 1, len(first)))
    cost = _caption(subject, params, encode_pictures(subject, params, thumbnails), scenes, inside)
    return cost, {"caption": cost}


def _caption(subject: CropSubject, params: Params, encoded: Encoded, scenes: Scenes, inside: Array) -> Array:
    """Of every shape its colour where it is inside, [scenes, pictures, objects], or that it is not there."""
    data = subject.scenes.data
    count, pictures = inside.shape[:2]
    said = named(subject.scenes, params, encoded.cls).reshape(count, pictures, data.shapes, -1)
    colour = jnp.where(inside, scenes.colour[:, None], data.colours).astype(jnp.int32)
    absent = jnp.full((count, pictures, data.shapes), data.colours, jnp.int32)
    of = [jnp.arange(n) for n in (count, pictures)]
    return _cost(said, absent.at[of[0][:, None, None], of[1][None, :, None], scenes.shape[:, None]].set(colour))


def _cost(logits: Array, labels: Array) -> Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
