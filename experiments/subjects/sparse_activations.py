"""Sparse autoencoders trained on synthetic activations and judged against the features that made them."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments.harness.work import MapDataset, Population, Work
from experiments.harness.workspace import Workspace
from lexinv.randomness import threefry
from lexinv.sae.autoencoders import (
    decode,
    encode,
)
from lexinv.sae.budgets import zipf_budgets
from lexinv.sae.losses import LossConfig, Statistics, budget_of
from lexinv.sae.methods import METHODS, AutoencoderConfig, Kind, Params
from lexinv.sae.synthetic import SyntheticConfig, Tokens, make_dictionary, sample_tokens
from lexinv.sae.training import OptimizerConfig, create_autoencoder_state, make_autoencoder_step, make_optimizer
from lexinv.training.population import member, over_members
from lexinv.training.state import TrainState
from lexinv.training.step import TrainStep
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Seeds


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
    """A row of `lexinv.sae.methods.METHODS` with its loss and its name in figures. zipf: exponent of Feature Choice's budgets."""

    label: str
    kind: Kind
    loss: LossConfig = LossConfig()
    zipf: float | None = None

    def terms(self, training: TrainingConfig) -> LossConfig:
        """The loss with what the training says of dead features."""
        return replace(self.loss, dead_after=training.dead_after, auxiliary_k=training.auxiliary_k)

    def budgets(self, k: float, features: int, tokens: int) -> Int[np.ndarray, " features"] | None:
        """What each feature may spend in a batch; None where a budget is not the feature's."""
        return None if self.zipf is None else zipf_budgets(round(k * tokens), features, tokens, self.zipf)


AUXILIARY = LossConfig(auxiliary="dead")
VARIANTS = {
    "topk": Variant("TopK", "topk", AUXILIARY),
    "mutual": Variant("Mutual Choice", "mutual", AUXILIARY),
    "mutual_zipf": Variant("Mutual Choice, aux_zipf", "mutual", replace(AUXILIARY, auxiliary="zipf")),
    "matryoshka": Variant("Matryoshka", "matryoshka", AUXILIARY),
    "multi_topk": Variant("Multi-TopK", "topk", replace(AUXILIARY, multi=True)),
    "feature_uniform": Variant("Feature Choice, uniform", "feature", zipf=0.0),
    "feature_zipf": Variant("Feature Choice, Zipf", "feature", zipf=0.9),
    "pursuit": Variant("MP-SAE", "pursuit", AUXILIARY),
    "jumprelu": Variant("JumpReLU", "jumprelu"),
    "gated": Variant("Gated", "gated"),
    "relu": Variant("ReLU + L1", "relu"),
}
NAMES = {name: variant.label for name, variant in VARIANTS.items()}


TINY = {
    "training.steps": 20,
    "training.batch": 64,
    "training.optimizer.warmup_steps": 2,
    "training.held_out": 4,
    "training.steps_per_dispatch": 10,
    "training.seeds": (0, 1),
}
LONG = {
    "training.steps": 50_000,
    "training.batch": 4096,
    "training.held_out": 10,
    "training.dead_after": 10_000_000,
    "training.auxiliary_k": 384,
}
SMOKE = {"data.width": 16, "data.features": 24, "data.l0": 2.0, **TINY}
"""Of presets of seconds."""
PUBLISHED = {"data.width": 768, "data.features": 16_384, "data.l0": 25.0, **LONG}
"""Of presets of the published size: activations as wide as those of GPT-2 small."""


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
    batch: int
    dictionary: Float[Array, "features width"]
    calibration: Tokens
    held_out: Tokens


def world(
    data: SyntheticConfig, training: TrainingConfig, seed: int
) -> tuple[Float[Array, "features width"], Tokens, Tokens]:
    """The dictionary of a seed, and as many tokens for calibration as are held out."""
    key, count = jax.random.key(seed), training.held_out * training.batch
    dictionary = make_dictionary(data, stream(key, "dictionary"))
    calibration, held_out = (
        sample_tokens(data, dictionary, count, stream(key, name)) for name in ("calibration", "held-out")
    )
    return dictionary, calibration, held_out


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
    nested = "prefixes" in METHODS[variant.kind].has
    prefixes = tuple(features * part // 4 for part in (1, 2, 4)) if nested else ()
    steps = max(round(setting.k) for setting in settings) if METHODS[variant.kind].tied else 0
    config = AutoencoderConfig(data.width, features, variant.kind, prefixes=prefixes, most_active=steps)
    key, count = threefry(jax.random.key(seed)), len(settings)
    dictionary, calibration, held_out = world(data, training, seed)

    def states() -> TrainState:
        budgets = [variant.budgets(setting.k, features, training.batch) for setting in settings]
        return start_population(
            config,
            optimizer_of(training.optimizer, config, training.steps),
            data,
            training.batch if centred else 0,
            dictionary,
            jnp.stack([key] * count),
            jnp.asarray([setting.k for setting in settings], jnp.float32),
            jnp.asarray([setting.coefficient for setting in settings], jnp.float32),
            None if variant.zipf is None else jnp.asarray(np.stack(budgets)),
        )

    def batches() -> MapDataset:
        """Element i: fresh activations [steps, tokens, width] for dispatch i."""
        import grain

        drawn = partial(draw, data, training.steps_per_dispatch, training.batch, dictionary, stream(key, "train"))
        return grain.MapDataset.range(sys.maxsize).map(lambda i: {"activations": np.asarray(drawn(jnp.int32(i)))})

    state = Work(
        name,
        workspace,
        training.steps,
        training.batch,
        ((seed, training.optimizer.learning_rate),) * count,
        states,
        partial(trainer, config, variant.terms(training), training.optimizer, training.steps),
        batches,
        shared_batches=True,
    ).run()
    members = [member(state, index) for index in range(count)]
    return Trained(config, variant, members, training.batch, dictionary, calibration, held_out)


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
    budgets: Int[Array, "members features"] | None,
) -> TrainState:
    """The states before the first step, stacked; compiled once for all seeds. b_dec begins at the mean of `sample` tokens, or at 0."""

    def start(one: tuple[Array, Array, Array, Array | None]) -> TrainState:
        key, k, coefficient, budgets = one
        tokens = sample_tokens(data, dictionary, max(sample, 1), stream(key, "sample")).activations
        activations = tokens if sample else jnp.zeros_like(tokens)
        return create_autoencoder_state(config, optimizer, activations, k, coefficient, key, budgets)

    return over_members(start, (keys, ks, coefficients, budgets))


def warn_off_target(l0: float, target: float, most: float = 0.1) -> None:
    """Of a penalised autoencoder that aims at an L0 and ends farther from it than the share `most`."""
    if abs(l0 / target - 1) > most:
        warnings.warn(f"JumpReLU ends at L0 = {l0:.3g}, its target is {target:g}", stacklevel=2)


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


@partial(jax.jit, static_argnums=(0, 1, 2))
def draw(
    data: SyntheticConfig, steps: int, batch: int, dictionary: Float[Array, "features width"], key: Array, number: Array
) -> Float[Array, "steps tokens width"]:
    """Fresh activations of dispatch `number`; compiled once for all seeds and variants."""
    keys = jax.random.split(jax.random.fold_in(key, number), steps)
    return jax.lax.map(lambda one: sample_tokens(data, dictionary, batch, one).activations, keys)
