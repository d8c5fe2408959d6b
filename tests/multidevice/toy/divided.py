"""Language models on random text, trained with `train_seeds`: an experiment for tests of runs in several processes.

The variable TOY says what goes wrong where: kill:1 ends process 1 by SIGKILL while it trains the second seed, full:0 fills the disk of
process 0 before.
"""

import errno
import os
import signal
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, below
from lexinv.training.optimizers import OptimizerConfig

PAPERS = ()
VOCAB, LENGTH = 11, 12
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=1)


@dataclass(frozen=True)
class Config:
    training: Training = Training(steps=6, batch_size=8, seeds=(0, 1), optimizer=OPTIMIZER)


PRESETS = {"smoke": Config()}


def run(config: Config, workspace: Any) -> dict[str, Any]:
    import jax

    from experiments.harness.training import training_losses
    from experiments.subjects.language_models import train_seeds
    from lexinv.data.windows import Windows, array_windows
    from lexinv.nn.language_model import make_nll
    from lexinv.nn.lexicon import LexiconConfig
    from lexinv.nn.transformer import TransformerConfig
    from lexinv.training.evaluation import evaluate_by_position

    process = jax.process_index()
    trouble = os.environ.get("TOY")
    source = array_windows(np.random.default_rng(0).integers(0, VOCAB, 600).astype(np.uint8), LENGTH)
    gathered = 0

    class Source(Windows):
        def gather(self, indices: Any) -> Any:
            nonlocal gathered
            gathered += 1
            if trouble == f"kill:{process}" and gathered == config.training.steps * 2 - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().gather(indices)

    def measure() -> dict[str, Any]:
        model, lexicon = TransformerConfig(depth=1, width=16, heads=2), LexiconConfig("lexinvariant")
        params = train_seeds("models", model, lexicon, VOCAB, Source(**vars(source)), config.training, workspace)
        nll, windows = make_nll(model, lexicon, VOCAB), source.gather(np.arange(8))
        nats = [evaluate_by_position(nll, tree, windows, jax.random.key(0), 8) for tree in params]
        return {"nats": np.array(nats).mean(axis=1), "losses": training_losses("models", config.training, workspace)}

    def whose() -> str:
        if trouble == f"full:{process}":
            raise OSError(errno.ENOSPC, "no space for the stage of the toy")
        return f"the stage of process {process}"

    first = workspace.cached("first", whose)
    results = {"corpora": {}, "seeds": config.training.seeds, "first": first, **workspace.cached("models", measure)}
    (workspace.path / f"seen-{process}.txt").write_text(repr(results))
    return results


def claims(results: dict[str, Any]) -> list[Claim]:
    losses = {"last": np.array([rows[-1] for rows in results["losses"]])}
    return [Claim("learns", "The last loss is below 100 nats.", OURS, losses, below(100.0))]


def figure(results: dict[str, Any]) -> Any:
    from experiments.harness.style import panels

    figure, (axes,) = panels()
    axes.set_axis_off()  # text is what takes time to draw
    return figure
