"""Trains small networks on one device and on meshes of 8 fake ones; prints as JSON what the tests compare."""

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
import jax.numpy as jnp
import numpy as np
import optax

from lexinv.nn.language_model import initialize, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.sae.losses import LossConfig
from lexinv.sae.methods import AutoencoderConfig
from lexinv.sae.training import create_autoencoder_state, make_autoencoder_step
from lexinv.training.fit import fit
from lexinv.training.mesh import MeshConfig, make_mesh, shard_batch, shard_state
from lexinv.training.metrics import read_metrics
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import make_train_step
from lexinv.validation import InvalidConfig

OPTIMIZER = optax.adam(1e-2, eps=1e-5)  # a gradient that is all rounding shall not become a step
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
    fitted, result = train(directory, STEPS_BY_MICROBATCHES[microbatches], initial_state(), batch, steps, mesh)
    leaves = {"in": fitted.params["in"], "moment": fitted.optimizer_state[0].mu["in"], "bias": fitted.params["bias"]}
    return result | {"shards": {name: part(leaf) for name, leaf in leaves.items()}}


def part(leaf: jax.Array) -> list[int]:
    """The shape of what one device holds."""
    return list(leaf.addressable_shards[0].data.shape)


def train(directory: Path, step, state: TrainState, batch, steps: int, mesh=None) -> tuple[TrainState, dict]:
    compiled, data = COMPILATIONS.count, grain.MapDataset.range(1000).map(batch)
    if mesh is not None:
        state, data = shard_state(state, mesh), data.map(lambda element: shard_batch(element, mesh))
    fitted = fit(
        state, step, data, steps=steps, directory=directory, metadata=METADATA, tokens_per_step=1, progress=False
    )
    return fitted, {
        "params": flat(fitted.params),
        "losses": [line["loss"] for line in read_metrics(directory / "metrics.jsonl")],
        "compiled": COMPILATIONS.count - compiled,
        "devices": fitted.step.sharding.num_devices,
    }


def flat(params) -> dict[str, list]:
    """The values of every array by the last word of its name; no two arrays here have the same."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path[-1].key: np.asarray(leaf).tolist() for path, leaf in leaves}


MODEL = TransformerConfig(depth=2, width=32, heads=8, mlp_width=64, bias=True)
VOCAB, CONTEXT = 16, 12


def language_model(kind: str):
    """(step, a function that makes the state before the first one)."""
    lexicon = LexiconConfig(kind)
    params = jax.jit(lambda key: initialize(MODEL, lexicon, VOCAB, key))(jax.random.key(0))
    step = make_train_step(make_loss(MODEL, lexicon, VOCAB), OPTIMIZER)
    return step, lambda: create_state(params, OPTIMIZER, jax.random.key(1))


def text(index: int, rows: int = 8):
    tokens = np.random.default_rng(int(index)).integers(0, VOCAB, (2, rows, CONTEXT), np.int32)
    return {"tokens": tokens, "row": np.tile(np.arange(rows, dtype=np.int32), (2, 1))}


def language_models(directory: Path, kind: str) -> dict:
    """One device, all heads apart, and all three axes of a mesh; of the second also a run that stops, and one that goes on elsewhere."""
    step, start = language_model(kind)

    def run(name: str, config: MeshConfig, steps: int = STEPS) -> dict:
        mesh = None if config == MeshConfig() else make_mesh(config)
        fitted, result = train(directory / name, step, start(), text, steps, mesh)
        layers = {"params": fitted.params, "moments": fitted.optimizer_state[0].mu}
        found = {name: tree["model"]["transformer"]["layers"] for name, tree in layers.items()}
        return result | {"shards": {name: jax.tree.map(part, tree) for name, tree in found.items()}}

    meshes = {"one": MeshConfig(), "model": MeshConfig(model=8), "all": MeshConfig(2, 2, 2)}
    results = {name: run(name, config) for name, config in meshes.items()}
    if kind == "lexinvariant":
        run("resumed", meshes["all"], 2)
        results["resumed"] = run("resumed", meshes["all"])
        results["other_mesh"] = run("model", MeshConfig(4, 2), STEPS + 2)
        results["one_longer"] = run("longer", meshes["one"], STEPS + 2)
    return results


def autoencoder(directory: Path) -> dict:
    config = AutoencoderConfig(width=8, features=32)
    step = make_autoencoder_step(config, LossConfig(), OPTIMIZER)

    def run(name: str, mesh=None) -> dict:
        sample = jax.random.normal(jax.random.key(2), (16, 8))
        state = create_autoencoder_state(config, OPTIMIZER, sample, 4, 0.0, jax.random.key(1))
        fitted, result = train(directory / name, step, state, activations, STEPS, mesh)
        return result | {"shards": {name: part(leaf) for name, leaf in fitted.params.items()}}

    return {"one": run("one"), "all": run("all", make_mesh(MeshConfig(2, 2, 2)))}


def activations(index: int):
    return {"activations": np.random.default_rng(int(index)).normal(size=(2, 16, 8)).astype(np.float32)}


def main(directory: Path) -> dict:
    results = {"one": run(directory / "one", STEPS)}
    for name, config in {"data": MeshConfig(8, 1), "fsdp": MeshConfig(1, 8), "both": MeshConfig(2, 4)}.items():
        results[name] = run(directory / name, STEPS, make_mesh(config))
    results["microbatches"] = run(directory / "microbatches", STEPS, make_mesh(MeshConfig(1, 8)), microbatches=2)
    run(directory / "resumed", 2, make_mesh(MeshConfig(1, 8)))
    results["resumed"] = run(directory / "resumed", STEPS, make_mesh(MeshConfig(1, 8)))
    results["other_mesh"] = run(directory / "one", STEPS + 2, make_mesh(MeshConfig(2, 4)))
    results["one_longer"] = run(directory / "longer", STEPS + 2)
    results |= {kind: language_models(directory / kind, kind) for kind in ("standard", "lexinvariant")}
    results["autoencoder"] = autoencoder(directory / "autoencoder")
    results["refused"] = []
    for refuse in (
        lambda: shard_batch(batch(0, rows=6), make_mesh(MeshConfig(2, 2, 2))),
        lambda: make_mesh(MeshConfig(2, 4, 2)),
        lambda: make_mesh(MeshConfig(0, 1)),
        lambda: make_mesh(MeshConfig(model=0)),
    ):
        try:
            refuse()
        except InvalidConfig as error:
            results["refused"].append(str(error))
    return results


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
