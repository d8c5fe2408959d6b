"""A noisy bigram model on 40 windows of 8 tokens, trained by `fit`. As a program: python tiny_run.py DIRECTORY STEPS [CHECKPOINT_STEPS]."""

import sys
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lexinv.training.fit import fit
from lexinv.training.retention import CheckpointConfig
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import make_train_step

VOCAB, TIME, BATCH, PER_DISPATCH = 5, 8, 4, 2
METADATA = {"config_hash": "0123abcd"}
OPTIMIZER = optax.adam(1e-2)


def loss_fn(params, batch, key):
    """Cross-entropy of the next token in nats, with noise drawn per row on the logits."""
    inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    draw = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (TIME - 1, VOCAB)))
    log_probs = jax.nn.log_softmax(params["table"][inputs] + 0.1 * draw(batch["row"]))
    chosen = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)
    return -jnp.mean(chosen), {"accuracy": jnp.mean(log_probs.argmax(-1) == targets)}


def dataset() -> grain.MapDataset:
    """Element i: {"tokens": int32[K, B, T], "row": int32[K, B]}, shuffled anew in every epoch."""
    row = np.tile(np.arange(BATCH, dtype=np.int32), (PER_DISPATCH, 1))
    windows = np.random.default_rng(0).integers(0, VOCAB, (40, TIME), dtype=np.int32)
    batches = grain.MapDataset.source(windows).seed(7).shuffle().repeat().batch(BATCH).batch(PER_DISPATCH)
    return batches.map(lambda tokens: {"tokens": tokens, "row": row})


def initial_state(seed: int = 0) -> TrainState:
    key = jax.random.key(seed)
    return create_state({"table": 0.1 * jax.random.normal(key, (VOCAB, VOCAB))}, OPTIMIZER, key)


def run(directory: Path | None, steps: int, train_step=None, **options) -> TrainState:
    options = {"metadata": METADATA, "tokens_per_step": BATCH * TIME, "progress": False, **options}
    train_step = make_train_step(loss_fn, OPTIMIZER) if train_step is None else train_step
    return fit(initial_state(), train_step, dataset(), steps=steps, directory=directory, **options)


def assert_equal(a, b) -> None:
    """Two states are bitwise equal."""
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(raw(x), raw(y)), a, b)


def raw(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


if __name__ == "__main__":
    every = int(sys.argv[3]) if len(sys.argv) > 3 else None
    run(Path(sys.argv[1]), int(sys.argv[2]), checkpoints=CheckpointConfig(steps=every))
