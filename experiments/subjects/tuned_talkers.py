"""Models of dialogues that talk, and are tuned as assistants are: on texts of the assistant, or on pairs of their own texts.

Talk is all that they are asked for here: after its first token, or after a text that somebody wrote before.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from experiments.harness.shared_models import shared_models
from experiments.harness.training import stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects import dialogue_models
from experiments.subjects.dialogue_models import LEXICON, DialogueModels, DialogueWorld
from experiments.subjects.writers import Tuning, Words, Writer
from lexinv.data.dialogue_law import author_log_probs, predictive
from lexinv.data.dialogues import World, draw_texts
from lexinv.decoding import preference
from lexinv.decoding.preference import supervised_loss
from lexinv.nn.language_model import Params, make_nll
from lexinv.training.streams import stream

ASSISTANT = 0
FLOOR = -20.0
"""Nats of what no author says."""


@dataclass(frozen=True)
class Talkers:
    """base: trained on everybody. supervised: gone on from it on the assistant's texts. A tree for each seed."""

    dialogues: DialogueModels
    tuning: Tuning
    workspace: Workspace

    @cached_property
    def base_world(self) -> DialogueWorld:
        return DialogueWorld(self.dialogues, self.workspace)

    @cached_property
    def talk(self) -> World:
        """The world in which everybody talks."""
        return replace(self.base_world.world, talk=jnp.asarray(1.0))

    @cached_property
    def writer(self) -> Writer:
        """Of what is said in talks, after their first token and without their end."""
        world = self.dialogues.world
        return Writer(self.dialogues.large, world.vocab, world.said, (world.first["talk"],), self.workspace)

    @property
    def base(self) -> list[Params]:
        return self.base_world.large

    @cached_property
    def supervised(self) -> list[Params]:
        training, world = self.tuning.supervised, self.base_world.world
        nll = make_nll(self.dialogues.large, LEXICON, self.dialogues.world.vocab)

        def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
            authors = jnp.full(training.batch_size, ASSISTANT)
            texts = draw_texts(stream(key, "assistant"), world, authors)
            return supervised_loss(-nll(params, {"tokens": texts, "row": batch["row"]}, key)), {}

        def trained(shared: Workspace) -> list[Params]:
            return train("supervised", stacked(self.base), loss, None, training, shared, tokens=world.config.length)

        parts = {"dialogues": asdict(self.dialogues), "supervised": asdict(training)}
        return shared_models(parts, trained, self.workspace, (dialogue_models, preference)).params

    def human(self, key: Key[Array, ""], authors: Int[Array, " texts"]) -> Words:
        """Talks of these authors."""
        return draw_texts(key, self.talk, authors)[:, 1:-1]

    def whole(self, words: Words) -> Int[Array, "texts length"]:
        """With the first token and the end."""
        config = self.dialogues.world
        first, last = (jnp.full((len(words), 1), token, jnp.int32) for token in (config.first["talk"], config.end))
        return jnp.concatenate([first, words, last], axis=1)

    def by_author(self, words: Words) -> Float[Array, "texts authors"]:
        """ln p of talks under each author, in nats, exactly; a token that is no word has e^FLOOR."""
        found = _by_author(self.talk, self.whole(words))[:, 1:-1]
        return jnp.sum(jnp.maximum(found, FLOOR), axis=1)

    def bayes(self, words: Words, author: int | None = None) -> Float[Array, "texts said vocab"]:
        """p(word | those before it) exactly, where the author has to be told from them, or is this one."""
        known = self.talk.author if author is None else jax.nn.one_hot(author, len(self.talk.author))
        return _bayes(replace(self.talk, author=known), self.whole(words))[:, 1:-1]


_by_author, _bayes = jax.jit(author_log_probs), jax.jit(predictive)
