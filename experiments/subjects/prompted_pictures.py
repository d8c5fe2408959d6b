"""Small models that draw two objects side by side from a caption, and how a caption's words are changed before and while it is drawn.

Pictures and captions are those of `experiments.subjects.captions`, whose reader is exact.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from experiments.harness.training import Training, train
from experiments.harness.work import Params
from experiments.harness.workspace import Workspace
from experiments.subjects.captions import COLUMNS, LENGTH, NULL, PAINTED, ROWS, WORDS, sample_captions
from lexinv.merging.composite import (
    attention_entropy,
    binding_loss,
    emptied,
    excitation_loss,
    merge_words,
    refine,
    substitute_end,
)
from lexinv.nn.text_to_image import TextToImageConfig, encode_text, flow_matching_loss, initialize, predict
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, NonNegative, Share

ENDS = 3
"""End tokens after a caption."""
SIDE = 4
"""Of a patch, in pixels."""
COLOURS, NOUNS = np.array([1, 5]), np.array([2, 6])
"""Their places in a caption."""
PALETTE = np.array(
    [[-1, -1, -1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1], [-1, 1, 1], [1, -1, 1]], np.float32
)
"""Of codes, as red, green and blue."""
UNCONDITIONAL = 0.1
"""Share of training captions that say nothing."""
TEXT = TransformerConfig(
    depth=2, width=64, heads=4, mlp_width=256, positions="learned", max_length=LENGTH + ENDS, unroll=2
)
IMAGE = TransformerConfig(depth=3, width=64, heads=4, mlp_width=256, positions="none", causal=False)
MODEL = TextToImageConfig(len(WORDS) + 1, ROWS * COLUMNS // SIDE**2, 3 * SIDE**2, TEXT, IMAGE)


@dataclass(frozen=True)
class PictureModels(Checked):
    """swapped: share of training captions whose colours are exchanged, so that words say less of what belongs together."""

    model: TextToImageConfig = MODEL
    training: Training = Training(
        4000, 64, (0, 1, 2), OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=100), steps_per_dispatch=20
    )
    swapped: Share = 0.2


@dataclass(frozen=True)
class Drawing(Checked):
    """How pictures are drawn. refined: the first steps, in which embeddings and the picture go down a loss, `descents` times a step.

    entropy, binding, excitation: rates of these descents."""

    steps: Count = 20
    guidance: NonNegative = 3.0
    refined: Count = 5
    descents: Count = 3
    entropy: NonNegative = 3.0
    binding: NonNegative = 1.0
    excitation: NonNegative = 10.0

    def checks(self):
        yield self.refined < self.steps, "refined", f"below steps = {self.steps}"


class Change(NamedTuple):
    """words: which are one token, those of an object, those of a wrong pair, or none; added: the colour's embedding is added to a noun
    that was encoded without it. The rest is on or off: other end tokens, masked zeros, losses."""

    words: Literal["plain", "merged", "wrong", "added"] = "plain"
    ends: bool = False
    masked: bool = False
    entropy: bool = False
    binding: bool = False
    excitation: bool = False


class Drawn(NamedTuple):
    """codes: of pixels. zeros: share of attention that the zeros which merging leaves take, 0 where there are none."""

    codes: Int[Array, "prompts 8 16"]
    zeros: Float[Array, " prompts"]


def prompted(captions: Int[Array, "batch words"]) -> Int[Array, "batch tokens"]:
    """With end tokens to the encoder's length."""
    return jnp.pad(captions, ((0, 0), (0, LENGTH + ENDS - captions.shape[1])), constant_values=len(WORDS))


def pixels(codes: Int[Array, "batch 8 16"]) -> Float[Array, "batch patches features"]:
    """Patches of colours from -1 to 1."""
    rows, columns = ROWS // SIDE, COLUMNS // SIDE
    cut = jnp.asarray(PALETTE)[codes].reshape(-1, rows, SIDE, columns, SIDE, 3)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns, 3 * SIDE**2)


def nearest_codes(patches: Float[Array, "batch patches features"]) -> Int[Array, "batch 8 16"]:
    """The inverse of `pixels`, of colours that are no longer exact."""
    cut = patches.reshape(-1, ROWS // SIDE, COLUMNS // SIDE, SIDE, SIDE, 3).transpose(0, 1, 3, 2, 4, 5)
    away = cut.reshape(-1, ROWS, COLUMNS, 1, 3) - jnp.asarray(PALETTE)[None, None, None]
    return jnp.argmin(jnp.sum(away**2, axis=-1), axis=-1)


def picture_models(config: PictureModels, workspace: Workspace) -> list[Params]:
    """One for each seed."""

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        drawn = sample_captions(stream(key, "captions"), len(batch["row"]))
        silent, swapped = jax.random.uniform(stream(key, "changed"), (2, len(drawn.caption), 1))
        exchanged = drawn.caption.at[:, COLOURS].set(drawn.caption[:, COLOURS[::-1]])
        caption = jnp.where(swapped < config.swapped, exchanged, drawn.caption)
        caption = jnp.where(silent < UNCONDITIONAL, jnp.asarray(NULL)[None], caption)
        found = flow_matching_loss(config.model, params, pixels(drawn.codes), prompted(caption), stream(key, "flow"))
        return found, {}

    return train("pictures", partial(initialize, config.model), loss, None, config.training, workspace)


@partial(jax.jit, static_argnames=("model", "drawing", "change"))
def draw(
    model: TextToImageConfig,
    params: Params,
    captions: Int[Array, "prompts 7"],
    key: Key[Array, ""],
    drawing: Drawing,
    change: Change,
) -> Drawn:
    """A picture of each caption, from noise that is the same for every change."""
    noise = jax.random.normal(key, (len(captions), model.patches, model.features))

    def one(each: tuple[Array, Array]) -> tuple[Array, Array]:
        return _draw_one(model, params, *each, drawing, change)

    patches, zeros = jax.lax.map(one, (captions, noise), batch_size=50)
    return Drawn(nearest_codes(patches), zeros)


def _draw_one(model, params, caption, noise, drawing, change) -> tuple[Array, Array]:
    text, null, phrases, mask, zeros = _conditions(model, params, caption, change)
    both = jnp.stack([mask, jnp.ones_like(mask)])

    def velocity(x: Array, time: Array, text: Array) -> tuple[Array, Array]:
        """By classifier-free guidance, and the attention that zeros take."""
        found = predict(model, params, jnp.stack([x, x]), jnp.stack([time, time]), jnp.stack([text, null]), both)
        named, unnamed = found.velocity
        taken = jnp.mean(jnp.sum(jnp.where(zeros[None, None, None], found.maps[0], 0.0), axis=-1))
        return unnamed + drawing.guidance * (named - unnamed), taken

    def alone(x: Array, time: Array, text: Array, mask: Any = None) -> Any:
        found = predict(model, params, x[None], time[None], text[None], mask)
        return found.velocity[0], jnp.mean(found.maps[0], axis=(0, 1)).T[NOUNS]

    def refined(x: Array, time: Array, text: Array) -> tuple[Array, Array]:
        if change.binding:

            def apart(tokens: Array) -> Array:
                one, other = (
                    binding_loss(lambda said: alone(x, time, said)[0], token[None], phrase)
                    for token, phrase in zip(tokens, phrases, strict=True)
                )
                return one + other

            text = text.at[NOUNS].set(refine(apart, text[NOUNS], drawing.binding, drawing.descents))
        if change.entropy:

            def spread(now: tuple[Array, Array]) -> Array:
                return attention_entropy(alone(now[0], time, now[1], mask[None])[1])

            rate = drawing.entropy * (1 - time)
            x, text = refine(spread, (x, text), (rate, rate), drawing.descents)
        if change.excitation:
            x = refine(
                lambda x: excitation_loss(alone(x, time, text, mask[None])[1]), x, drawing.excitation, drawing.descents
            )
        return x, text

    def step(now: tuple[Array, Array], number: Array, refining: bool) -> tuple[tuple[Array, Array], Array]:
        x, text = now
        time = number.astype(jnp.float32) / drawing.steps
        if refining:
            x, text = refined(x, time, text)
        slope, taken = velocity(x, time, text)
        return (x + slope / drawing.steps, text), taken

    numbers = jnp.arange(drawing.steps)
    now, first = jax.lax.scan(partial(step, refining=True), (noise, text), numbers[: drawing.refined])
    (x, _), then = jax.lax.scan(partial(step, refining=False), now, numbers[drawing.refined :])
    return x, jnp.mean(jnp.concatenate([first, then]))


def _conditions(model, params, caption, change) -> tuple[Array, Array, Array, Array, Array]:
    """(embeddings, those of a caption that says nothing, of each object's phrase alone, which can be attended to, which are zeros)."""
    stripped, null = caption.at[COLOURS].set(PAINTED), jnp.asarray(NULL)
    phrases = prompted(jnp.stack([caption[:3], caption[4:]]))
    whole = prompted(jnp.stack([caption, stripped, null]))
    text, plain, null, *alone = encode_text(model, params, jnp.concatenate([whole, phrases]))
    groups = np.zeros((2, LENGTH + ENDS), np.float32)
    places = COLOURS[::-1] if change.words == "wrong" else COLOURS
    groups[[0, 1], places] = groups[[0, 1], NOUNS] = 1.0
    zeros = jnp.zeros(len(text), bool)
    if change.words == "added":
        mixed = plain.at[COLOURS].set(text[COLOURS])
        text = merge_words(mixed, jnp.asarray(groups), jnp.asarray(NOUNS), LENGTH)
    elif change.words != "plain":
        text = merge_words(text, jnp.asarray(groups), jnp.asarray(NOUNS), LENGTH)
    if change.words != "plain":
        zeros = emptied(jnp.asarray(groups), jnp.asarray(NOUNS))
    text = substitute_end(text, plain, LENGTH) if change.ends else text
    mask = ~zeros if change.masked else jnp.ones(len(text), bool)
    return text, null, jnp.stack(alone), mask, zeros


def presence(found: Int[np.ndarray, "batch 2"], wanted: Int[np.ndarray, "batch 2"]) -> Bool[np.ndarray, " batch"]:
    """Whether both shapes are there, in any colours, either of them left."""
    return (np.sort(found, axis=1) == np.sort(np.asarray(wanted), axis=1)).all(axis=1)
