"""Language models on text that differ in nothing but their lexicon: the standard one, a canonical one, the paper's Gaussian vectors.

Huang et al. 2023 (arXiv 2305.16349); method card lexinvariant-lm, experiment C. They lie in the user's cache, so that the experiment that
judges them and the one that probes them train them once.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Training, evaluations
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import train_seeds
from experiments.subjects.text import (
    CANONICAL,
    LEXINVARIANT,
    MUON,
    PUBLISHED_DATA,
    PUBLISHED_EVALUATION,
    PUBLISHED_MODEL,
    PUBLISHED_TRAINING,
    STANDARD,
    SUFFIX_MATCH,
    DataConfig,
    EvaluationConfig,
    Text,
    TextModels,
    follower,
)
from lexinv.nn.language_model import Params, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import CountOrZero

KINDS = {"standard": STANDARD, "canonical": CANONICAL, "Gaussian": LEXINVARIANT}
WITHOUT_IDENTITY = ("canonical", "Gaussian")


@dataclass(frozen=True)
class LexiconModels(TextModels):
    """Every kind of model is trained once for each seed. The tokenizer should lose nothing of the text.

    vocab_block: see `lexinv.nn.lexicon.LexiconConfig`; for subword vocabularies.
    followed: held-out windows of each seed on which every model is evaluated before training and after every dispatch; 0: it is not.
    """

    data: DataConfig = DataConfig(tokenizer="byte")
    model: TransformerConfig = replace(SUFFIX_MATCH, width=128, mlp_width=512)
    training: Training = Training(steps=600, seeds=(0, 1, 2), optimizer=MUON, steps_per_dispatch=20)
    evaluation: EvaluationConfig = EvaluationConfig()
    vocab_block: CountOrZero = 0
    followed: CountOrZero = 32

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        yield self.followed <= self.evaluation.windows, "followed", f"at most {self.evaluation.windows} windows"
        alone = not self.followed or self.training.mesh.devices == 1
        yield alone, "followed", "0 on a mesh of several devices"


SMOKE = {
    "data": DataConfig(context=64),
    "model.width": 32,
    "model.mlp_width": 64,
    "training.steps": 8,
    "training.batch_size": 4,
    "training.seeds": (0, 1),
    "training.optimizer.warmup_steps": 2,
    "training.steps_per_dispatch": 4,
    "evaluation": EvaluationConfig(windows=8, batch_size=8, draws=2, max_order=2),
    "followed": 4,
}
QUICK = {"training.steps": 300, "training.seeds": (0,)}
PUBLISHED = {
    "data": PUBLISHED_DATA,
    "model": PUBLISHED_MODEL,
    "training": PUBLISHED_TRAINING,
    "evaluation": PUBLISHED_EVALUATION,
    "followed": 0,
}
"""Presets of whoever asks these models."""


class Followed(NamedTuple):
    """A trained model and its course: nats per token in the second half of the followed windows after so many steps, from 0 on."""

    params: Params
    steps: list[int]
    nats: Float[np.ndarray, " evaluations"]


def lexicon(kind: str, models: LexiconModels) -> LexiconConfig:
    return replace(KINDS[kind], vocab_block=models.vocab_block)


def train_kind(kind: str, text: Text, models: LexiconModels, workspace: Workspace) -> list[Followed]:
    """The models of a kind, one for each seed; without a course where none is followed."""
    training, how = models.training, (models.model, lexicon(kind, models), text.vocab)
    followed = {"windows": models.evaluation.windows, "count": models.followed}
    content = {
        "text": {"fingerprint": text.fingerprint, **asdict(models.data)},
        "model": asdict(models.model),
        "lexicon": asdict(lexicon(kind, models)),
        "training": asdict(training),
        "followed": followed,
        "vocab": text.vocab,
    }
    evaluate = follower(make_nll(*how), text.held_out, models.followed) if models.followed else None

    def trained(shared: Workspace) -> list[Followed]:
        params = train_seeds(kind, *how, text.train, training, shared, evaluate)
        course = {"steps": [], "nats": np.empty((len(params), 0))} if evaluate is None else evaluations(kind, shared)
        return [Followed(tree, course["steps"], nats) for tree, nats in zip(params, course["nats"], strict=True)]

    return shared_models(content, trained, workspace).params
