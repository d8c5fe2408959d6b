"""A small and a large model that answer the problems of worked dialogues together, and which of the small one's tokens change an answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.subjects.dialogue_models import LEXICON, DialogueModels
from experiments.subjects.token_routers import constant
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


def oracle(given: Any, step: Array, small: Array, large: Array) -> Array:
    """Where they say different things, given `kinds`: what the labels say on a text of the large model."""
    ours, theirs = (given[jnp.argmax(logits, axis=-1)] for logits in (small, large))
    return jnp.where(ours == theirs, -1.0, 1.0)


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


class Labelled(NamedTuple):
    """Of every token of texts: the small model's logits, and whether the large one's token differs, and says something else."""

    logits: Float[Array, "texts steps vocab"]
    differs: Bool[np.ndarray, "texts steps"]
    diverges: Bool[np.ndarray, "texts steps"]


def label(
    pair: Pair, prompt: Int[Array, "texts prompt"], route: Callable[..., Array] = constant, given: Any = 1.0
) -> Labelled:
    """The paper's labels along the texts that this route writes, by default the large model's own.

    The large model goes on from either model's token to the end of the sentence, and what the two sentences say is compared.
    """
    config, says = pair.config.world, np.asarray(kinds(pair.config.world))
    whole, before = np.concatenate([prompt, pair.decode(prompt, route, given).tokens], axis=1), prompt.shape[1]
    ends, length = range(config.first["stop"], config.first["stop"] + config.stops), whole.shape[1]
    batch = {"tokens": jnp.asarray(whole[:, 1:]), "row": jnp.arange(len(whole))}

    def read(model: TransformerConfig, params: Params) -> Float[Array, "texts steps vocab"]:
        return jax.jit(make_logits(model, LEXICON, config.vocab))(params, batch, jax.random.key(0))[:, before - 1 :]

    logits = read(pair.config.small, pair.small)
    chosen = [np.asarray(jnp.argmax(x, axis=-1)) for x in (logits, read(pair.config.large, pair.large))]
    differs = chosen[0] != chosen[1]
    texts, places = np.nonzero(differs)
    diverges, keys = np.zeros(differs.shape, bool), jax.random.split(jax.random.key(0), ROWS)
    for part in range(0, len(texts), ROWS):
        rows, steps = (np.resize(of[part : part + ROWS], ROWS) for of in (texts, places))
        at, sentences = steps + before, list[list[list[int]]]()
        for tokens in chosen:
            first = tokens[rows, steps][:, None]
            begun = jnp.asarray(np.where(np.arange(length) < at[:, None], whole[rows], first))
            reader = pair.reader(pair.config.large, pair.large, ROWS, length + SENTENCE)
            stops = (*ends, config.end)
            on = generate(*reader, begun, jnp.asarray(at + 1), keys, SENTENCE, Sampling(0.0), stops)
            written, alive = (
                np.concatenate([first, on.tokens], axis=1),
                np.pad(on.alive, ((0, 0), (1, 0)), constant_values=True),
            )
            sentences.append([said(row[kept], says, ends) for row, kept in zip(written, alive, strict=True)])
        diverges[rows, steps] = [ours != theirs for ours, theirs in zip(*sentences, strict=True)]
    return Labelled(logits, differs, diverges)


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
