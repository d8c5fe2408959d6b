"""Trains a small language model as one of the processes that share its mesh of 4 fake devices.

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
from jax.experimental import multihost_utils
from small_model import LENGTH, ROWS, SOURCE, STEPS, language_model, part, refusals, train

from lexinv.data.windows import batches
from lexinv.training.checkpoint import Checkpoints
from lexinv.training.mesh import MeshConfig, make_mesh, process_rows, shard_batch
from lexinv.training.metrics import read_metrics
from lexinv.training.retention import CheckpointConfig

FOLDER, ADDRESS, PROCESSES, PROCESS = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if PROCESSES > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(ADDRESS, PROCESSES, PROCESS)

STEP, START = language_model("lexinvariant")
DATA, BOTH = MeshConfig(4, 1), MeshConfig(2, 2)
gathered = []


class CountingSource:
    """Counts the windows read."""

    length = LENGTH

    def __len__(self):
        return len(SOURCE)

    def gather(self, indices):
        gathered.append(len(indices))
        return SOURCE.gather(indices)


def counted_texts(held: np.ndarray):
    return batches(CountingSource(), ROWS, 3, 1, held)


def run(name: str, config: MeshConfig = BOTH, steps: int = STEPS, interrupt=None, **options) -> dict:
    calls = 0
    gathered.clear()

    def step(state, batch):
        nonlocal calls
        calls += 1
        if interrupt == (calls, PROCESS):
            os.kill(os.getpid(), signal.SIGTERM)
        return STEP(state, batch)

    fitted, code, folder = None, 0, FOLDER / name
    try:
        fitted = train(folder, step, START(), config, steps, counted_texts, **options)
    except SystemExit as stop:
        code = stop.code
    multihost_utils.sync_global_devices("ended")
    losses = [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    result = {"losses": losses, "code": code, "calls": calls, "checkpoints": kept, "gathered": max(gathered)}
    result["lines"] = (folder / "metrics.jsonl").read_text()
    if fitted is not None:
        leaves = multihost_utils.process_allgather(fitted.params, tiled=True) if PROCESSES > 1 else fitted.params
        result["params"] = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(leaves)]
        result["smallest_part"] = min(np.prod(part(leaf)) / leaf.size for leaf in jax.tree.leaves(fitted.params))
    return result


def main() -> dict:
    results = {"devices": jax.device_count(), "local": jax.local_device_count()}
    for name, config in {"data": DATA, "both": BOTH, "model": MeshConfig(model=4)}.items():
        results[name] = run(name, config)
    if PROCESSES == 1:
        return results
    run("resumed", steps=2)
    results["resumed"] = run("resumed")
    # The last process alone is told to end, or finds that the time for a checkpoint has come: all have to know.
    results["ended"] = run("ended", interrupt=(2, PROCESSES - 1))
    results["continued"] = run("ended")
    seconds = 0.0 if PROCESS == PROCESSES - 1 else 1e6
    results["late"] = run("late", checkpoints=CheckpointConfig(seconds=seconds))
    run("damaged", steps=4, checkpoints=CheckpointConfig(steps=2))
    if PROCESS == 0:  # the part that the other one wrote
        for path in (FOLDER / "damaged" / "checkpoints" / "4" / "state" / "ocdbt.process_1").rglob("*"):
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)
    multihost_utils.sync_global_devices("damaged")
    results["damaged"] = run("damaged")
    mesh = make_mesh(DATA)
    results["refused"] = refusals(
        lambda: make_mesh(MeshConfig(2, 1)),
        lambda: shard_batch({"x": np.zeros((1, 3))}, mesh, ROWS),
        lambda: process_rows(mesh, 6),
        lambda: Checkpoints(FOLDER / "own").restore_latest(START(), ""),
    )
    return results


if __name__ == "__main__":
    (FOLDER / f"{PROCESS}.json").write_text(json.dumps(main()))  # Gloo writes to standard output
