"""Trains small models on one device and on meshes of 8 fake ones: `python eight_devices.py FOLDER` writes what the tests compare."""

import json
import logging
import os
import sys
from pathlib import Path

# Most of the time goes into compiling: LLVM is told not to try hard.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"

import grain
import jax
import numpy as np
from small_model import OPTIMIZER, ROWS, STEPS, language_model, part, refusals, texts, train

from lexinv.sae.losses import LossConfig
from lexinv.sae.methods import AutoencoderConfig
from lexinv.sae.training import create_autoencoder_state, make_autoencoder_step
from lexinv.training.mesh import MeshConfig, make_mesh, shard_batch
from lexinv.training.metrics import read_metrics

FOLDER = Path(sys.argv[1])
ALL, OTHER = MeshConfig(2, 2, 2), MeshConfig(4, 2)
MESHES = {
    "one": MeshConfig(),
    "data": MeshConfig(8),
    "fsdp": MeshConfig(1, 8),
    "model": MeshConfig(1, 1, 8),
    "all": ALL,
}


class Compilations(logging.Handler):
    """Counts XLA compilations of the train step. Its cache also has entries for other spellings of one input."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.getMessage().startswith("Finished XLA compilation of jit(steps)")


COMPILATIONS = Compilations()
jax.config.update("jax_log_compiles", True)
for name in ("jax._src.dispatch", "jax._src.interpreters.pxla"):
    logging.getLogger(name).addHandler(COMPILATIONS)
    logging.getLogger(name).propagate = False


def run(name: str, step, state, config: MeshConfig, steps: int = STEPS, data=texts) -> dict:
    compiled = COMPILATIONS.count
    fitted = train(FOLDER / name, step, state, config, steps, data)
    return {
        "params": named(fitted.params, lambda leaf: np.asarray(leaf).tolist()),
        "losses": [line["loss"] for line in read_metrics(FOLDER / name / "metrics.jsonl")],
        "compiled": COMPILATIONS.count - compiled,
        "devices": fitted.step.sharding.num_devices,
        "parts": named(fitted.params, part),
        "parts_of_moments": named(fitted.optimizer_state[0].mu, part),
    }


def named(tree, of) -> dict:
    """`of` every array, by the last word of its name; no two arrays here have the same."""
    return {path[-1].key: of(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def language_models() -> dict:
    """Every mesh; of one kind also microbatches, a run that stops, and runs that go on elsewhere."""
    results = {}
    for kind in ("standard", "lexinvariant"):
        step, start = language_model(kind)
        results[kind] = {name: run(f"{kind}-{name}", step, start(), config) for name, config in MESHES.items()}
    halves, _ = language_model(kind, microbatches=2)
    run("resumed", step, start(), ALL, 2)
    results[kind] |= {
        "microbatches": run("microbatches", halves, start(), MESHES["fsdp"]),
        "resumed": run("resumed", step, start(), ALL),
        "one_goes_on": run(f"{kind}-one", step, start(), OTHER, STEPS + 2),
        "model_goes_on": run(f"{kind}-model", step, start(), OTHER, STEPS + 2),
        "longer": run("longer", step, start(), MESHES["one"], STEPS + 2),
    }
    return results


def autoencoder(name: str) -> dict:
    config = AutoencoderConfig(width=8, features=32)
    step = make_autoencoder_step(config, LossConfig(), OPTIMIZER)
    state = create_autoencoder_state(
        config, OPTIMIZER, jax.random.normal(jax.random.key(2), (16, 8)), 4, 0.0, jax.random.key(1)
    )
    return run(f"autoencoder-{name}", step, state, MESHES[name], data=activations)


def activations(held: np.ndarray):
    def batch(index: int):
        return {"activations": np.random.default_rng(int(index)).normal(size=(2, ROWS, 8)).astype(np.float32)}

    return grain.MapDataset.range(1000).map(batch)


if __name__ == "__main__":
    results = language_models() | {"autoencoder": {name: autoencoder(name) for name in ("one", "all")}}
    results["refused"] = refusals(
        lambda: shard_batch({"row": np.zeros((2, 6))}, make_mesh(ALL)),
        lambda: make_mesh(MeshConfig(2, 4, 2)),
        lambda: make_mesh(MeshConfig(0, 1)),
        lambda: make_mesh(MeshConfig(model=0)),
    )
    (FOLDER / "0.json").write_text(json.dumps(results))
