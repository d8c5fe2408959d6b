"""Sparse autoencoders trained on the activations of a model, settings and seeds as one population, and judged on held-out text.

They lie in the user's cache, where every experiment finds those that another one has trained.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from types import ModuleType
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import lexinv.sae.autoencoders as autoencoders
import lexinv.sae.jumprelu as jumprelu
import lexinv.sae.losses as losses
import lexinv.sae.methods as methods
import lexinv.sae.selection as selection
import lexinv.sae.sparse as sparse
import lexinv.sae.training as training_of_autoencoders
from experiments.harness.shared_models import shared_models
from experiments.harness.work import Work
from experiments.harness.workspace import Workspace
from experiments.subjects import sparse_activations
from experiments.subjects.autoencoder_scores import UNDER_USED
from experiments.subjects.language_subjects import HeldOut, Subject
from experiments.subjects.sparse_activations import TINY as SPARSE
from experiments.subjects.sparse_activations import (
    VARIANTS,
    Setting,
    TrainingConfig,
    Variant,
    optimizer_of,
    trainer,
    warn_off_target,
)
from lexinv.sae.activation_streams import ActivationSource, scale_to_unit, shuffled
from lexinv.sae.autoencoders import decode, pre_activations
from lexinv.sae.budgets import zipf_budgets
from lexinv.sae.densities import fit_middle_zipf, ranks_shown
from lexinv.sae.difficulty import difficulty_use
from lexinv.sae.inference import Threshold, calibrate, encode_alone, make_reconstruct
from lexinv.sae.methods import METHODS, AutoencoderConfig, Params
from lexinv.sae.metrics import add, principal_components, start_sums, summarise
from lexinv.sae.training import OptimizerConfig, create_autoencoder_state
from lexinv.training.mesh import MeshConfig, make_mesh
from lexinv.training.population import create_population, member
from lexinv.training.state import TrainState
from lexinv.validation import Allowed, Checked, Count, NonNegative, Positive, require, some_of

SOURCES: tuple[ModuleType, ...] = (
    autoencoders,
    jumprelu,
    losses,
    methods,
    selection,
    sparse,
    sparse_activations,
    training_of_autoencoders,
)
"""What decides the parameters beside what `shared_models` knows of."""
CALIBRATION_BLOCK = 1024
LARGE = 2**24
"""Members of a population whose codes have more entries than this are trained one after another."""

KNOWN = tuple(name for name in VARIANTS if name not in ("matryoshka", "pursuit", "gated"))
Curve = Annotated[
    tuple[float, ...],
    Allowed(
        lambda v: list(v) == sorted(set(v)) and 1.0 in v and v[0] > 0, "rising, 1 among them", ((), (2.0,), (1.0, 0.5))
    ),
]


@dataclass(frozen=True)
class AutoencodersConfig(Checked):
    """Which autoencoders are trained on one model's activations, of `features` latents each.

    k: latents per token of the variants that select, and the target of JumpReLU's L0, whose coefficient is `jumprelu`. curve: Mutual Choice
    is trained at these multiples of k, so that each variant can be compared with it at that variant's own L0. relu: coefficient of its L1.
    training.held_out: batches of the evaluation, for each seed. On a mesh features and tokens are divided over its devices: tokens over
    `data` and `fsdp`, features over `model`.
    """

    variants: Annotated[tuple[str, ...], some_of(KNOWN)] = ("mutual", "topk", "mutual_zipf", "feature_zipf", "jumprelu")
    features: Count = 1152
    k: Positive = 32.0
    curve: Curve = (0.5, 1.0, 2.0)
    jumprelu: NonNegative = 1.0
    relu: NonNegative = 0.2
    training: TrainingConfig = TrainingConfig(
        steps=200, optimizer=OptimizerConfig(warmup_steps=20), held_out=12, steps_per_dispatch=20
    )
    buffer_tokens: Count = 1_000_000
    mesh: MeshConfig = MeshConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        whole = 1 <= self.k * max(self.curve) <= self.features and self.k == round(self.k)
        yield whole, "k", f"a whole number from 1 to the {self.features} features, as that times curve"
        chooses = any(VARIANTS[name].kind == "feature" for name in self.variants)
        spends = not chooses or self.k * self.training.batch >= self.features
        allowed = f"at least features / k = {self.features / self.k:.0f} tokens, one for each feature of Feature Choice"
        yield spends, "training.batch", allowed
        own = "feature_zipf" not in self.variants or "mutual" in self.variants
        yield own, "variants", "mutual among them, whose densities give feature_zipf its exponent"
        divides = self.features % max(self.mesh.model, 1) == 0
        yield divides, "mesh.model", f"a divisor of features = {self.features}"

    @property
    def tokens(self) -> int:
        """Of the evaluation of each seed, and of the calibration."""
        return self.training.held_out * self.training.batch

    def settings(self, variant: str) -> list[Setting]:
        """What is trained of a variant, for each seed."""
        if variant == "mutual":
            return [Setting(self.k * factor) for factor in self.curve]
        return [Setting(self.k, {"jumprelu": self.jumprelu, "relu": self.relu}.get(variant, 0.0))]

    def own(self, variant: str) -> int:
        """Which of `settings` is that of k itself."""
        return self.curve.index(1.0) if variant == "mutual" else 0


TINY = {"features": 32, "k": 4.0, "curve": (0.5, 1.0), **SPARSE, "training.batch": 128}
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
        x = jnp.asarray(rows) * self.scale
        return np.asarray(_encode_alone(self.config, self.k)(self.state.params, x, self.threshold))

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
    name: str, config: AutoencodersConfig, subject: Subject, workspace: Workspace, alphas: Sequence[float] = ()
) -> list[list[Autoencoder]]:
    """[settings][seeds] of a variant, on the same batches: a seed decides parameters alone.

    alphas: for each seed the exponent of `feature_zipf`. Warns of JumpReLU that ends off its target.
    """
    variant, training, settings = VARIANTS[name], config.training, config.settings(name)
    given = len(alphas) == (len(training.seeds) if variant.zipf else 0)
    require(given, "alphas", alphas, "one for each seed of feature_zipf, and none of other variants")
    # Codes as entries where they are few: see `experiments.benchmarks.sae_step`. Gathers of a mesh's features would undo it.
    few = config.features >= 100 * config.k and make_mesh(config.mesh).size == 1 and not variant.loss.multi
    most_active = round(config.k) if few and "most_active" in METHODS[variant.kind].has else 0
    shape = AutoencoderConfig(subject.width, config.features, variant.kind, most_active=most_active)
    large = training.batch * shape.features > LARGE
    terms, optimizer = variant.terms(training), optimizer_of(training.optimizer, shape, training.steps)
    scale, sample = scale_and_sample(subject.source, config)
    members = [(setting, seed) for setting in settings for seed in range(len(training.seeds))]
    exponents = alphas or [0.0] * len(training.seeds)
    spent: list[np.ndarray] = []  # of Feature Choice alone
    if variant.kind == "feature":
        totals = [round(setting.k * training.batch) for setting, _ in members]
        own = [exponents[seed] for _, seed in members]
        spent = [zipf_budgets(total, shape.features, training.batch, a) for total, a in zip(totals, own, strict=True)]

    def start(key: Array, k: Array, coefficient: Array, place: Array) -> TrainState:
        budgets = jnp.asarray(np.stack(spent))[place.astype(jnp.int32)] if spent else None
        return create_autoencoder_state(shape, optimizer, sample, k, coefficient, key, budgets)

    def states() -> TrainState:
        seeds = [training.seeds[seed] for _, seed in members]
        ks, coefficients = ([getattr(one, field) for one, _ in members] for field in ("k", "coefficient"))
        return create_population(start, seeds, ks, coefficients, [float(place) for place in range(len(members))])

    source, count = subject.source, training.steps_per_dispatch
    buffer = min(config.buffer_tokens, int(np.sum(source.block_rows)))

    def train(shared: Workspace) -> list[TrainState]:
        state = Work(
            name,
            shared,
            training.steps,
            training.batch,
            tuple((training.seeds[seed], training.optimizer.learning_rate) for _, seed in members),
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
        return [member(state, index) for index in range(len(members))]

    decided = {"settings": [asdict(each) for each in settings], "budgets": [each.tolist() for each in spent]}
    parts = {"training": asdict(training), "buffer": buffer, "mesh": asdict(config.mesh), "terms": asdict(terms)}
    content = {"subject": subject.identity, "autoencoder": asdict(shape), **parts, **decided}
    found = shared_models(content, train, workspace, SOURCES).params
    calibration = subject.calibration[: config.tokens] * np.float32(scale)
    trained = [
        Autoencoder(shape, variant, each, threshold_of(shape, each, calibration, training.batch), scale)
        for each in found
    ]
    for one in trained if variant.kind == "jumprelu" else ():
        warn_off_target(float((one.codes(subject.calibration[: config.tokens]) > 0).sum(axis=1).mean()), config.k)
    each = len(training.seeds)
    return [trained[start : start + each] for start in range(0, len(trained), each)]


def own_exponents(trained: Sequence[Autoencoder]) -> list[float]:
    """For each seed that of the Zipf law through the middle ranks of the densities that training ended with."""
    densities = [np.sort(np.asarray(one.state.statistics.density))[::-1] for one in trained]
    return [round(max(fit_middle_zipf(each)[0], 0.0), 4) for each in densities]


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
    """Reconstruction, sparsity and use of the features, each token by itself; and what harder tokens get.

    densities: of the features in falling order, at `ranks_shown`. harder_more: Spearman correlation over tokens of the number of active
    features with the loss of predicting the token after; l0_by_loss: by tenths of the loss the mean number; both None without losses.
    """
    config, state = autoencoder.config, autoencoder.state
    sums, active = start_sums(config.width, config.features), []
    for start in range(0, len(held_out.rows) - batch + 1, batch):
        rows = held_out.rows[start : start + batch]
        z = autoencoder.codes(rows)
        sums = add(sums, rows * np.float32(autoencoder.scale), np.asarray(rebuild(state.params, z)), z)
        active.append((z != 0).sum(axis=1))
    densities, counts = np.sort(sums.fired / sums.tokens)[::-1], np.concatenate(active)
    slope, quality = fit_middle_zipf(densities)
    by_difficulty: dict[str, Any] = {"harder_more": None, "l0_by_loss": None}
    if held_out.losses is not None:
        use = difficulty_use(counts, held_out.losses[: len(counts)])
        by_difficulty = {"harder_more": round(use.spearman, 4), "l0_by_loss": np.round(use.l0, 3).tolist()}
    return {name: round(value, 5) for name, value in summarise(sums).items()} | {
        "under_used": round(float(np.mean(densities < UNDER_USED)), 5),
        "alpha": round(slope, 4),
        "zipf_r2": round(quality, 4),
        "densities": [float(f"{value:.4g}") for value in densities[ranks_shown(config.features)]],
        **by_difficulty,
    }


def components(subject: Subject, config: AutoencodersConfig, seed: int, most: int = 4096) -> list[float]:
    """FVU of principal components, as many as each setting of Mutual Choice has latents; dense, fitted on the calibration rows."""
    rows, ranks = subject.held_out[seed].rows[: min(config.tokens, most)], config.settings("mutual")
    found = principal_components(subject.calibration[: config.tokens], rows, [round(each.k) for each in ranks])
    return [round(value, 5) for value in found]
