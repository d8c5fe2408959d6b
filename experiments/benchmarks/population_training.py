"""What a process does that trains a language model with some seeds, as experiments do. Apart, so that it imports no more than that."""

from dataclasses import dataclass
from pathlib import Path

from experiments.benchmarks.worker import write_to
from experiments.harness.training import Training
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig

NAME = "model"


@dataclass(frozen=True)
class TrainingProblem:
    """What is trained: as in an experiment on text, but for the text, which is drawn, since its letters do not change the time."""

    model: TransformerConfig
    training: Training
    lexicon: LexiconConfig = LexiconConfig("lexinvariant")
    vocab: int = 64
    context: int = 256


def train_in(folder: Path, problem: TrainingProblem, log: Path) -> None:
    """Train the seeds of the problem as one population in the folder."""
    from experiments.harness.trial import prepare_process

    write_to(log)
    prepare_process()

    import numpy as np

    from experiments.harness.workspace import Workspace
    from experiments.subjects.language_models import train_seeds
    from lexinv.data.windows import array_windows

    tokens = np.random.default_rng(0).integers(problem.vocab, size=1000 * problem.context, dtype=np.uint8)
    source, workspace = array_windows(tokens, problem.context), Workspace(folder, "benchmark", progress=False)
    train_seeds(NAME, problem.model, problem.lexicon, problem.vocab, source, problem.training, workspace)
