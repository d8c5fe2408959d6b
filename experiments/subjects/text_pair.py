"""A small and a larger language model of the same text and tokenizer, and prompts that neither has read: what decoding is tried on."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import shared_seeds
from experiments.subjects.text import STANDARD, DataConfig, Text, prepare
from lexinv.nn.language_model import BOS, Params
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count

LARGE = TransformerConfig(depth=4, width=128, heads=4, mlp_width=512, output="tied", unroll=4)
SMALL = TransformerConfig(depth=1, width=64, heads=2, mlp_width=256, output="tied")


@dataclass(frozen=True)
class PairConfig(Checked):
    """Both are trained alike. prompts: for each seed, of `prompt` tokens with BOS, from held-out text."""

    data: DataConfig = DataConfig(tokenizer="bpe:2048", context=128)
    large: TransformerConfig = LARGE
    small: TransformerConfig = SMALL
    training: Training = Training(
        steps=600, batch_size=16, seeds=(0, 1, 2), optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=50)
    )
    prompts: Count = 24
    prompt: Count = 32

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield 2 <= self.prompt <= self.data.context, "prompt", f"2 to data.context = {self.data.context}"
        for model in ("large", "small"):
            longest = getattr(self, model).max_length
            yield self.data.context <= longest, "data.context", f"at most {model}.max_length = {longest}"


TINY = {
    "pair.data.corpora": ("python-docs",),
    "pair.data.tokenizer": "byte",
    "pair.data.context": 32,
    "pair.large": replace(LARGE, depth=2, width=32, heads=2, mlp_width=32, unroll=2),
    "pair.small": replace(SMALL, width=16, mlp_width=16),
    "pair.training.steps": 40,
    "pair.training.optimizer.warmup_steps": 5,
    "pair.training.seeds": (0, 1),
    "pair.prompts": 2,
    "pair.prompt": 8,
}
"""Of a configuration that holds it as `pair`."""


@dataclass(frozen=True)
class TextPair:
    """large, small: a tree for each seed, trained when first asked for, or found in the user's cache."""

    config: PairConfig
    workspace: Workspace = field(repr=False)
    text: Text
    prompts: list[Int[Array, "prompts prompt"]]

    @cached_property
    def large(self) -> list[Params]:
        return self._trained(self.config.large)

    @cached_property
    def small(self) -> list[Params]:
        return self._trained(self.config.small)

    def _trained(self, model: TransformerConfig) -> list[Params]:
        text, training = self.text, self.config.training
        decided = {"corpus": text.fingerprint, "tokenizer": text.tokenizer.fingerprint}
        decided |= {"context": self.config.data.context}
        return shared_seeds(decided, model, STANDARD, text.vocab, text.train, training, self.workspace).params


def text_pair(config: PairConfig, workspace: Workspace) -> TextPair:
    """The text and the prompts."""
    seeds = config.training.seeds
    text = prepare(config.data.corpora[0], config.data, len(seeds), config.prompts, workspace)
    starts = [np.insert(windows[:, : config.prompt - 1], 0, BOS, axis=1) for windows in text.held_out]
    return TextPair(config, workspace, text, [jnp.asarray(prompts, jnp.int32) for prompts in starts])
