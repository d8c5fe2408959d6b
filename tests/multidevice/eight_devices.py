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
STEPS, ROWS, VOCAB, CONTEXT = 6, 16, 16, 12
MODEL = TransformerConfig(depth=2, width=32, heads=8, mlp_width=64, bias=True)
ONE, ALL, OTHER = MeshConfig(), MeshConfig(2, 2, 2), MeshConfig(4, 2)
MESHES = {"one": ONE, "data": MeshConfig(8), "fsdp": MeshConfig(1, 8), "model": MeshConfig(model=8), "all": ALL}


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


def train(directory: Path, step, state: TrainState, batch, config: MeshConfig, steps: int = STEPS) -> dict:
    compiled, data = COMPILATIONS.count, grain.MapDataset.range(1000).map(batch)
    if config != ONE:
        mesh = make_mesh(config)
        state, data = shard_state(state, mesh), data.map(lambda element: shard_batch(element, mesh))
    options = {"metadata": METADATA, "tokens_per_step": 1, "progress": False}
    fitted = fit(state, step, data, steps=steps, directory=directory, **options)
    return {
        "params": named(fitted.params, lambda leaf: np.asarray(leaf).tolist()),
        "losses": [line["loss"] for line in read_metrics(directory / "metrics.jsonl")],
        "compiled": COMPILATIONS.count - compiled,
        "devices": fitted.step.sharding.num_devices,
        "parts": named(fitted.params, part),
        "parts_of_moments": named(fitted.optimizer_state[0].mu, part),
    }


def named(tree, of) -> dict:
    """`of` every array, by the last word of its name; no two arrays here have the same."""
    return {path[-1].key: of(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def part(leaf: jax.Array) -> list[int]:
    """The shape of what one device holds."""
    return list(leaf.addressable_shards[0].data.shape)


def text(index: int):
    tokens = np.random.default_rng(int(index)).integers(0, VOCAB, (2, ROWS, CONTEXT), np.int32)
    return {"tokens": tokens, "row": np.tile(np.arange(ROWS, dtype=np.int32), (2, 1))}


def language_models(directory: Path, kind: str) -> dict:
    """Every mesh; of one kind also microbatches, a run that stops, and runs that go on elsewhere."""
    lexicon = LexiconConfig(kind)
    params = jax.jit(lambda key: initialize(MODEL, lexicon, VOCAB, key))(jax.random.key(0))
    whole, halves = (make_train_step(make_loss(MODEL, lexicon, VOCAB), OPTIMIZER, microbatches=n) for n in (1, 2))

    def run(name: str, config: MeshConfig, steps: int = STEPS, step=whole) -> dict:
        return train(directory / name, step, create_state(params, OPTIMIZER, jax.random.key(1)), text, config, steps)

    results = {name: run(name, config) for name, config in MESHES.items()}
    if kind == "lexinvariant":
        results["microbatches"] = run("microbatches", MESHES["fsdp"], step=halves)
        run("resumed", ALL, 2)
        results["resumed"] = run("resumed", ALL)
        results |= {f"{name}_goes_on": run(name, OTHER, STEPS + 2) for name in ("one", "model")}
        results["longer"] = run("longer", ONE, STEPS + 2)
    return results


def autoencoder(directory: Path) -> dict:
    config = AutoencoderConfig(width=8, features=32)
    step = make_autoencoder_step(config, LossConfig(), OPTIMIZER)
    sample = jax.random.normal(jax.random.key(2), (16, 8))

    def run(name: str) -> dict:
        state = create_autoencoder_state(config, OPTIMIZER, sample, 4, 0.0, jax.random.key(1))
        return train(directory / name, step, state, activations, MESHES[name])

    return {name: run(name) for name in ("one", "all")}


def activations(index: int):
    return {"activations": np.random.default_rng(int(index)).normal(size=(2, 16, 8)).astype(np.float32)}


def main(directory: Path) -> dict:
    results = {kind: language_models(directory / kind, kind) for kind in ("standard", "lexinvariant")}
    results |= {"autoencoder": autoencoder(directory / "autoencoder"), "refused": []}
    for refuse in (
        lambda: shard_batch(jax.tree.map(lambda leaf: leaf[:, :6], text(0)), make_mesh(ALL)),
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
    (Path(sys.argv[1]) / "0.json").write_text(json.dumps(main(Path(sys.argv[1]))))
