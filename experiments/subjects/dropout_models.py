"""Language models by the probability p with which a symbol's vector is random in training: 0 the standard, 1 the lexinvariant one.

Huang et al. 2023 (arXiv 2305.16349), semi-lexinvariance; method card lexinvariant-lm. They lie in the user's cache, so that the
experiments that ask the same ones train them once.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from experiments.harness.shared_models import SharedModels
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import shared_seeds
from experiments.subjects.text import (
    MUON,
    PUBLISHED_DATA,
    PUBLISHED_EVALUATION,
    PUBLISHED_MODEL,
    PUBLISHED_TRAINING,
    STANDARD,
    SUFFIX_MATCH,
    EvaluationConfig,
    Text,
    TextModels,
    held_out_nats,
)
from lexinv.nn.language_model import Params, make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import Shares

MODEL = replace(SUFFIX_MATCH, width=256, mlp_width=256)
TRAINING = Training(steps=150, seeds=(0, 1, 2), optimizer=MUON, microbatches=2)
REGULARISED = 0.2
"""The paper's p of the semi-lexinvariant model."""

SMOKE = {
    "model.width": 32,
    "model.mlp_width": 32,
    "training.steps": 8,
    "training.batch_size": 4,
    "training.microbatches": 1,
    "training.optimizer.warmup_steps": 2,
    "data.context": 64,
}
PUBLISHED = {"model": PUBLISHED_MODEL, "training": PUBLISHED_TRAINING, "data": PUBLISHED_DATA}
"""Presets of whoever asks these models."""
SWEPT_SMOKE = {**SMOKE, "evaluation.windows": 8, "evaluation.batch_size": 8, "shares": (0.0, REGULARISED, 1.0)}
SWEPT_PUBLISHED = {**PUBLISHED, "evaluation": PUBLISHED_EVALUATION}


@dataclass(frozen=True)
class SweptModels(TextModels):
    """shares: the probabilities p, ascending, with 0 and 1."""

    model: TransformerConfig = MODEL
    training: Training = TRAINING
    evaluation: EvaluationConfig = EvaluationConfig()
    shares: Shares = (0.0, 0.1, REGULARISED, 0.5, 1.0)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        yield {0.0, 1.0} <= set(self.shares), "shares", "probabilities, 0 and 1 among them"
        yield list(self.shares) == sorted(self.shares), "shares", "ascending"


def lexicon(share: float) -> LexiconConfig:
    """How the lexica of training are drawn."""
    return LexiconConfig("lexinvariant") if share == 1 else LexiconConfig("semi", p_random=share)


def train(share: float, text: Text, models: TextModels, workspace: Workspace) -> SharedModels:
    """The models of one share, one for each seed."""
    identity = {"fingerprint": text.fingerprint, **asdict(models.data)}
    how = text.vocab, text.train, models.training
    return shared_seeds(identity, models.model, lexicon(share), *how, workspace)


class Tested(NamedTuple):
    """Models of one share as they are tested: nothing is random in their embeddings any more, unless everything was (p = 1)."""

    params: list[Params]
    logits: Callable[..., Any]
    nats: list[Any]
    """Of text: an array [windows, time] for each seed."""


def tested(share: float, text: Text, models: SweptModels, workspace: Workspace) -> Tested:
    """Train one model per seed, and evaluate it on text."""
    trained = train(share, text, models, workspace)
    chosen = lexicon(share) if share == 1 else STANDARD
    nll, logits = (make(models.model, chosen, text.vocab) for make in (make_nll, make_logits))
    nats = held_out_nats(nll, trained.params, text.held_out, models.evaluation.batch_size)
    return Tested(trained.params, logits, nats)
