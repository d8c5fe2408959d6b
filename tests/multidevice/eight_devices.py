"""Trains one small network on one device and on meshes of 8 fake ones; prints as JSON what the tests compare."""

import json
import logging
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lexinv.training.fit import fit
from lexinv.training.mesh import MeshConfig, make_mesh, shard_batch, shard_state
from lexinv.training.metrics import read_metrics
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import make_train_step
from lexinv.validation import InvalidConfig

OPTIMIZER = optax.adam(1e-2)
METADATA = {"config_hash": "0123abcd"}
STEPS = 6


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


def loss_fn(params, batch, key):
    draw = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (8,)))
    hidden = jnp.tanh((batch["x"] + 0.1 * draw(batch["row"])) @ params["in"] + params["bias"][None])
    return jnp.mean((hidden @ params["out"] - batch["y"]) ** 2), {}


STEPS_BY_MICROBATCHES = {count: make_train_step(loss_fn, OPTIMIZER, microbatches=count) for count in (1, 2)}


def initial_state() -> TrainState:
    keys = jax.random.split(jax.random.key(0))
    params = {
        "in": jax.random.normal(keys[0], (8, 32)),
        "out": jax.random.normal(keys[1], (32, 3)),
        "bias": jnp.ones(32),
    }
    return create_state(params, OPTIMIZER, jax.random.key(1))


def batch(index: int, rows: int = 16):
    rng = np.random.default_rng(int(index))
    x, y = rng.normal(size=(2, rows, 8)).astype(np.float32), rng.normal(size=(2, rows, 3)).astype(np.float32)
    return {"x": x, "y": y, "row": np.tile(np.arange(rows, dtype=np.int32), (2, 1))}


def run(directory: Path, steps: int, mesh=None, microbatches: int = 1) -> dict:
    step, compiled = STEPS_BY_MICROBATCHES[microbatches], COMPILATIONS.count
    state, data = initial_state(), grain.MapDataset.range(1000).map(batch)
    if mesh is not None:
        state, data = shard_state(state, mesh), data.map(lambda element: shard_batch(element, mesh))
    fitted = fit(
        state, step, data, steps=steps, directory=directory, metadata=METADATA, tokens_per_step=1, progress=False
    )
    leaves = {"in": fitted.params["in"], "moment": fitted.optimizer_state[0].mu["in"], "bias": fitted.params["bias"]}
    return {
        "params": jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), fitted.params),
        "losses": [line["loss"] for line in read_metrics(directory / "metrics.jsonl")],
        "compiled": COMPILATIONS.count - compiled,
        "devices": fitted.step.sharding.num_devices,
        "shards": {name: list(leaf.addressable_shards[0].data.shape) for name, leaf in leaves.items()},
    }


def main(directory: Path) -> dict:
    results = {"one": run(directory / "one", STEPS)}
    for name, config in {"data": MeshConfig(8, 1), "fsdp": MeshConfig(1, 8), "both": MeshConfig(2, 4)}.items():
        results[name] = run(directory / name, STEPS, make_mesh(config))
    results["microbatches"] = run(directory / "microbatches", STEPS, make_mesh(MeshConfig(1, 8)), microbatches=2)
    run(directory / "resumed", 2, make_mesh(MeshConfig(1, 8)))
    results["resumed"] = run(directory / "resumed", STEPS, make_mesh(MeshConfig(1, 8)))
    results["other_mesh"] = run(directory / "one", STEPS + 2, make_mesh(MeshConfig(2, 4)))
    results["one_longer"] = run(directory / "longer", STEPS + 2)
    results["refused"] = []
    for refuse in (
        lambda: shard_batch(batch(0, rows=12), make_mesh(MeshConfig(2, 4))),
        lambda: make_mesh(MeshConfig(3, 4)),
        lambda: make_mesh(MeshConfig(0, 1)),
    ):
        try:
            refuse()
        except InvalidConfig as error:
            results["refused"].append(str(error))
    return results


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
