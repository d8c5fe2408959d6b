"""Sparse autoencoders trained on the activations of a model, several seeds as one population, and judged on held-out text."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.harness.work import Work
from experiments.harness.workspace import Workspace
from experiments.subjects.autoencoder_scores import UNDER_USED
from experiments.subjects.language_subjects import HeldOut, Subject
from experiments.subjects.sparse_activations import (
    TINY as SPARSE,
)
from experiments.subjects.sparse_activations import (
    VARIANTS,
    Setting,
    TrainingConfig,
    Variant,
    encode_batch,
    optimizer_of,
    trainer,
)
from lexinv.sae.activation_streams import ActivationSource, scale_to_unit, shuffled
from lexinv.sae.autoencoders import decode, pre_activations
from lexinv.sae.densities import fit_middle_zipf, ranks_shown
from lexinv.sae.difficulty import difficulty_use
from lexinv.sae.inference import Threshold, calibrate, encode_alone, make_reconstruct
from lexinv.sae.methods import METHODS, AutoencoderConfig, Params
from lexinv.sae.metrics import add, matching_pursuit, principal_components, start_sums, summarise
from lexinv.sae.training import create_autoencoder_state
from lexinv.training.mesh import MeshConfig, make_mesh
from lexinv.training.population import create_population, member
from lexinv.training.state import TrainState
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, NonNegative, Positive, some_of

CALIBRATION_BLOCK = 1024
LARGE = 2**24
"""Members of a population whose codes have more entries than this are trained one after another."""


KNOWN = tuple(name for name in VARIANTS if name not in ("matryoshka", "gated"))


@dataclass(frozen=True)
class AutoencodersConfig(Checked):
    """Which autoencoders are trained on one model's activations, of `features` latents each.

    k: latents per token of the variants that select, and the target of JumpReLU's L0, whose coefficient is `jumprelu`. relu: coefficient
    of its L1. training.held_out: batches of the evaluation, for each seed. On a mesh features and tokens are divided over its devices:
    tokens over `data` and `fsdp`, features over `model`.
    """

    variants: Annotated[tuple[str, ...], some_of(KNOWN)] = (
        "topk",
        "mutual",
        "mutual_zipf",
        "feature_zipf",
        "jumprelu",
        "relu",
    )
    features: Count = 512
    k: Positive = 16.0
    jumprelu: NonNegative = 0.3
    relu: NonNegative = 0.2
    training: TrainingConfig = TrainingConfig(steps=1000)
    buffer_tokens: Count = 1_000_000
    mesh: MeshConfig = MeshConfig()

    def checks(self):
        whole = 1 <= self.k <= self.features and self.k == round(self.k)
        yield whole, "k", f"a whole number from 1 to the {self.features} features"
        chooses = any(VARIANTS[name].zipf is not None for name in self.variants)
        spends = not chooses or self.k * self.training.batch >= self.features
        allowed = f"at least features / k = {self.features / self.k:.0f} tokens, one for each feature of Feature Choice"
        yield spends, "training.batch", allowed
        divides = self.features % max(self.mesh.model, 1) == 0
        yield divides, "mesh.model", f"a divisor of features = {self.features}"

    @property
    def tokens(self) -> int:
        """Of the evaluation of each seed, and of the calibration."""
        return self.training.held_out * self.training.batch

    def setting(self, variant: str) -> Setting:
        """What a variant aims at."""
        return Setting(self.k, {"jumprelu": self.jumprelu, "relu": self.relu}.get(variant, 0.0))


TINY = {"features": 32, "k": 4.0, **SPARSE, "training.batch": 128}
"""Of presets of seconds."""
PUBLISHED = {
    "features": 2**15,
    "k": 32.0,
    "training.steps": 10_000,
    "training.batch": 131_072,
    "training.optimizer.learning_rate": 1e-4,
    "training.optimizer.warmup_steps": 1000,
    "training.held_out": 1,
    "training.steps_per_dispatch": 1,
    "training.dead_after": 10_000_000,
    "training.auxiliary_k": 384,
    "buffer_tokens": 2**21,
    "mesh.data": 1,
    "mesh.fsdp": 8,
}
"""Of presets of the published size."""


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A trained one. It reads activations times `scale`; `threshold` is calibrated, None for variants that need none."""

    config: AutoencoderConfig
    variant: Variant
    state: TrainState
    threshold: Array | None
    scale: float

    @property
    def k(self) -> int | None:
        """For `lexinv.sae.inference`: of TopK alone."""
        return round(float(self.state.statistics.k)) if self.config.method.needs == "k" else None

    def codes(self, rows: Float[np.ndarray, "tokens width"]) -> Float[np.ndarray, "tokens features"]:
        """Activations of the features, every token by itself."""
        x, arguments = jnp.asarray(rows) * self.scale, (self.threshold, self.k)
        return np.asarray(_encode_alone(self.config, self.k)(self.state.params, x, arguments[0]))

    @property
    def extra(self) -> tuple[Params, Array | None, Array]:
        """Its arrays, for `edit`."""
        return self.state.params, self.threshold, jnp.float32(self.scale)

    def edit(self) -> Callable[[Any, Array], Array]:
        """`edit(extra, activations)`: their reconstructions, in their own scale."""
        reconstruct = make_reconstruct(self.config, self.k)

        def edit(extra: tuple[Params, Array | None, Array], x: Array) -> Array:
            params, threshold, scale = extra
            return reconstruct((params, threshold), x * scale) / scale

        return edit


rebuild = jax.jit(decode)


@cache
def _encode_alone(config: AutoencoderConfig, k: int | None) -> Callable[..., Array]:
    return jax.jit(lambda params, x, threshold: encode_alone(config, params, x, threshold, k))


def train_variant(
    name: str, config: AutoencodersConfig, subject: Subject, folder: str, workspace: Workspace
) -> list[Autoencoder]:
    """One autoencoder for each seed, on the same batches: a seed decides parameters alone. Trains in `folder`, resumes there."""
    variant, training, setting = VARIANTS[name], config.training, config.setting(name)
    # Codes as entries where they are few: see `experiments.benchmarks.sae_step`. Gathers of a mesh's features would undo it.
    few = config.features >= 100 * config.k and make_mesh(config.mesh).size == 1 and not variant.loss.multi
    most_active = round(config.k) if few and "most_active" in METHODS[variant.kind].has else 0
    shape = AutoencoderConfig(subject.width, config.features, variant.kind, most_active=most_active)
    large = training.batch * shape.features > LARGE
    terms, optimizer = variant.terms(training), optimizer_of(training.optimizer, shape, training.steps)
    scale, sample = scale_and_sample(subject.source, config)
    seeds, budgets = training.seeds, variant.budgets(setting.k, shape.features, training.batch)

    def start(key: Array, k: Array, coefficient: Array) -> TrainState:
        given = None if budgets is None else jnp.asarray(budgets)
        return create_autoencoder_state(shape, optimizer, sample, k, coefficient, key, given)

    def states() -> TrainState:
        return create_population(start, seeds, [setting.k] * len(seeds), [setting.coefficient] * len(seeds))

    source, count = subject.source, training.steps_per_dispatch
    buffer = min(config.buffer_tokens, int(np.sum(source.block_rows)))
    state = Work(
        folder,
        workspace,
        training.steps,
        training.batch,
        tuple((seed, training.optimizer.learning_rate) for seed in seeds),
        states,
        partial(trainer, shape, terms, training.optimizer, training.steps),
        lambda: shuffled(source, 0, buffer, training.batch, count, scale),
        shared_batches=True,
        population="map" if large else None,
        mesh=config.mesh,
        metadata={"scale": scale},
    ).run()
    if config.mesh.devices > 1:  # judged on one device, as the model that gives the activations
        state = jax.device_put(state, jax.devices()[0])
    members = [member(state, index) for index in range(len(seeds))]
    calibration = subject.calibration[: config.tokens]
    return [
        Autoencoder(
            shape, variant, each, threshold_of(shape, each, calibration * np.float32(scale), training.batch), scale
        )
        for each in members
    ]


def scale_and_sample(
    source: ActivationSource, config: AutoencodersConfig
) -> tuple[float, Float[Array, "tokens width"]]:
    """`scale_to_unit` of the first rows of the source, a batch of them at least, and those rows scaled: b_dec begins at their mean."""
    rows, index = [source.block(0)], 1
    while sum(map(len, rows)) < config.training.batch and index < len(source.block_rows):
        rows, index = [*rows, source.block(index)], index + 1
    sample = np.concatenate(rows)
    scale = scale_to_unit(sample, config.k)
    return scale, jnp.asarray(sample * np.float32(scale))


def threshold_of(
    config: AutoencoderConfig, state: TrainState, rows: Float[np.ndarray, "tokens width"], batch: int
) -> Threshold | None:
    """`calibrate` on these rows, with the budget of training."""
    if config.method.needs != "threshold":
        return None
    parts = [rows[start : start + CALIBRATION_BLOCK] for start in range(0, len(rows), CALIBRATION_BLOCK)]
    affinities = [np.maximum(np.asarray(pre_activations(state.params, jnp.asarray(x))), 0) for x in parts]
    shares = np.asarray(state.statistics.budgets) / batch
    return calibrate(config, np.concatenate(affinities), float(state.statistics.k), shares)


def judge(autoencoder: Autoencoder, held_out: HeldOut, batch: int) -> dict[str, Any]:
    """Reconstruction and sparsity in batches as in training and of every token by itself; use of the features; difficulty.

    Without prefix: each token by itself, as one uses it. densities: of the features in falling order, at `ranks_shown`. difficulty:
    Spearman correlation over tokens of the number of active features with the loss of predicting the token after, and by tenths of the
    loss the mean number; both None without losses.
    """
    config, state = autoencoder.config, autoencoder.state
    alone = in_batches = start_sums(config.width, config.features)
    active = []
    for start in range(0, len(held_out.rows) - batch + 1, batch):
        x = held_out.rows[start : start + batch] * np.float32(autoencoder.scale)
        z, reconstruction = map(
            np.asarray, encode_batch(config, autoencoder.variant.loss, state.params, state.statistics, x)
        )
        in_batches = add(in_batches, x, reconstruction, z)
        z = autoencoder.codes(held_out.rows[start : start + batch])
        alone = add(alone, x, np.asarray(rebuild(state.params, z)), z)
        active.append((z != 0).sum(axis=1))
    densities = np.sort(alone.fired / alone.tokens)[::-1]
    counts = np.concatenate(active)
    batched, found = summarise(in_batches), summarise(alone)
    result = {name: round(value, 5) for name, value in found.items()}
    result |= {f"batch_{name}": round(batched[name], 5) for name in ("fvu", "l0", "dead")}
    slope, quality = fit_middle_zipf(densities)
    by_difficulty: dict[str, Any] = {"harder_more": None, "l0_by_loss": None}
    if held_out.losses is not None:
        use = difficulty_use(counts, held_out.losses[: len(counts)])
        by_difficulty = {"harder_more": round(use.spearman, 4), "l0_by_loss": np.round(use.l0, 3).tolist()}
    return result | {
        "under_used": round(float(np.mean(densities < UNDER_USED)), 5),
        "batch_under_used": round(float(np.mean(in_batches.fired / in_batches.tokens < UNDER_USED)), 5),
        "alpha": round(slope, 4),
        "zipf_r2": round(quality, 4),
        "densities": [float(f"{value:.4g}") for value in densities[ranks_shown(config.features)]],
        **by_difficulty,
    }


def references(subject: Subject, config: AutoencodersConfig, seed: int, most: int = 4096) -> dict[str, float]:
    """FVU at k of principal components (dense, fitted on the calibration rows) and of matching pursuit on random directions."""
    rows = subject.held_out[seed].rows[: min(config.tokens, most)]
    (components,) = principal_components(subject.calibration[: config.tokens], rows, [round(config.k)])
    key = stream(jax.random.key(config.training.seeds[seed]), "random-dictionary")
    directions = jax.random.normal(key, (config.features, subject.width))
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    centred = rows - subject.calibration[: config.tokens].mean(axis=0)
    codes = matching_pursuit(jnp.asarray(centred), directions, round(config.k))
    left = np.square(centred - np.asarray(codes @ directions)).sum() / np.square(rows - rows.mean(axis=0)).sum()
    return {"components": round(components, 5), "random": round(float(left), 5)}
