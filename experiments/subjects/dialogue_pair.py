"""A small and a large model that answer the problems of worked dialogues together, and which of the small one's tokens change an answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.subjects.dialogue_models import LEXICON, DialogueModels
from lexinv.data.dialogues import SENTENCE, DialogueConfig, World, draw_texts
from lexinv.decoding.drafts import SmallModel, small_model
from lexinv.decoding.routing import Mixed, Reader, mixed_decode
from lexinv.decoding.speculation import speculate
from lexinv.nn.cache import empty_cache, make_extend
from lexinv.nn.generation import generate
from lexinv.nn.language_model import BOS, Params, make_logits
from lexinv.nn.sampling import Sampling
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.streams import stream

DRAFTED = 8
"""Tokens of a speculative chain, the most of (1, 2, 3, 4, 6, 8): longer ones take fewer forwards of the large model, which are counted."""
ROWS = 256
"""Texts that are gone on with at once."""


def kinds(config: DialogueConfig) -> Int[Array, " vocab"]:
    """What a token says: ways to open, close and end a sentence say the same; any other token says itself."""
    found = np.arange(config.vocab)
    for kind, size in (("opening", config.openings), ("closing", config.closings), ("stop", config.stops)):
        found[config.first[kind] : config.first[kind] + size] = config.first[kind]
    return jnp.asarray(found)


def constant(given: Any, step: Array, small: Array, large: Array) -> Array:
    return jnp.full(small.shape[:1], given)


@dataclass(frozen=True)
class Pair:
    """The two models of a seed, and problems for them: prompts are BOS, a start value and operations."""

    config: DialogueModels
    small: Params
    large: Params

    def problems(self, world: World, seed: int, name: str, count: int) -> Int[Array, "texts prompt"]:
        key = stream(jax.random.key(seed), name)
        author_key, text_key = jax.random.split(key)
        authors = jax.random.randint(author_key, (count,), 0, world.config.authors)
        texts = draw_texts(text_key, replace(world, talk=jnp.asarray(0.0)), authors)[:, : world.config.prompt]
        return jnp.pad(texts, ((0, 0), (1, 0)), constant_values=BOS)

    def reader(self, model: TransformerConfig, params: Params, batch: int, room: int) -> Reader:
        return Reader(
            make_extend(model, self.config.world.vocab), params, params["table"], empty_cache(model, batch, room)
        )

    def decode(self, prompt: Int[Array, "texts prompt"], route: Callable[..., Array], given: Any) -> Mixed:
        """Answers of both together, see `lexinv.decoding.routing.mixed_decode`."""
        world = self.config.world
        parts = ((self.config.small, self.small), (self.config.large, self.large))
        readers = [self.reader(model, params, len(prompt), world.length + 1) for model, params in parts]
        return mixed_decode(*readers, prompt=prompt, steps=world.length - world.prompt, route=route, given=given)


@dataclass(frozen=True)
class Labelled:
    """Of every token of texts of the large model: the small one's logits, and whether its own token differs, and says something else."""

    logits: Float[Array, "texts steps vocab"]
    differs: Bool[np.ndarray, "texts steps"]
    diverges: Bool[np.ndarray, "texts steps"]


def label(pair: Pair, prompt: Int[Array, "texts prompt"]) -> Labelled:
    """The paper's labels: the large model goes on from each other token to the end of the sentence, which is compared with its own."""
    config, says = pair.config.world, np.asarray(kinds(pair.config.world))
    found = pair.decode(prompt, constant, 1.0)
    whole, before = np.concatenate([prompt, found.tokens], axis=1), prompt.shape[1]
    read = jax.jit(make_logits(pair.config.small, LEXICON, config.vocab))
    batch = {"tokens": jnp.asarray(whole[:, 1:]), "row": jnp.arange(len(whole))}
    logits = read(pair.small, batch, jax.random.key(0))[:, before - 1 :]
    texts, places = np.nonzero(np.asarray(found.differs))
    diverges, ends = (
        np.zeros(found.differs.shape, bool),
        range(config.first["stop"], config.first["stop"] + config.stops),
    )
    for part in np.array_split(np.arange(len(texts)), -(-len(texts) // ROWS)) if len(texts) else ():
        rows, at = texts[part], places[part] + before
        count = np.ones(ROWS, np.int32)
        count[: len(part)] = at + 1
        other = np.zeros((ROWS, whole.shape[1]), np.int32)
        other[: len(part)] = np.where(np.arange(whole.shape[1]) < at[:, None], whole[rows], 0)
        other[np.arange(len(part)), at] = np.argmax(np.asarray(logits)[rows, places[part]], axis=-1)
        reader = pair.reader(pair.config.large, pair.large, ROWS, whole.shape[1] + SENTENCE)
        keys = jax.random.split(jax.random.key(0), ROWS)
        on = generate(
            *reader, jnp.asarray(other), jnp.asarray(count), keys, SENTENCE, Sampling(0.0), (*ends, config.end)
        )
        for row, text, place in zip(range(len(part)), rows, at, strict=True):
            ours = [other[row, place], *np.asarray(on.tokens[row])[np.asarray(on.alive[row])]]
            theirs = whole[text, place:]
            diverges[text, place - before] = said(ours, says, ends) != said(theirs, says, ends)
    return Labelled(logits, np.asarray(found.differs), diverges)


def said(tokens: Any, says: np.ndarray, ends: range) -> list[int]:
    """What a sentence says up to its end."""
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return [int(says[token]) for token in tokens[: stop + 1]]


def forwards_of_speculation(pair: Pair, prompt: Int[Array, "texts prompt"]) -> float:
    """Forwards of the large model for a token of its own text, where the small one drafts."""
    config = pair.config.world
    steps, room, batch = config.length - config.prompt, config.length + 2 * DRAFTED + 2, len(prompt)
    large, small = (
        pair.reader(model, params, batch, room)
        for model, params in ((pair.config.large, pair.large), (pair.config.small, pair.small))
    )
    state, keys = SmallModel(small.params, small.table, small.cache), jax.random.split(jax.random.key(0), batch)
    count = jnp.full(batch, prompt.shape[1])
    draft = small_model(small.extend, DRAFTED)
    found = speculate(*large, prompt, count, keys, steps, Sampling(0.0), draft, state)
    return float(found.forwards.mean() / steps)
