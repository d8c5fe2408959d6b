"""Language models over a lexicon, trained on windows of text: what the experiments on text and on Markov sources share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from jax.sharding import Mesh

from experiments.harness.shared_models import SharedModels, shared_models
from experiments.harness.training import Training, initial, scaled, train
from experiments.harness.workspace import Workspace
from lexinv.data.windows import Windows
from lexinv.nn.flops import train_flops
from lexinv.nn.language_model import Params, initialize, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import make_mesh
from lexinv.training.population import member
from lexinv.training.state import TrainState
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


def train_seeds(
    name: str,
    model: TransformerConfig,
    lexicon: LexiconConfig,
    vocab: int,
    source: Windows,
    training: Training,
    workspace: Workspace,
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
) -> list[Params]:
    """`train` on the mean loss in nats per token."""
    training_mesh(training, model)
    return train(
        name,
        partial(initialize, model, lexicon, vocab),
        make_loss(model, lexicon, vocab),
        source,
        training,
        workspace,
        optimizer=scaled,
        tokens=source.length,
        flops_per_token=train_flops(model, vocab, source.length),
        evaluate=evaluate,
    )


def untrained_seeds(model: TransformerConfig, lexicon: LexiconConfig, vocab: int, seeds: Sequence[int]) -> list[Params]:
    """What `train_seeds` begins with, for every seed: a circuit that was set by hand is there before any training."""
    begun = initial(partial(initialize, model, lexicon, vocab), seeds)
    return [member(begun, index) for index in range(len(seeds))]


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

    def trained(shared: Workspace) -> list[Params]:
        return train_seeds(lexicon.kind, model, lexicon, vocab, source, training, shared)

    return shared_models({**parts, "vocab": vocab}, trained, workspace)
