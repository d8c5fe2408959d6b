"""Taking visual tokens from the models of scenes: which are kept, the answers that are left, and what each layer of the decoder looks at.

Method cards divprune and todre. Every method gets one image's tokens as the decoder would read them, and keeps the same number of them.
"""

from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.training import Params
from experiments.subjects.scene_answerers import Asked, SceneSubject, ask_together
from lexinv.data.scenes import KINDS, Questions, SceneConfig
from lexinv.merging.k_center import attention_share
from lexinv.merging.plan import merge
from lexinv.merging.selections import keep as select
from lexinv.nn.vision_language import (
    Encoded,
    Prompt,
    VisionLanguageConfig,
    answer_logits,
    attention_in_layer,
    decode,
    encode,
    without_image,
)
from lexinv.randomness import threefry

TEXT_LAYER = 2
"""FastV scores tokens by the last word's attention in this layer, counted from 1, which is K = 2 of its paper."""

METHODS = ("divprune", "maxsum", "kcenter", "cls", "text", "column", "random", "tome")
"""Those of `lexinv.merging.methods.keep`, and the highest of a score: CLS's attention, the text's, or that received from all."""


class View(NamedTuple):
    """One image's visual tokens, and what methods score them by, each averaged over heads. key: of random pruning.

    cls, column: what a patch receives, from CLS and from all, in the encoder's last layer. text: from one question in `TEXT_LAYER`.
    """

    visual: jax.Array
    cls: jax.Array
    column: jax.Array
    text: jax.Array
    key: jax.Array


class Kept(NamedTuple):
    """Visual tokens that are left, their places among all patches in rising order, and how many patches each stands for."""

    visual: jax.Array
    places: jax.Array
    size: jax.Array


@partial(jax.jit, static_argnames=("method", "keep"))
def keep_tokens(method: str, keep: int, views: View) -> Kept:
    """`views` with a leading axis of examples."""
    ranked = method in ("cls", "text", "column")

    def one(view: View) -> Kept:
        scores = getattr(view, method) if ranked else view.cls
        plan = select("top" if ranked else method, view.visual, scores, keep, view.key)
        visual, size = merge(plan, view.visual)
        order = jnp.argsort(plan.anchor)
        return Kept(visual[order], plan.anchor[order], size[order])

    return jax.vmap(one)(views)


encode_images = jax.jit(encode, static_argnames=("config",))


@partial(jax.jit, static_argnames=("subject", "sized"))
def _one_layer(subject, params, index, seen, apart, sized) -> Prompt:
    return decode(*_layer(subject, params, index), seen, sized=sized, apart=apart)


@partial(jax.jit, static_argnames=("subject",))
def _one_attention(subject, params, index, seen, apart) -> jax.Array:
    return attention_in_layer(*_layer(subject, params, index), seen, 0, apart=apart)


def _layer(subject: SceneSubject, params: Params, index: jax.Array) -> tuple[VisionLanguageConfig, Params]:
    """A model of this layer alone, so that all layers share one compile for each shape."""
    config = replace(subject.model, decoder=replace(subject.model.decoder, depth=1))
    own = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index, 1), params["layers"])
    return config, params | {"layers": own}


def pose(
    subject: SceneSubject,
    params: Params,
    visual: jax.Array,
    questions: Questions,
    kept: Kept | None = None,
    gaps: Literal["keep", "close"] = "keep",
) -> Asked:
    """`ask_together`, compiled; `kept`, whose tokens `visual` then is, gives their places and sizes."""
    seen, apart, words = _posed(subject, params, visual, questions, kept, gaps)
    return Asked(seen, apart, np.asarray(words))


@partial(jax.jit, static_argnames=("subject", "gaps"))
def _posed(subject, params, visual, questions, kept, gaps) -> tuple[jax.Array, ...]:
    places, size = (None, None) if kept is None else (kept.places, kept.size)
    asked = ask_together(subject, params, visual, questions, places, size, gaps)
    return asked.prompt, asked.apart, jnp.asarray(asked.words)


def run_layers(
    subject: SceneSubject, params: Params, asked: Asked, first: int = 0, last: int | None = None, sized: bool = False
) -> Asked:
    """`asked` after layers `first` to `last` - 1 of the decoder. sized: tokens stand for several patches, as after merging."""
    seen = asked.prompt
    for index in range(first, subject.depth if last is None else last):
        seen = _one_layer(subject, params, index, seen, asked.apart, sized)
    return asked._replace(prompt=seen)


def layer_attention(subject: SceneSubject, params: Params, asked: Asked, index: int) -> jax.Array:
    """Weights [scenes, heads, time, time] of layer `index`, counted from 0, which reads `asked`."""
    return _one_attention(subject, params, index, asked.prompt, asked.apart)


def drop_image(asked: Asked) -> Asked:
    """System token and questions alone, at their positions: visual tokens really removed."""
    text = np.flatnonzero(~np.asarray(asked.prompt.visual))
    gone = asked.prompt.visual.shape[0] - len(text)
    return Asked(without_image(asked.prompt), asked.apart[:, text][:, :, text], asked.words - gone)


def right_answers(params: Params, asked: Asked, questions: Questions) -> np.ndarray:
    """Whether each answer is right [scenes, questions]; `asked` after the last layer."""
    return np.asarray(_right(params, asked.prompt.stream, asked.words[:, -1], questions.answer))


@jax.jit
def _right(params, stream, places, answer) -> jax.Array:
    return jnp.argmax(answer_logits(params, stream[:, places]), axis=-1) == answer


def text_attention(subject: SceneSubject, params: Params, encoded: Encoded, questions: Questions) -> jax.Array:
    """What each patch receives in `TEXT_LAYER` from the last word of each question, mean of heads [scenes, questions, patches]."""
    asked = run_layers(subject, params, pose(subject, params, encoded.visual, questions), 0, TEXT_LAYER - 1)
    return _to_patches(subject, layer_attention(subject, params, asked, TEXT_LAYER - 1), asked.words)


@partial(jax.jit, static_argnames=("subject",))
def _to_patches(subject, weights, words) -> jax.Array:
    first = subject.system
    return jnp.mean(weights, axis=1)[:, words[:, -1], first : first + subject.data.patches]


@jax.jit
def views_of(encoded: Encoded, key: jax.Array) -> View:
    """Of all images; without a question, the text's attention is 0."""
    count, patches = encoded.visual.shape[:2]
    received = jnp.mean(encoded.attention, axis=(1, 2))[:, 1:]
    cls = jnp.mean(encoded.cls_attention, axis=1)
    return View(encoded.visual, cls, received, jnp.zeros((count, patches)), jax.random.split(threefry(key), count))


@jax.jit
def apart_views(views: View, text: jax.Array) -> View:
    """One for each question [scenes * questions], with its own attention `text` [scenes, questions, patches]."""
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, text.shape[1], axis=0), views)
    return repeated._replace(text=text.reshape(-1, text.shape[2]))


def one_by_one(questions: Questions) -> Questions:
    """Each question as one of its own scene."""
    return Questions(*(np.asarray(leaf).reshape(-1, 1, *leaf.shape[2:]) for leaf in questions))


def keep(method: str, count: int, views: View, text: jax.Array) -> Kept:
    """The tokens that a method keeps of every image, or, where it looks at the text, for every question."""
    return keep_tokens(method, count, apart_views(views, text) if method == "text" else views)


def answers(
    subject: SceneSubject, params: Params, kept: Kept, questions: Questions, gaps: Literal["keep", "close"] = "keep"
) -> np.ndarray:
    """Whether answers from the kept tokens are right."""
    asked = pose(subject, params, kept.visual, questions, kept, gaps)
    return right_answers(params, run_layers(subject, params, asked, sized=True), questions)


def group(data: SceneConfig, questions: Questions, right: np.ndarray) -> dict[str, float]:
    """Accuracy by type of question: colour of objects of the fewest and of the most patches, counts, presence, and the mean of all.

    right: [scenes, questions].
    """
    sizes, kind, about = np.array(data.sizes), np.asarray(questions.kind), np.asarray(questions.about)
    colour = kind == KINDS.index("colour")
    size = np.where(about >= 0, sizes[np.maximum(about, 0)], 0)
    types: dict[str, np.ndarray] = {
        "rare": colour & (size == sizes.min()),
        "dominant": colour & (size == sizes.max()),
        "count": kind == KINDS.index("count"),
        "presence": kind == KINDS.index("presence"),
        "all": np.ones_like(colour),
    }
    return {name: round(float(right[which].mean()), 4) for name, which in types.items()}


def presence(data: SceneConfig, questions: Questions, right: np.ndarray) -> dict[str, float]:
    """Of whether shapes are there: F1 of yes on the even scenes, for choosing, and on the odd ones, and how much too often it is yes there.

    right: [scenes, questions]; a wrong answer to a no counts as yes.
    """
    asked = np.asarray(questions.kind) == KINDS.index("presence")
    truth = np.asarray(questions.answer) == data.no + 1
    yes, odd = right == truth, np.arange(len(right))[:, None] % 2 == 1
    hits, wrong = yes & truth, yes != truth

    def f1(where: np.ndarray) -> float:
        return round(float(2 * hits[where].sum() / max(2 * hits[where].sum() + wrong[where].sum(), 1)), 4)

    bias = yes[asked & odd].mean() - truth[asked & odd].mean()
    return {"choose f1": f1(asked & ~odd), "judge f1": f1(asked & odd), "bias": round(float(bias), 4)}


class Layers(NamedTuple):
    """right: whether answers are right [depth + 1, scenes, questions] with all visual tokens removed before a layer, or after the last.

    share: of each question's attention that falls on visual tokens (a_tv), [depth, scenes, questions]; even: what it is where a word
    attends to all that it sees alike.
    """

    right: np.ndarray
    share: np.ndarray
    even: float


def layer_by_layer(subject: SceneSubject, params: Params, asked: Asked, questions: Questions) -> Layers:
    """Every layer in turn as the one before which visual tokens are removed, for good and really."""
    right, share = [], []
    even = np.mean(np.sum(asked.prompt.visual) / (asked.words[0] + 1))
    for index in range(subject.depth + 1):
        text = drop_image(asked)
        right.append(right_answers(params, run_layers(subject, params, text, index), questions))
        if index < subject.depth:
            weights = layer_attention(subject, params, asked, index)
            share.append(np.asarray(_look(weights, asked.prompt.visual, jnp.asarray(asked.words))))
            asked = run_layers(subject, params, asked, index, index + 1)
    return Layers(np.stack(right), np.stack(share), float(even))


@jax.jit
def _look(weights, visual, words) -> jax.Array:
    """a_tv [scenes, questions]. The system prompt is no text: with the image before the question, a_vt is then 0."""

    def one(attention, own):
        return attention_share(attention, jnp.zeros(visual.shape, bool).at[own].set(True), visual)

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(weights, words)
