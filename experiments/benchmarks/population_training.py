"""A process that trains a language model with some seeds, as experiments do.

`python -m experiments.benchmarks.population_training FOLDER`. The folder holds problem.json: what is trained, with the seeds of one
population.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

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


def main(folder: Path) -> None:
    """Train in the folder, from the start or from a checkpoint, until done."""
    from experiments.harness.trial import prepare_process

    prepare_process()

    import numpy as np

    from experiments.harness.config import from_json
    from experiments.harness.workspace import Workspace
    from experiments.subjects.language_models import train_seeds
    from lexinv.data.windows import array_windows

    problem = from_json(TrainingProblem, json.loads((folder / "problem.json").read_bytes()))
    tokens = np.random.default_rng(0).integers(problem.vocab, size=1000 * problem.context, dtype=np.uint8)
    source, workspace = array_windows(tokens, problem.context), Workspace(folder, "benchmark", progress=False)
    train_seeds(NAME, problem.model, problem.lexicon, problem.vocab, source, problem.training, workspace)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
