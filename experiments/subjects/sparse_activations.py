"""Sparse autoencoders trained on synthetic activations and judged against the features that made them."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.harness.work import Population, Work
from experiments.harness.workspace import Workspace
from lexinv.sae.autoencoders import (
    PER,
    AutoencoderConfig,
    Kind,
    Params,
    decode,
    encode,
    encode_by_threshold,
    pre_activations,
)
from lexinv.sae.budgets import zipf_budgets
from lexinv.sae.losses import LossConfig, Statistics, budget_of
from lexinv.sae.metrics import (
    add,
    calibrate_feature_thresholds,
    calibrate_threshold,
    collapse,
    matching_pursuit,
    principal_components,
    recovery,
    start_sums,
    summarise,
)
from lexinv.sae.synthetic import SyntheticConfig, Tokens, make_dictionary, sample_tokens
from lexinv.sae.training import OptimizerConfig, create_autoencoder_state, make_autoencoder_step, make_optimizer
from lexinv.training.population import member
from lexinv.training.state import TrainState
from lexinv.training.step import TrainStep
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Seeds

if TYPE_CHECKING:
    import grain

PAPER = """@article{ayonrinde2024adaptive,
  title = {Adaptive Sparse Allocation with Mutual Choice and Feature Choice Sparse Autoencoders},
  author = {Ayonrinde, Kola},
  journal = {arXiv preprint arXiv:2411.02124},
  year = {2024}
}"""


@dataclass(frozen=True)
class TrainingConfig(Checked):
    """batch: tokens of a batch, in training and in every evaluation of a batch's selection. held_out: batches of the evaluation.

    dead_after, auxiliary_k: see `lexinv.sae.losses.LossConfig`.
    """

    steps: Count = 1200
    batch: Count = 512
    optimizer: OptimizerConfig = OptimizerConfig()
    held_out: Count = 40
    steps_per_dispatch: Count = 100
    seeds: Seeds = (0, 1, 2)
    dead_after: Count = 50_000
    auxiliary_k: Count = 32

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.steps % self.steps_per_dispatch == 0, "steps_per_dispatch", f"a divisor of steps = {self.steps}"
        yield self.optimizer.warmup_steps < self.steps, "optimizer.warmup_steps", f"below steps = {self.steps}"


@dataclass(frozen=True)
class Variant:
    """A kind of autoencoder with its loss. zipf: exponent of Feature Choice's budgets; None for the others."""

    kind: Kind
    loss: LossConfig = LossConfig()
    zipf: float | None = None

    def terms(self, training: TrainingConfig) -> LossConfig:
        """The loss with what the training says of dead features."""
        return replace(self.loss, dead_after=training.dead_after, auxiliary_k=training.auxiliary_k)


AUXILIARY = LossConfig(auxiliary="dead")
PLAIN = LossConfig()
VARIANTS = {
    "topk": Variant("topk", AUXILIARY),
    "mutual": Variant("mutual", AUXILIARY),
    "mutual_zipf": Variant("mutual", replace(AUXILIARY, auxiliary="zipf")),
    "matryoshka": Variant("matryoshka", AUXILIARY),
    "multi_topk": Variant("topk", replace(AUXILIARY, multi=True)),
    "feature_uniform": Variant("feature", PLAIN, 0.0),
    "feature_zipf": Variant("feature", PLAIN, 0.9),
    "jumprelu": Variant("jumprelu", PLAIN),
    "gated": Variant("gated", PLAIN),
    "relu": Variant("relu", PLAIN),
}
NAMES = {
    "topk": "TopK",
    "mutual": "Mutual Choice",
    "mutual_zipf": "Mutual Choice, aux_zipf",
    "matryoshka": "Matryoshka",
    "multi_topk": "Multi-TopK",
    "feature_uniform": "Feature Choice, uniform",
    "feature_zipf": "Feature Choice, Zipf",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "relu": "ReLU + L1",
}


@dataclass(frozen=True)
class Setting:
    """What members of a population differ in: k of those that select, the target of JumpReLU, and the coefficient of a penalty."""

    k: float
    coefficient: float = 0.0


class Trained(NamedTuple):
    """Autoencoders trained on the same activations, and tokens of the same source that they have not seen."""

    config: AutoencoderConfig
    variant: Variant
    members: list[TrainState]
    dictionary: Float[Array, "features width"]
    calibration: Tokens
    held_out: Tokens


def measure(
    variant: Variant,
    data: SyntheticConfig,
    features: int,
    settings: Sequence[Setting],
    training: TrainingConfig,
    seed: int,
    name: str,
    workspace: Workspace,
    centred: bool = True,
) -> list[dict[str, float]]:
    """`train`, and the judgement of each member."""
    trained = train(variant, data, features, settings, training, seed, name, workspace, centred)
    tokens = trained.dictionary, trained.calibration, trained.held_out, training.batch
    return [judge(trained.config, variant, each, *tokens) for each in trained.members]


def train(
    variant: Variant,
    data: SyntheticConfig,
    features: int,
    settings: Sequence[Setting],
    training: TrainingConfig,
    seed: int,
    name: str,
    workspace: Workspace,
    centred: bool = True,
) -> Trained:
    """Train all settings of a variant together on the same activations. The seed decides dictionary, data and parameters.

    Trains in the workspace's folder `name`, and resumes there. centred: b_dec begins at the mean of the data; otherwise at 0.
    """
    prefixes = tuple(features * part // 4 for part in (1, 2, 4)) if variant.kind == "matryoshka" else ()
    config = AutoencoderConfig(data.width, features, variant.kind, prefixes=prefixes)
    key, count = jax.random.key(seed), len(settings)
    dictionary = make_dictionary(data, stream(key, "dictionary"))

    def states() -> TrainState:
        state = start_population(
            config,
            optimizer_of(training.optimizer, config, training.steps),
            data,
            training.batch if centred else 0,
            dictionary,
            jnp.stack([key] * count),
            jnp.asarray([setting.k for setting in settings], jnp.float32),
            jnp.asarray([setting.coefficient for setting in settings], jnp.float32),
        )
        if variant.zipf is None:
            return state
        batch, spent = training.batch, [round(setting.k * training.batch) for setting in settings]
        budgets = np.stack([zipf_budgets(each, features, batch, variant.zipf) for each in spent])
        return state._replace(statistics=state.statistics._replace(budgets=jnp.asarray(budgets)))

    state = Work(
        name,
        workspace,
        training.steps,
        training.batch,
        ((seed, training.optimizer.learning_rate),) * count,
        states,
        partial(trainer, config, variant.terms(training), training.optimizer, training.steps),
        lambda: train_batches(data, dictionary, training, stream(key, "train")),
        shared_batches=True,
    ).run()
    held_out = sample_tokens(data, dictionary, training.held_out * training.batch, stream(key, "held-out"))
    calibration = sample_tokens(data, dictionary, training.held_out * training.batch, stream(key, "calibration"))
    members = [member(state, index) for index in range(count)]
    return Trained(config, variant, members, dictionary, calibration, held_out)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def start_population(
    config: AutoencoderConfig,
    optimizer: optax.GradientTransformation,
    data: SyntheticConfig,
    sample: int,
    dictionary: Float[Array, "features width"],
    keys: Array,
    ks: Float[Array, " members"],
    coefficients: Float[Array, " members"],
) -> TrainState:
    """The states before the first step, stacked; compiled once for all seeds. b_dec begins at the mean of `sample` tokens, or at 0."""

    def start(one: tuple[Array, Array, Array]) -> TrainState:
        key, k, coefficient = one
        tokens = sample_tokens(data, dictionary, max(sample, 1), stream(key, "sample")).activations
        activations = tokens if sample else jnp.zeros_like(tokens)
        budgets = jnp.zeros(config.features, jnp.int32) if config.kind == "feature" else None
        return create_autoencoder_state(config, optimizer, activations, k, coefficient, key, budgets)

    return jax.lax.map(start, (keys, ks, coefficients))


optimizer_of = cache(make_optimizer)
"""One optimiser for all seeds, so that what is compiled with it serves all of them."""


@cache
def trainer(
    config: AutoencoderConfig, terms: LossConfig, optimizer: OptimizerConfig, steps: int, population: Population
) -> TrainStep:
    """One step for all seeds."""
    return make_autoencoder_step(config, terms, optimizer_of(optimizer, config, steps), population)


@partial(jax.jit, static_argnums=(0, 1))
def encode_batch(
    config: AutoencoderConfig,
    terms: LossConfig,
    params: Params,
    statistics: Statistics,
    x: Float[Array, "tokens width"],
) -> tuple[Float[Array, "tokens features"], Float[Array, "tokens width"]]:
    """Codes of a batch as in training, and what they reconstruct."""
    codes = encode(config, params, x, budget_of(config, terms, statistics, x.shape[0])).activations
    return codes, decode(params, codes)


def encode_held_out(trained: Trained, member: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [tokens, latents] and reconstructions [tokens, width] of the held-out tokens, in batches as in training."""
    state = trained.members[member]
    parts = [
        encode_batch(trained.config, trained.variant.loss, state.params, state.statistics, x)
        for x in trained.held_out.activations.reshape(-1, batch, trained.config.width)
    ]
    return np.concatenate([codes for codes, _ in parts]), np.concatenate([found for _, found in parts])


def train_batches(
    data: SyntheticConfig, dictionary: Float[Array, "features width"], training: TrainingConfig, key: Array
) -> "grain.MapDataset[dict[str, np.ndarray]]":
    """Element i: fresh activations [steps, tokens, width] for dispatch i."""
    import grain

    return grain.MapDataset.range(sys.maxsize).map(
        lambda i: {
            "activations": np.asarray(
                draw(data, training.steps_per_dispatch, training.batch, dictionary, key, jnp.int32(i))
            )
        }
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def draw(
    data: SyntheticConfig, steps: int, batch: int, dictionary: Float[Array, "features width"], key: Array, number: Array
) -> Float[Array, "steps tokens width"]:
    """Fresh activations of dispatch `number`; compiled once for all seeds and variants."""
    keys = jax.random.split(jax.random.fold_in(key, number), steps)
    return jax.lax.map(lambda one: sample_tokens(data, dictionary, batch, one).activations, keys)


def refer(data: SyntheticConfig, ks: Sequence[float], training: TrainingConfig, seed: int) -> dict[str, list[float]]:
    """FVU of the principal components of rank k, and of k steps of matching pursuit on the true dictionary, on the held-out tokens."""
    key = jax.random.key(seed)
    dictionary = make_dictionary(data, stream(key, "dictionary"))
    count = training.held_out * training.batch
    fitted, held_out = (
        np.asarray(sample_tokens(data, dictionary, count, stream(key, name)).activations)
        for name in ("calibration", "held-out")
    )
    ranks = [round(k) for k in ks]
    total = np.square(held_out - held_out.mean(axis=0)).sum()
    x, directions = held_out - data.offset, np.asarray(dictionary)
    pursuit = [np.asarray(matching_pursuit(jnp.asarray(x), dictionary, rank)) @ directions for rank in ranks]
    return {
        "components": [round(value, 5) for value in principal_components(fitted, held_out, ranks)],
        "pursuit": [round(float(np.square(x - found).sum() / total), 5) for found in pursuit],
    }


def judge(
    config: AutoencoderConfig,
    variant: Variant,
    state: TrainState,
    dictionary: Float[Array, "features width"],
    calibration: Tokens,
    held_out: Tokens,
    batch: int,
) -> dict[str, float]:
    """Reconstruction and sparsity in batches as in training, and with thresholds; use of the features; recovery of the true ones.

    Thresholds of `mutual`, `matryoshka` and `feature` are calibrated on tokens of their own; the others' codes do not depend on the batch.
    """
    params, statistics = state.params, state.statistics

    sums, codes = start_sums(config.width, config.features), []
    for x in held_out.activations.reshape(-1, batch, config.width):
        z, reconstruction = map(np.asarray, encode_batch(config, variant.loss, params, statistics, x))
        sums, codes = add(sums, np.asarray(x), reconstruction, z), [*codes, z]
    z, truth = np.concatenate(codes), np.asarray(held_out.codes)
    found = summarise(sums)
    active, present = (z != 0).sum(axis=1), (truth != 0).sum(axis=1)
    correlation = float(np.corrcoef(active, present)[0, 1]) if active.std() > 0 else 0.0
    if PER.get(config.kind) in ("batch", "feature"):
        affinities = np.maximum(np.asarray(pre_activations(params, calibration.activations)), 0)
        if PER[config.kind] == "batch":
            threshold = jnp.float32(calibrate_threshold(affinities, float(statistics.k)))
        else:
            threshold = jnp.asarray(calibrate_feature_thresholds(affinities, np.asarray(statistics.budgets) / batch))
        by_threshold = encode_by_threshold(params, held_out.activations, threshold)
        x, reconstruction = held_out.activations, decode(params, by_threshold)
        alone = summarise(
            add(start_sums(config.width, config.features), *map(np.asarray, (x, reconstruction, by_threshold)))
        )
    else:
        alone = found
    decoder = np.asarray(params["decoder"])
    under_used = float(np.mean((z != 0).mean(axis=0) < 1e-3))
    return {
        **{name: round(value, 5) for name, value in found.items()},
        "under_used": under_used,
        "correlation": round(correlation, 4),
        "threshold_fvu": round(alone["fvu"], 5),
        "threshold_l0": round(alone["l0"], 4),
        "threshold_dead": round(alone["dead"], 5),
        "collapse": round(collapse(decoder), 4),
        **{
            name: round(value, 4)
            for name, value in recovery(decoder, np.asarray(dictionary), z, truth)._asdict().items()
        },
    }
