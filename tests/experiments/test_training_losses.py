"""Losses of a training are read from what it logged, whichever way it ran."""

import json
from dataclasses import replace

import numpy as np

from experiments.harness.training import Training, training_losses
from experiments.harness.workspace import Workspace
from lexinv.training.optimizers import OptimizerConfig


def test_losses_are_read_from_a_population_and_from_a_run_for_each_seed(tmp_path):
    workspace = Workspace(tmp_path, "hash")
    training = Training(steps=4, seeds=(3, 5), optimizer=OptimizerConfig(warmup_steps=1))
    losses = np.arange(8.0).reshape(2, 4)

    def write(folder, values):
        lines = [{"step": step, "loss": loss} for step, loss in enumerate(values, 1)]
        lines.insert(2, {"step": 2, "evaluation": {"loss": 9.0}})
        (workspace.folder(folder) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    write("alone", losses.T.tolist())
    np.testing.assert_array_equal(training_losses("alone", training, workspace), losses)
    one = replace(training, seeds=(3,))
    write("one", losses[:1].T.tolist())
    np.testing.assert_array_equal(training_losses("one", one, workspace), losses[:1])
    on_mesh = replace(training, mesh=replace(training.mesh, data=2))
    for seed, values in zip(training.seeds, losses, strict=True):
        write(f"mesh/seed-{seed}", values.tolist())
    np.testing.assert_array_equal(training_losses("mesh", on_mesh, workspace), losses)
