"""Training on data drawn from keys: every step makes its own batch inside the compiled program, and nothing is stored or shuffled."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from lexinv.training.fit import fit
from lexinv.training.optimizers import make_optimizer
from lexinv.training.population import member
from lexinv.training.state import create_state
from lexinv.training.step import make_train_step
from lexinv.training.streams import stream

Params = Any
DrawnLoss = Callable[[Params, Key[Array, ""]], tuple[Array, dict[str, Array]]]
"""loss(params, key) -> (loss, metrics) of a batch that it draws from the key."""


def initial(initialize: Callable[[Key[Array, ""]], Params], seeds: Sequence[int]) -> Params:
    """`initialize(key)` for every seed, one after another (see `lexinv.training.population.create_population`), stacked."""
    keys = jnp.stack([stream(jax.random.key(seed), "parameters") for seed in seeds])
    return jax.jit(lambda keys: jax.lax.map(initialize, keys))(keys)


def train_on_draws(
    name: str,
    params: Params,
    loss: DrawnLoss,
    training: Training,
    workspace: Workspace,
    tokens_per_example: int = 1,
) -> list[Params]:
    """Parameters after training, a tree for each seed; runs in the workspace's folder `name`, resumes there, returns at once when done.

    params: where to start, stacked over seeds: `initial`, or models to go on with. tokens_per_example: for the speed that is shown.
    Raises `lexinv.training.fit.NonFiniteLoss`.
    """
    import grain

    optimizer, members = make_optimizer(training.optimizer, training.steps), len(training.seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in training.seeds])
    empty = {"draw": np.zeros((training.steps_per_dispatch, members), np.int32)}
    state = fit(
        jax.vmap(lambda tree, key: create_state(tree, optimizer, key))(params, keys),
        make_train_step(
            lambda tree, _, key: loss(tree, key),
            optimizer,
            population="map" if jax.default_backend() == "cpu" else "vmap",
        ),
        grain.MapDataset.range(sys.maxsize).map(lambda _: empty),
        steps=training.steps,
        directory=workspace.folder(name),
        metadata={"config_hash": workspace.config_hash, "arm": name},
        tokens_per_step=members * training.batch_size * tokens_per_example,
        checkpoints=workspace.checkpoints,
        progress=workspace.progress,
        description=name,
    )
    return [member(state.params, index) for index in range(members)]
