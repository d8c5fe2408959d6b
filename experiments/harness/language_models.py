"""Training language models over a lexicon, several seeds at once: what the experiments on text and on Markov sources share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from experiments.harness.shared_models import SharedModels, shared_models
from experiments.harness.workspace import Workspace
from lexinv.data.windows import Windows, batches, population_batches
from lexinv.nn.flops import train_flops
from lexinv.nn.language_model import Params, initialize, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.fit import fit
from lexinv.training.mesh import MeshConfig, make_mesh, process_rows, shard_batch, shard_state
from lexinv.training.metrics import read_metrics
from lexinv.training.optimizers import OptimizerConfig, make_optimizer
from lexinv.training.population import create_population, member
from lexinv.training.processes import agree, whole
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import make_train_step
from lexinv.training.streams import stream
from lexinv.validation import require


@dataclass(frozen=True)
class TrainingConfig:
    """How every model of an experiment is trained; each seed decides initialisation, order of the data and lexica.

    On a mesh of more than one device the seeds are trained one after another, otherwise as one population.
    """

    steps: int = 1000
    batch_size: int = 16
    seeds: tuple[int, ...] = (0,)
    optimizer: OptimizerConfig = OptimizerConfig()
    microbatches: int = 1
    steps_per_dispatch: int = 1
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        for field in ("steps", "batch_size", "microbatches", "steps_per_dispatch"):
            require(getattr(self, field) >= 1, f"training.{field}", getattr(self, field), "at least 1")
        require(len(self.seeds) > 0, "training.seeds", self.seeds, "at least one seed")
        require(len(set(self.seeds)) == len(self.seeds), "training.seeds", self.seeds, "different seeds")
        rows, parts = self.batch_size, self.mesh.batch_parts
        require(
            rows % self.microbatches == 0, "training.microbatches", self.microbatches, f"a divisor of batch_size {rows}"
        )
        require(rows % parts == 0, "training.batch_size", rows, f"a multiple of the mesh's data * fsdp = {parts}")
        whole = self.steps % self.steps_per_dispatch == 0
        require(
            whole, "training.steps_per_dispatch", self.steps_per_dispatch, f"a divisor of training.steps = {self.steps}"
        )
        make_optimizer(self.optimizer, self.steps)


def training_mesh(training: TrainingConfig, model: TransformerConfig) -> Mesh:
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


def training_losses(name: str, training: TrainingConfig, workspace: Workspace) -> Float[np.ndarray, "seeds steps"]:
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


def train_seeds(
    name: str,
    model: TransformerConfig,
    lexicon: LexiconConfig,
    vocab: int,
    source: Windows,
    training: TrainingConfig,
    workspace: Workspace,
) -> list[Params]:
    """Parameters after training, one tree per seed. Runs in the workspace's folder `name`, resumes there, and returns at once when done.

    Of several processes, which train on one mesh, each gets all of the parameters on its first device: they have to fit there, and what is
    then computed from them is computed in every process alike.

    Raises `InvalidConfig` and `lexinv.training.fit.NonFiniteLoss`.
    """
    optimizer = make_optimizer(training.optimizer, training.steps)
    loss = make_loss(model, lexicon, vocab)

    def start(key: jax.Array) -> TrainState:
        return create_state(initialize(model, lexicon, vocab, stream(key, "parameters")), optimizer, key)

    def trained(folder: str, state: TrainState, dataset: grain.MapDataset, population: str, members: int) -> Params:
        step = make_train_step(loss, optimizer, microbatches=training.microbatches, population=population)
        return fit(
            state,
            step,
            dataset,
            steps=training.steps,
            directory=workspace.folder(folder),
            metadata={"config_hash": workspace.config_hash, "arm": name},
            tokens_per_step=members * training.batch_size * source.length,
            flops_per_token=train_flops(model, vocab, source.length),
            checkpoints=workspace.checkpoints,
            progress=workspace.progress,
            description=name,
        ).params

    mesh = training_mesh(training, model)
    if mesh.size == 1:
        population = "map" if jax.default_backend() == "cpu" else "vmap"
        dataset = population_batches(source, training.batch_size, training.seeds, training.steps_per_dispatch)
        state = create_population(start, training.seeds)
        params = trained(name, state, dataset, population, len(training.seeds))
        return [member(params, index) for index in range(len(training.seeds))]
    results, rows = [], training.batch_size
    for seed in training.seeds:
        dataset = batches(source, rows, seed, training.steps_per_dispatch, process_rows(mesh, rows))
        state = shard_state(jax.jit(start)(jax.random.key(seed)), mesh)
        dataset = dataset.map(lambda batch: shard_batch(batch, mesh, rows))
        results.append(whole(trained(f"{name}/seed-{seed}", state, dataset, "none", 1)))
    return results


def shared_seeds(
    text: Mapping[str, Any],
    model: TransformerConfig,
    lexicon: LexiconConfig,
    vocab: int,
    source: Windows,
    training: TrainingConfig,
    workspace: Workspace,
) -> SharedModels:
    """As `train_seeds`, but the models lie in the user's cache, where every experiment finds those that another one has trained.

    `text` is JSON that decides `source`: fingerprint of the corpus, tokenizer, context.
    """
    parts = {"text": dict(text), "model": asdict(model), "lexicon": asdict(lexicon), "training": asdict(training)}

    def train(shared: Workspace) -> list[Params]:
        return train_seeds(lexicon.kind, model, lexicon, vocab, source, training, shared)

    return shared_models({**parts, "vocab": vocab}, train, workspace)
