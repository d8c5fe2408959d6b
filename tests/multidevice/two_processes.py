"""Trains a tiny language model with `fit` as one of the processes that share its mesh of 4 fake devices.

python two_processes.py FOLDER ADDRESS PROCESSES PROCESS writes what the tests compare to FOLDER/PROCESS.json.
"""

import json
import os
import signal
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // int(sys.argv[3])}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from lexinv.data.windows import array_windows, batches
from lexinv.nn.language_model import initialize, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.fit import fit
from lexinv.training.mesh import MeshConfig, make_mesh, process_rows, shard_batch, shard_state
from lexinv.training.metrics import read_metrics
from lexinv.training.retention import CheckpointConfig
from lexinv.training.state import create_state
from lexinv.training.step import make_train_step
from lexinv.validation import InvalidConfig

FOLDER, ADDRESS, PROCESSES, PROCESS = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if PROCESSES > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(ADDRESS, PROCESSES, PROCESS)

VOCAB, LENGTH, ROWS, STEPS = 11, 12, 8, 6
MODEL, LEXICON = TransformerConfig(depth=1, width=16, heads=4), LexiconConfig("lexinvariant")
OPTIMIZER = optax.adam(1e-2, eps=1e-4)  # a gradient that is all rounding shall not become a step
SOURCE = array_windows(np.random.default_rng(0).integers(0, VOCAB, 600).astype(np.uint8), LENGTH)
STEP = make_train_step(make_loss(MODEL, LEXICON, VOCAB), OPTIMIZER)
PARAMS = jax.jit(lambda key: initialize(MODEL, LEXICON, VOCAB, key))(jax.random.key(0))
gathered = []


class CountingSource:
    """Counts the windows read."""

    length = LENGTH

    def __len__(self):
        return len(SOURCE)

    def gather(self, indices):
        gathered.append(len(indices))
        return SOURCE.gather(indices)


def run(directory: Path, config: MeshConfig, steps: int, interrupt=None, **options) -> dict:
    mesh, calls = make_mesh(config), 0
    state = shard_state(create_state(PARAMS, OPTIMIZER, jax.random.key(1)), mesh)
    data = batches(CountingSource(), ROWS, 3, 1, process_rows(mesh, ROWS))
    data = data.map(lambda batch: shard_batch(batch, mesh, ROWS))

    def step(state, batch):
        nonlocal calls
        calls += 1
        if interrupt == (calls, PROCESS):
            os.kill(os.getpid(), signal.SIGTERM)
        return STEP(state, batch)

    options = {"metadata": {"config_hash": "0123abcd"}, "tokens_per_step": 1, "progress": False, **options}
    fitted, code = None, 0
    try:
        fitted = fit(state, step, data, steps=steps, directory=directory, **options)
    except SystemExit as stop:
        code = stop.code
    multihost_utils.sync_global_devices("ended")
    losses = [line["loss"] for line in read_metrics(directory / "metrics.jsonl")]
    kept = sorted(path.name for path in (directory / "checkpoints").iterdir())
    result = {"losses": losses, "code": code, "calls": calls, "checkpoints": kept}
    result["lines"] = (directory / "metrics.jsonl").read_text()
    if fitted is not None:
        leaves = multihost_utils.process_allgather(fitted.params, tiled=True) if PROCESSES > 1 else fitted.params
        result["params"] = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(leaves)]
        parts = [leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(fitted.params)]
        result["smallest_part"] = min(parts)
    return result


def main() -> dict:
    results = {"devices": jax.device_count(), "local": jax.local_device_count()}
    for name, config in {"data": MeshConfig(4, 1), "both": MeshConfig(2, 2), "model": MeshConfig(model=4)}.items():
        gathered.clear()
        results[name] = run(FOLDER / name, config, STEPS)
        results[name]["gathered"] = max(gathered)
    run(FOLDER / "resumed", MeshConfig(2, 2), 2)
    results["resumed"] = run(FOLDER / "resumed", MeshConfig(2, 2), STEPS)
    if PROCESSES == 1:
        return results
    # The last process alone is told to end, or finds that the time for a checkpoint has come: all have to know.
    results["ended"] = run(FOLDER / "ended", MeshConfig(2, 2), STEPS, interrupt=(2, PROCESSES - 1))
    results["continued"] = run(FOLDER / "ended", MeshConfig(2, 2), STEPS)
    seconds = 0.0 if PROCESS == PROCESSES - 1 else 1e6
    results["late"] = run(FOLDER / "late", MeshConfig(2, 2), STEPS, checkpoints=CheckpointConfig(seconds=seconds))
    run(FOLDER / "damaged", MeshConfig(2, 2), 4, checkpoints=CheckpointConfig(steps=2))
    if PROCESS == 0:  # the part that the other one wrote
        for path in (FOLDER / "damaged" / "checkpoints" / "4" / "state" / "ocdbt.process_1").rglob("*"):
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)
    multihost_utils.sync_global_devices("damaged")
    results["damaged"] = run(FOLDER / "damaged", MeshConfig(2, 2), STEPS)
    results["refused"] = []
    mesh = make_mesh(MeshConfig(4, 1))
    for refuse in (
        lambda: make_mesh(MeshConfig(2, 1)),
        lambda: shard_batch({"x": np.zeros((1, 3))}, mesh, ROWS),
        lambda: process_rows(mesh, 6),
    ):
        try:
            refuse()
        except InvalidConfig as error:
            results["refused"].append(str(error))
    return results


if __name__ == "__main__":
    (FOLDER / f"{PROCESS}.json").write_text(json.dumps(main()))  # Gloo writes to standard output
