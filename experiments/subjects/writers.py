"""Texts that a language model writes, what it thinks of them, and how it is tuned by preference among pairs of its own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from experiments.harness.arms import train_arms
from experiments.harness.training import Training, stacked
from experiments.harness.workspace import Workspace
from lexinv.decoding.preference import by_preference, dpo_loss
from lexinv.nn.cache import empty_cache, make_extend, unstacked
from lexinv.nn.generation import Generated, generate
from lexinv.nn.language_model import BOS, Params, make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.sampling import Sampling, truncate
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Positive

LEXICON = LexiconConfig()
Words = Int[Array, "texts said"]
"""What is said in texts, without what comes first."""


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
class Writer:
    """A kind of model whose texts are `said` tokens that come after the tokens `first`, and all else after what was there `before`."""

    model: TransformerConfig
    vocab: int
    said: int
    first: tuple[int, ...]
    workspace: Workspace

    def _after(self, before: Sequence[int], texts: int) -> Int[Array, "texts read"]:
        return jnp.tile(jnp.asarray([*before, *self.first], jnp.int32), (texts, 1))

    def write(
        self,
        params: Params,
        key: Key[Array, ""],
        texts: int,
        sampling: Sampling,
        before: Sequence[int] = (),
        begun: Words | None = None,
    ) -> Generated:
        """The rest of texts of this model, each as it is `begun`."""
        prompt = jnp.pad(self._after(before, texts), ((0, 0), (1, 0)), constant_values=BOS)
        if begun is not None:
            prompt = jnp.concatenate([prompt, begun], axis=1)
        steps = self.said - (0 if begun is None else begun.shape[1])
        cache = empty_cache(self.model, texts, prompt.shape[1] + steps)
        params, extend = unstacked(params), make_extend(self.model, self.vocab)
        count, keys = jnp.full(texts, prompt.shape[1]), jax.random.split(key, texts)
        return generate(extend, params, params["table"], cache, prompt, count, keys, steps, sampling)

    @cached_property
    def _read(self) -> Callable[..., Array]:
        return jax.jit(make_logits(self.model, LEXICON, self.vocab))

    def logits(self, params: Params, words: Words, before: Sequence[int] = ()) -> Float[Array, "texts said vocab"]:
        """Of every token of texts."""
        after = self._after(before, len(words))
        batch = {
            "tokens": jnp.concatenate([after, words], axis=1),
            "row": jnp.arange(len(words), dtype=jnp.int32),
        }
        return self._read(params, batch, jax.random.key(0))[:, after.shape[1] :]

    def log_probs(
        self, params: Params, words: Words, before: Sequence[int] = (), temperature: float = 1.0
    ) -> Float[Array, " texts"]:
        """Of whole texts in nats, as the model writes them at this temperature."""
        log_probs = truncate(self.logits(params, words, before), temperature)
        return jnp.sum(jnp.take_along_axis(log_probs, words[..., None], axis=2)[..., 0], axis=1)

    def prefer(
        self,
        name: str,
        starts: dict[str, list[Params]],
        score: Callable[[str, int, Words], Float[Array, " texts"]],
        tuning: Tuning,
        temperature: float = 1.0,
    ) -> list[dict[str, list[Params]]]:
        """Models by arm and seed at the start and after every round of DPO. score(arm, place of the seed, texts): higher is preferred.

        Of each pair that the model wrote before a round the better text is chosen; the reference stays the start.
        """
        training, beta, found = tuning.preferred, tuning.beta, [starts]
        nll = make_nll(self.model, LEXICON, self.vocab)

        def loss(params: Params, given: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
            rows = jax.random.randint(key, (training.batch_size,), 0, tuning.pairs)
            texts, reference = given["texts"][rows].astype(jnp.int32), given["reference"][rows]
            tokens = jnp.concatenate([self._after((), 2 * len(rows)), texts.reshape(-1, texts.shape[-1])], axis=1)
            batch = {"tokens": tokens, "row": jnp.arange(len(tokens), dtype=jnp.int32)}
            log_probs = -jnp.sum(nll(params, batch, key)[:, len(self.first) :], axis=1).reshape(-1, 2)
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
