"""Models of dialogues that talk, and are tuned as assistants are: on texts of the assistant, or on pairs of their own texts.

Talk is all that they are asked for here: after its first token, or after a text that somebody wrote before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from experiments.harness.arms import train_arms
from experiments.harness.shared_models import shared_models
from experiments.harness.training import Training, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects import dialogue_models
from experiments.subjects.dialogue_models import LEXICON, DialogueModels, DialogueWorld
from lexinv.data.dialogue_law import author_log_probs, predictive
from lexinv.data.dialogues import World, draw_texts
from lexinv.decoding import preference
from lexinv.decoding.preference import by_preference, dpo_loss, supervised_loss
from lexinv.nn.cache import empty_cache, make_extend, unstacked
from lexinv.nn.generation import Generated, generate
from lexinv.nn.language_model import BOS, Params, make_logits, make_nll
from lexinv.nn.sampling import Sampling, truncate
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Positive

ASSISTANT = 0
FLOOR = -20.0
"""Nats of what no author says."""
Words = Int[Array, "texts said"]
"""What is said in a talk, without its first token and its end."""


@dataclass(frozen=True)
class Tuning(Checked):
    """preferred: of a round of DPO, on `pairs` of texts that the model wrote before it. beta: how dear it is to leave the start."""

    supervised: Training = Training(
        steps=200,
        batch_size=32,
        seeds=(0, 1, 2),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20),
        steps_per_dispatch=20,
    )
    preferred: Training = Training(
        steps=40,
        batch_size=32,
        seeds=(0, 1, 2),
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=5),
        steps_per_dispatch=20,
    )
    rounds: Count = 3
    pairs: Count = 256
    beta: Positive = 0.1

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        seeds = self.supervised.seeds
        yield self.preferred.seeds == seeds, "preferred.seeds", f"supervised.seeds = {seeds}"


TINY_TUNING: dict[str, Any] = {
    f"tuning.{part}": Training(4, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=4)
    for part in ("supervised", "preferred")
} | {"tuning.rounds": 1, "tuning.pairs": 8}
"""Of a configuration that holds it as `tuning`."""


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

    def write(
        self,
        params: Params,
        key: Key[Array, ""],
        texts: int,
        sampling: Sampling,
        before: Sequence[int] = (),
        begun: Words | None = None,
    ) -> Generated:
        """The rest of talks of this model, all after the same tokens `before`, such as a text of somebody, and each as it is `begun`."""
        config, model = self.dialogues.world, self.dialogues.large
        prompt = jnp.tile(jnp.asarray([BOS, *before, config.first["talk"]], jnp.int32), (texts, 1))
        if begun is not None:
            prompt = jnp.concatenate([prompt, begun], axis=1)
        steps = config.said - (0 if begun is None else begun.shape[1])
        cache = empty_cache(model, texts, prompt.shape[1] + steps)
        params, extend = unstacked(params), make_extend(model, config.vocab)
        count, keys = jnp.full(texts, prompt.shape[1]), jax.random.split(key, texts)
        return generate(extend, params, params["table"], cache, prompt, count, keys, steps, sampling)

    @cached_property
    def _read(self) -> Callable[..., Array]:
        return jax.jit(make_logits(self.dialogues.large, LEXICON, self.dialogues.world.vocab))

    def logits(self, params: Params, words: Words, before: Sequence[int] = ()) -> Float[Array, "texts said vocab"]:
        """Of every word of talks, read after `before`."""
        first = jnp.asarray([*before, self.dialogues.world.first["talk"]], jnp.int32)
        tokens = jnp.concatenate([jnp.tile(first, (len(words), 1)), words], axis=1)
        batch = {"tokens": tokens, "row": jnp.arange(len(words), dtype=jnp.int32)}
        return self._read(params, batch, jax.random.key(0))[:, len(first) :]

    def log_probs(
        self, params: Params, words: Words, before: Sequence[int] = (), temperature: float = 1.0
    ) -> Float[Array, " texts"]:
        """Of whole talks in nats, as the model writes them at this temperature."""
        log_probs = truncate(self.logits(params, words, before), temperature)
        return jnp.sum(jnp.take_along_axis(log_probs, words[..., None], axis=2)[..., 0], axis=1)

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

    def prefer(
        self,
        name: str,
        starts: dict[str, list[Params]],
        score: Callable[[str, int, Words], Float[Array, " texts"]],
        temperature: float = 1.0,
        tuning: Tuning | None = None,
    ) -> list[dict[str, list[Params]]]:
        """Models by arm and seed at the start and after every round of DPO. score(arm, place of the seed, texts): higher is preferred.

        Of each pair that the model wrote before a round the better text is chosen; the reference stays the start.
        """
        tuning = tuning or self.tuning
        training, beta, found = tuning.preferred, tuning.beta, [starts]
        nll = make_nll(self.dialogues.large, LEXICON, self.dialogues.world.vocab)
        talk = self.dialogues.world.first["talk"]

        def loss(params: Params, given: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
            rows = jax.random.randint(key, (training.batch_size,), 0, tuning.pairs)
            texts, reference = given["texts"][rows].astype(jnp.int32), given["reference"][rows]
            tokens = jnp.pad(texts.reshape(-1, texts.shape[-1]), ((0, 0), (1, 0)), constant_values=talk)
            batch = {"tokens": tokens, "row": jnp.arange(len(tokens), dtype=jnp.int32)}
            log_probs = -jnp.sum(nll(params, batch, key)[:, 1:], axis=1).reshape(-1, 2)
            return dpo_loss(log_probs[:, 0], log_probs[:, 1], reference[:, 0], reference[:, 1], beta)

        def given(arm: str, place: int, turn: int) -> dict[str, Array]:
            key = stream(jax.random.key(training.seeds[place]), f"{name} {arm} {turn}")
            words = self.write(found[-1][arm][place], key, 2 * tuning.pairs, Sampling(temperature)).tokens
            pairs = words.reshape(tuning.pairs, 2, -1)
            scores = score(arm, place, words).reshape(-1, 2)
            texts = jnp.stack(by_preference(pairs, scores), axis=1)
            reference = self.log_probs(starts[arm][place], texts.reshape(len(words), -1)).reshape(-1, 2)
            return {"texts": texts.astype(jnp.float32), "reference": reference}

        for turn in range(tuning.rounds):
            begun = {
                arm: (stacked(models), stacked([given(arm, place, turn) for place in range(len(models))]))
                for arm, models in found[-1].items()
            }
            found.append(train_arms(f"{name}/{turn}", list(starts), begun, loss, training, self.workspace))
        return found


_by_author, _bayes = jax.jit(author_log_probs), jax.jit(predictive)
