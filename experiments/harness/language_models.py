"""Training language models over a lexicon, several seeds at once: what the experiments on text and on Markov sources share."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import grain
import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import Float

from experiments.harness.shared_models import SharedModels, shared_models
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from lexinv.data.windows import Windows, batches, population_batches
from lexinv.nn.flops import train_flops
from lexinv.nn.language_model import Params, initialize, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.checkpoint import Checkpoints
from lexinv.training.fit import fit
from lexinv.training.mesh import make_mesh, process_rows, shard_batch, shard_state
from lexinv.training.metrics import read_metrics
from lexinv.training.optimizers import OptimizerConfig, make_optimizer, scaled_in_state
from lexinv.training.population import create_population, member
from lexinv.training.processes import agree, whole
from lexinv.training.retention import CheckpointConfig
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import TrainStep, make_train_step
from lexinv.training.streams import stream
from lexinv.validation import require


def training_mesh(training: Training, model: TransformerConfig) -> Mesh:
    """The mesh that `model` is trained on. To be called before anything is compiled: it refuses one that does not fit.

    Raises `InvalidConfig` for more devices than there are, and where `mesh.model` divides a head or the MLPs unevenly. It need not divide
    the vocabulary, which is then whole on each of its devices.
    """
    for field in ("heads", "mlp_width"):
        allowed = f"a divisor of model.{field} = {getattr(model, field)}"
        require(
            getattr(model, field) % max(training.mesh.model, 1) == 0,
            "training.mesh.model",
            training.mesh.model,
            allowed,
        )
    return make_mesh(training.mesh)


def training_losses(name: str, training: Training, workspace: Workspace) -> Float[np.ndarray, "seeds steps"]:
    """The loss at every step of what `train_seeds` trained under this name, in its own units."""
    alone = make_mesh(training.mesh).size == 1
    folders = [name] if alone else [f"{name}/seed-{seed}" for seed in training.seeds]
    losses = agree(
        lambda: [
            [line["loss"] for line in read_metrics(workspace.folder(folder) / "metrics.jsonl") if "loss" in line]
            for folder in folders
        ]
    )
    return np.atleast_3d(losses).swapaxes(1, 2).reshape(len(training.seeds), -1)  # a population logs a list per step


@dataclass(frozen=True, eq=False)
class Trainee:
    """Models that `train_seeds` trains as one population: they differ in seed and learning rate."""

    name: str
    model: TransformerConfig
    lexicon: LexiconConfig
    vocab: int
    source: Windows
    training: Training

    @cached_property
    def program(self) -> str:
        """Digest of all that decides the results beside seeds and learning rate: trainings that share it may be one population."""
        alike = replace(self.training, seeds=(0,), optimizer=self.optimizer)
        parts = [asdict(self.model), asdict(self.lexicon), self.vocab, asdict(alike), self.source.length]
        digest = hashlib.sha256(json.dumps(parts).encode())
        for array in (self.source.tokens, self.source.starts, self.source.stops):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]

    @property
    def optimizer(self) -> OptimizerConfig:
        """As configured, but for the learning rate, which is kept in the state: one program serves all."""
        return replace(self.training.optimizer, learning_rate=1.0)

    def start(self, key: jax.Array, learning_rate: jax.Array | float) -> TrainState:
        """The state of one member before the first step."""
        optimizer = scaled_in_state(make_optimizer(self.optimizer, self.training.steps), learning_rate)
        return create_state(initialize(self.model, self.lexicon, self.vocab, stream(key, "parameters")), optimizer, key)

    def step(self, population: Literal["none", "map", "vmap"]) -> TrainStep:
        """The train step, to be compiled once for all that are trained by it."""
        return make_train_step(
            make_loss(self.model, self.lexicon, self.vocab),
            scaled_in_state(make_optimizer(self.optimizer, self.training.steps)),
            microbatches=self.training.microbatches,
            population=population,
        )

    def fit(
        self,
        state: TrainState,
        step: TrainStep,
        dataset: grain.MapDataset,
        directory: Path,
        config_hash: str,
        progress: bool,
        checkpoints: CheckpointConfig,
    ) -> TrainState:
        """The state after training in `directory`."""
        return fit(
            state,
            step,
            dataset,
            steps=self.training.steps,
            directory=directory,
            metadata={"config_hash": config_hash, "arm": self.name},
            tokens_per_step=state.step.size * self.training.batch_size * self.source.length,
            flops_per_token=train_flops(self.model, self.vocab, self.source.length),
            checkpoints=checkpoints,
            progress=progress,
            description=self.name,
        )


def train_population(
    what: Trainee,
    members: Sequence[tuple[int, float]],
    directory: Path,
    config_hash: str,
    progress: bool,
    checkpoints: CheckpointConfig = CheckpointConfig(),
) -> TrainState:
    """The state after training `members`, each (seed, learning rate), which take the place of those in `what.training`.

    A member's numbers depend on which others there are by rounding only.
    Raises `InvalidConfig` and `lexinv.training.fit.NonFiniteLoss`.
    """
    (seeds, rates), training = zip(*members, strict=True), what.training
    found = _finished(lambda: create_population(what.start, seeds, rates), training.steps, directory, config_hash)
    if found is not None:
        return found
    dataset = population_batches(what.source, training.batch_size, seeds, training.steps_per_dispatch)
    state = create_population(what.start, seeds, rates)
    step = what.step("map" if jax.default_backend() == "cpu" else "vmap")
    return what.fit(state, step, dataset, directory, config_hash, progress, checkpoints)


def _finished(start: Callable[[], TrainState], steps: int, directory: Path, config_hash: str) -> TrainState | None:
    """The state after the last step, if it is in `directory`. Nothing is compiled for it, as the first state would have to be."""
    if not (directory / f"checkpoints/{steps}").is_dir():
        return None
    place = SingleDeviceSharding(jax.devices()[0])
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), jax.eval_shape(start)
    )
    restored = Checkpoints(directory / "checkpoints").restore_latest(template, config_hash)
    return restored.state if restored is not None and restored.step == steps else None


def train_seeds(
    name: str,
    model: TransformerConfig,
    lexicon: LexiconConfig,
    vocab: int,
    source: Windows,
    training: Training,
    workspace: Workspace,
) -> list[Params]:
    """Parameters after training, one tree per seed. Runs in the workspace's folder `name`, resumes there, and returns at once when done.

    Of several processes, which train on one mesh, each gets all of the parameters on its first device: they have to fit there, and what is
    then computed from them is computed in every process alike.

    Raises `InvalidConfig` and `lexinv.training.fit.NonFiniteLoss`, and what `workspace.postpone` raises.
    """
    what, rate = Trainee(name, model, lexicon, vocab, source, training), training.optimizer.learning_rate
    mesh = training_mesh(training, model)
    if mesh.size == 1:
        if workspace.postpone is not None:
            workspace.postpone(what)
        members = [(seed, rate) for seed in training.seeds]
        how = workspace.config_hash, workspace.progress, workspace.checkpoints
        state = train_population(what, members, workspace.folder(name), *how)
        return [member(state.params, index) for index in range(len(members))]
    results, rows, start, step = [], training.batch_size, jax.jit(what.start), what.step("none")
    for seed in training.seeds:
        dataset = batches(source, rows, seed, training.steps_per_dispatch, process_rows(mesh, rows))
        state = shard_state(start(jax.random.key(seed), rate), mesh)
        dataset = dataset.map(lambda batch: shard_batch(batch, mesh, rows))
        folder = workspace.folder(f"{name}/seed-{seed}")
        trained = what.fit(
            state, step, dataset, folder, workspace.config_hash, workspace.progress, workspace.checkpoints
        )
        results.append(whole(trained.params))
    return results


def shared_seeds(
    text: Mapping[str, Any],
    model: TransformerConfig,
    lexicon: LexiconConfig,
    vocab: int,
    source: Windows,
    training: Training,
    workspace: Workspace,
) -> SharedModels:
    """As `train_seeds`, but the models lie in the user's cache, where every experiment finds those that another one has trained.

    `text` is JSON that decides `source`: fingerprint of the corpus, tokenizer, context.
    """
    parts = {"text": dict(text), "model": asdict(model), "lexicon": asdict(lexicon), "training": asdict(training)}

    def train(shared: Workspace) -> list[Params]:
        return train_seeds(lexicon.kind, model, lexicon, vocab, source, training, shared)

    return shared_models({**parts, "vocab": vocab}, train, workspace)
