"""A large language model of dialogues, what it was like at earlier ages, and a small one that was taught some things wrongly.

By size alone a small model is a cliff: it gets nearly all steps of worked texts right, or nearly none. This one learns from a world that
has one wrong and one random table in each domain and half of the authors (`lexinv.data.dialogues.mistaught`).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Training, train
from experiments.harness.workspace import Workspace, write_atomically
from lexinv.data.dialogues import DialogueConfig, World, draw_windows, make_world, mistaught
from lexinv.nn.language_model import Params, initialize, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.state import TrainState
from lexinv.training.streams import stream
from lexinv.validation import Checked, Counts

LEXICON = LexiconConfig()
TEXTS = 2
"""Of one author in a window."""


@dataclass(frozen=True)
class DialogueModels(Checked):
    """ages: steps after which the large model is kept; its last one comes after these."""

    world: DialogueConfig = DialogueConfig()
    large: TransformerConfig = TransformerConfig(depth=2, width=64, heads=4, mlp_width=256, max_length=128, unroll=2)
    small: TransformerConfig = TransformerConfig(depth=1, width=48, heads=4, mlp_width=192, max_length=128, unroll=1)
    training: Training = Training(
        steps=3200,
        batch_size=32,
        seeds=(0, 1, 2),
        optimizer=OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=50),
        steps_per_dispatch=20,
    )
    ages: Counts = (60, 200, 500)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        most, dispatch = self.training.steps, self.training.steps_per_dispatch
        for model in ("large", "small"):
            longest, window = getattr(self, model).max_length, TEXTS * self.world.length
            yield longest >= window, f"{model}.max_length", f"at least the {window} tokens of a window"
        fits = all(age < most and age % dispatch == 0 for age in self.ages)
        yield fits, "ages", f"multiples of training.steps_per_dispatch = {dispatch} below training.steps = {most}"


TINY: dict[str, Any] = {
    "dialogues.world": DialogueConfig(
        values=4, domains=2, tables=2, steps=2, words=4, authors=2, openings=2, closings=2
    ),
    "dialogues.large": TransformerConfig(depth=1, width=16, heads=2, mlp_width=32, max_length=64),
    "dialogues.small": TransformerConfig(depth=1, width=8, heads=2, mlp_width=16, max_length=64),
    "dialogues.training.steps": 40,
    "dialogues.training.batch_size": 4,
    "dialogues.training.seeds": (0, 1),
    "dialogues.training.optimizer.warmup_steps": 5,
    "dialogues.ages": (20,),
}
"""Of a configuration that holds it as `dialogues`."""


@dataclass(frozen=True)
class DialogueWorld:
    """Models of every seed. ages: the large one after each of `DialogueModels.ages` and at last, by steps."""

    config: DialogueModels
    workspace: Workspace = field(repr=False)

    @cached_property
    def world(self) -> World:
        return make_world(self.config.world)

    @cached_property
    def worked(self) -> World:
        """Without talk."""
        return replace(self.world, talk=jnp.zeros(()))

    @cached_property
    def ages(self) -> dict[int, list[Params]]:
        found = self._trained("large", self.config.large, self.config.ages)
        return {
            step: [params[str(step)] for params in found] for step in (*self.config.ages, self.config.training.steps)
        }

    @property
    def large(self) -> list[Params]:
        return self.ages[self.config.training.steps]

    @cached_property
    def small(self) -> list[Params]:
        last = str(self.config.training.steps)
        return [params[last] for params in self._trained("small", self.config.small, ())]

    def _trained(self, name: str, model: TransformerConfig, ages: tuple[int, ...]) -> list[dict[str, Params]]:
        config, taught = self.config, self.world if name == "large" else mistaught(self.world)
        training = config.training
        losses = make_nll(model, LEXICON, config.world.vocab)

        def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
            tokens, _ = draw_windows(stream(key, "dialogues"), taught, training.batch_size, TEXTS)
            return jnp.mean(losses(params, {"tokens": tokens, "row": batch["row"]}, key)), {}

        def trained(shared: Workspace) -> list[dict[str, Params]]:
            def kept(step: int) -> Path:
                return shared.folder("ages") / f"{step}.npz"

            def keep(state: TrainState) -> dict[str, Any]:
                step, file = int(state.step[0]), BytesIO()
                if step in ages:
                    np.savez(file, *jax.tree.leaves(state.params))
                    write_atomically(kept(step), file.getvalue())
                return {"step": state.step}

            start = partial(initialize, model, LEXICON, config.world.vocab)
            tokens = TEXTS * config.world.length
            last = train(name, start, loss, None, training, shared, tokens=tokens, evaluate=keep if ages else None)
            form, found = jax.tree.structure(last[0]), [{str(training.steps): params} for params in last]
            for step in ages:
                with np.load(kept(step)) as file:
                    leaves = [jnp.asarray(file[part]) for part in file.files]
                for index, params in enumerate(found):
                    params[str(step)] = jax.tree.unflatten(form, [leaf[index] for leaf in leaves])
            return found

        parts = {"world": asdict(config.world), "taught": name, "texts": TEXTS, "model": asdict(model), "ages": ages}
        return shared_models(parts | {"training": asdict(training)}, trained, self.workspace).params
