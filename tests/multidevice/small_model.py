"""The small language model that the programs beside this file train with `fit`. They choose their devices before they import it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from lexinv.data.windows import array_windows, batches
from lexinv.nn.language_model import initialize, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.fit import fit
from lexinv.training.mesh import MeshConfig, make_mesh, process_rows, shard_batch, shard_state
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import make_train_step
from lexinv.validation import InvalidConfig

VOCAB, LENGTH, ROWS, STEPS = 16, 12, 16, 6
MODEL = TransformerConfig(depth=2, width=32, heads=8, mlp_width=64, bias=True)
OPTIMIZER = optax.adam(1e-2, eps=1e-4)  # a gradient that is all rounding shall not become a step
SOURCE = array_windows(np.random.default_rng(0).integers(0, VOCAB, 600).astype(np.uint8), LENGTH)


def language_model(kind: str, microbatches: int = 1) -> tuple[Callable, Callable[[], TrainState]]:
    """The train step, and what makes the state before the first one."""
    lexicon = LexiconConfig(kind)
    start = jax.jit(lambda key: create_state(initialize(MODEL, lexicon, VOCAB, key), OPTIMIZER, key))
    step = make_train_step(make_loss(MODEL, lexicon, VOCAB), OPTIMIZER, microbatches=microbatches)
    return step, lambda: start(jax.random.key(0))


def texts(held: np.ndarray):
    """Batches of two steps a dispatch, of the rows that this process holds."""
    return batches(SOURCE, ROWS, 3, 2, held)


def train(folder: Path, step: Callable, state: TrainState, config: MeshConfig, steps: int, data=texts, **options: Any):
    mesh = make_mesh(config)
    sharded = data(process_rows(mesh, ROWS)).map(lambda batch: shard_batch(batch, mesh, ROWS))
    options = {"metadata": {"config_hash": "0123abcd"}, "tokens_per_step": 1, "progress": False, **options}
    return fit(shard_state(state, mesh), step, sharded, steps=steps, directory=folder, **options)


def part(leaf: jax.Array) -> list[int]:
    """The shape of what one device holds."""
    return list(leaf.addressable_shards[0].data.shape)


def refusals(*attempts: Callable[[], Any]) -> list[str]:
    """What the messages say."""
    messages = []
    for attempt in attempts:
        try:
            attempt()
        except InvalidConfig as error:
            messages.append(str(error))
    return messages
