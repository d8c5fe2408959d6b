"""Sparse autoencoders on a language model and on a sentence encoder: reconstruction, use of the features, and what the model loses.

Ayonrinde 2024 (arXiv 2411.02124), on GPT-2 small; method card sparse-autoencoders, second experiment. Autoencoders of six variants on the
middle residual stream of a small Transformer trained here on Python's source code, and on a middle layer of MiniLM, an encoder with
published weights, on English text. The same command trains them on a GPT-2 or Pythia checkpoint (`--subjects.0.subject.model FOLDER`).
Seeds are those of the autoencoders and of the held-out text: intervals are given one model and one order of its text.
"""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, every, interval
from experiments.harness.style import BLACK, GREY, PALETTE, SKY, panels, styled
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.subjects import sparse_activations
from experiments.subjects.activation_autoencoders import (
    MIDDLE,
    AutoencodersConfig,
    by_seed,
    compare_laws,
    judge,
    ranks_shown,
    references,
    train_variant,
)
from experiments.subjects.language_subjects import OwnModel, Subject, SubjectConfig, open_language_model
from experiments.subjects.sentence_encoder import open_encoder
from experiments.subjects.sparse_activations import NAMES, VARIANTS, TrainingConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.sae.splicing import cross_entropy_recovered
from lexinv.sae.training import OptimizerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.training.optimizers import OptimizerConfig as ModelOptimizer
from lexinv.validation import require

PAPER = sparse_activations.PAPER
SOURCE = "Ayonrinde 2024, abstract and reviews"
CARD = "method card sparse-autoencoders (ours)"
SELECTING = ("topk", "mutual", "mutual_zipf", "feature_zipf")
COLORS = dict(zip(VARIANTS, (*PALETTE, GREY, SKY), strict=False))


@dataclass(frozen=True)
class Study:
    """A model, and the autoencoders of its activations."""

    subject: SubjectConfig = field(default_factory=SubjectConfig)
    autoencoders: AutoencodersConfig = field(default_factory=AutoencodersConfig)


@dataclass(frozen=True)
class Config:
    """subjects: each judged by itself; claims are about all of them, or about the language models among them."""

    subjects: tuple[Study, ...]

    def __post_init__(self):
        names = [study.subject.model for study in self.subjects]
        require(len(names) > 0 and len(set(names)) == len(names), "subjects", names, "at least one model, each once")
        seeds = {study.autoencoders.training.seeds for study in self.subjects}
        require(len(seeds) == 1, "autoencoders.training.seeds", sorted(seeds), "the same for all subjects")
        for study in self.subjects:
            variants = study.autoencoders.variants
            both = {"topk", "mutual"} <= set(variants)
            require(both, "autoencoders.variants", variants, "topk and mutual among them")

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.subjects[0].autoencoders.training.seeds


ENCODER = SubjectConfig("minilm", "python-docs", tokenizer="", context=64, layer=2, windows=4000)
GPT2 = SubjectConfig("gpt2", "tfds:wiki40b/en", tokenizer="", context=512, layer=5, windows=400_000, keep=False)
LARGE: dict[str, Any] = {
    "features": 2**15,
    "k": 32.0,
    "training": TrainingConfig(
        steps=10_000,
        batch=131_072,
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=1000),
        held_out=1,
        steps_per_dispatch=1,
        dead_after=10_000_000,
        auxiliary_k=384,
    ),
    "buffer_tokens": 2**21,
    "mesh": MeshConfig(data=1, fsdp=8),
}
SMALL = OwnModel(
    TransformerConfig(depth=2, width=16, heads=2, mlp_width=32, unroll=2),
    Training(8, 8, optimizer=ModelOptimizer("muon", 1e-2, warmup_steps=2), steps_per_dispatch=4),
)
PRESETS = {
    "smoke": Config(
        (
            Study(
                SubjectConfig(tokenizer="byte", context=32, layer=0, windows=64, own=SMALL),
                AutoencodersConfig(
                    ("topk", "mutual", "feature_zipf"),
                    features=32,
                    k=4.0,
                    training=TrainingConfig(20, 128, OptimizerConfig(warmup_steps=2), 4, 10, seeds=(0, 1)),
                ),
            ),
        )
    ),
    "quick": Config((Study(autoencoders=AutoencodersConfig(("topk", "mutual", "mutual_zipf", "feature_zipf"))),)),
    "cpu": Config(
        (
            Study(),
            Study(
                ENCODER,
                AutoencodersConfig(
                    ("topk", "mutual", "mutual_zipf", "feature_zipf"),
                    features=1536,
                    training=TrainingConfig(320, held_out=12, steps_per_dispatch=40),
                ),
            ),
        )
    ),
    "paper": Config((Study(GPT2, AutoencodersConfig(**LARGE)),)),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By model: variants with every metric as a list over seeds, references, and the model's own losses."""
    opened = [open_subject(study, workspace) for study in config.subjects]
    pairs = list(zip(config.subjects, opened, strict=True))
    fingerprints = workspace.pinned("corpora", {s.subject.corpus: subject.fingerprint for s, subject in pairs})
    found, origins = {}, {}
    for number, (study, subject) in enumerate(pairs):
        own = study.subject.model in ("own", "minilm")
        name = study.subject.model if own else f"checkpoint-{number}"
        found[name] = measure(name, study, subject, workspace)
        if subject.origin:
            origins[name] = subject.origin
    return {
        "corpora": fingerprints,
        "seeds": list(config.seeds),
        "arms": origins,
        "models": found,
    }


def open_subject(study: Study, workspace: Workspace) -> Subject:
    """The model, with text enough for what is judged of each seed."""
    config = study.autoencoders
    opened = open_encoder if study.subject.model == "minilm" else open_language_model
    return opened(study.subject, config.tokens, len(config.training.seeds), workspace)


def measure(label: str, study: Study, subject: Subject, workspace: Workspace) -> dict[str, Any]:
    """Everything about one model."""
    config, seeds = study.autoencoders, range(len(study.autoencoders.training.seeds))
    mean = jnp.asarray(subject.calibration.mean(axis=0))
    edits = {"clean": (1.0, 0 * mean), "zero": (0.0, 0 * mean), "mean": (0.0, mean)}

    def outputs() -> dict[str, list[float]]:
        measured = subject.splice(lambda extra, x: extra[0] * x + extra[1][None, None])
        return {name: [round(measured(extra, seed), 5) for seed in seeds] for name, extra in edits.items()}

    def judged(variant: str) -> dict[str, Any]:
        trained = train_variant(variant, config, subject, f"{label}/{variant}", workspace)
        spliced = subject.splice(trained[0].edit())
        batch = config.training.batch
        return by_seed(
            [
                {**judge(one, subject.held_out[seed], batch), "output": round(spliced(one.extra, seed), 5)}
                for seed, one in enumerate(trained)
            ]
        )

    return {
        "width": subject.width,
        "features": config.features,
        "k": config.k,
        "predicts": subject.held_out[0].losses is not None,
        "outputs": workspace.cached(f"{label}/outputs", outputs),
        "references": workspace.cached(
            f"{label}/references", lambda: by_seed([references(subject, config, seed) for seed in seeds])
        ),
        "variants": {
            variant: workspace.cached(f"{label}/{variant}-judged", lambda variant=variant: judged(variant))
            for variant in config.variants
        },
    }


def recovered(model: dict[str, Any], variant: str, ablation: str) -> list[float]:
    """Share of the loss that the reconstructions keep, for each seed for which the ablation hurts."""
    outputs = model["outputs"]
    triples = zip(outputs["clean"], model["variants"][variant]["output"], outputs[ablation], strict=True)
    return [share for each in triples if (share := cross_entropy_recovered(*each)) is not None]


def claims(results: dict[str, Any]) -> list[Claim]:
    """On every model that has what a claim is about."""
    models = results["models"]
    language = {name: model for name, model in models.items() if model["predicts"]}
    several = len(results["seeds"]) > 1

    def over(metric: str, variant: str) -> dict[str, list[float]]:
        return {name: m["variants"][variant][metric] for name, m in models.items() if variant in m["variants"]}

    topk, mutual = over("batch_fvu", "topk"), over("batch_fvu", "mutual")
    gain = {name: interval(np.array(topk[name]) - np.array(mutual[name])) for name in models}
    dead = {
        name: {
            v: float(max(m["variants"][v]["batch_dead"] + m["variants"][v]["dead"]))
            for v in SELECTING
            if v in m["variants"]
        }
        for name, m in models.items()
    }
    chosen = [kinds["feature_zipf"] for kinds in dead.values() if "feature_zipf" in kinds]
    under = {
        name: {
            metric: interval(np.array(zipf) - np.array(models[name]["variants"]["mutual"][metric]))
            for metric in ("batch_dead", "batch_under_used")
            for zipf in [models[name]["variants"]["mutual_zipf"][metric]]
        }
        for name in over("fvu", "mutual_zipf")
    }
    excess = {name: interval(np.array(values) / models[name]["k"]) for name, values in over("l0", "mutual").items()}
    kept = {
        name: {
            ablation: interval(shares)
            for ablation in ("zero", "mean")
            if (shares := recovered(model, "mutual", ablation))
        }
        for name, model in language.items()
    }
    laws = {name: compare_laws(model["variants"]["mutual"], model["features"]) for name, model in models.items()}
    harder = {name: interval(model["variants"]["mutual"]["harder_more"]) for name, model in language.items()}
    within = all(abs(value.mean - 1) <= 0.05 for value in excess.values())
    return [
        Claim(
            "mutual_below_topk",
            "Mutual Choice leaves less unexplained than TopK with as many latents per token, on held-out text (measured: FVU of TopK minus "
            "that of Mutual Choice).",
            SOURCE,
            "better reconstruction at equal sparsity",
            gain,
            "whole interval above 0 on every model",
            every(above(value, 0.0) for value in gain.values()),
        ),
        Claim(
            "feature_choice_no_dead",
            "Feature Choice has no feature that never fires on the held-out tokens (measured: largest share over seeds, in batches as in "
            "training and with thresholds).",
            SOURCE,
            "zero dead features",
            dead,
            "0 on every model",
            max(chosen) == 0 if chosen else None,
        ),
        Claim(
            "zipf_not_worse",
            "aux_zipf leaves no more dead features, and no more in fewer than one of 1000 tokens, than aux_k does with Mutual Choice "
            "(measured: share with aux_zipf minus share with aux_k).",
            SOURCE,
            "aux_zipf generalises aux_k to under-used features",
            under,
            "both means at most 0 on every model",
            all(value.mean <= 0 for kinds in under.values() for value in kinds.values()) if several and under else None,
        ),
        Claim(
            "threshold_mode_l0",
            "With a threshold calibrated on other text, each token by itself, Mutual Choice keeps its sparsity (measured: L0 over k).",
            CARD,
            1.0,
            excess,
            "mean within 5 % of 1 on every model",
            within if several else None,
        ),
        Claim(
            "ce_recovered",
            "A language model that goes on from the reconstructions of Mutual Choice keeps nearly all that the activations are worth "
            "(measured: share of the cross-entropy recovered, against zeros and against the mean activation).",
            CARD,
            None,
            kept,
            "whole interval above 0.9 against zeros",
            every(above(value["zero"], 0.9) if "zero" in value else None for value in kept.values()),
        ),
        Claim(
            "densities_follow_zipf",
            f"Densities of Mutual Choice's features follow a Zipf law over the middle ranks, {MIDDLE[0]:.0%} to {MIDDLE[1]:.0%} of "
            "those that fire, better than an exponential one (measured: R^2 of the line through log density against log rank, and that "
            "minus R^2 of the line against rank).",
            SOURCE,
            "a Zipf law except at the low end",
            laws,
            "R^2: whole interval above 0.9; difference: whole interval above 0; on every model",
            every(verdict for law in laws.values() for verdict in (above(law["zipf"], 0.9), above(law["ahead"], 0.0))),
        ),
        Claim(
            "harder_tokens_use_more",
            "Mutual Choice gives more features to tokens at which the language model's loss is higher (measured: Spearman correlation of "
            "the number of active features with the loss of predicting the next token).",
            SOURCE,
            "more features on harder tokens",
            harder,
            "whole interval above 0",
            every(above(value, 0.0) for value in harder.values()),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """A row for each model: reconstruction by variant, densities by rank, the model's output, and what harder tokens get."""
    models = results["models"]
    drawn, axes = panels(len(models), 4, width=3.7, height=3.4)
    with styled():
        for row, (name, model) in enumerate(models.items()):
            reconstruction, density, output, harder = axes[4 * row : 4 * row + 4]
            title = {"own": "Own language model", "minilm": "MiniLM"}.get(name, name)
            draw_reconstruction(reconstruction, model)
            reconstruction.set_title(f"{title}: D = {model['width']}, F = {model['features']}")
            draw_densities(density, model)
            draw_output(output, model)
            if model["predicts"]:
                draw_difficulty(harder, model)
            else:
                harder.set_axis_off()
        axes[1].legend(fontsize=6.5, loc="lower left")
    return drawn


def draw_reconstruction(panel: Axes, model: dict[str, Any]) -> None:
    """FVU by variant, a point for each seed: in batches as in training, and each token by itself."""
    for place, (variant, found) in enumerate(model["variants"].items()):
        color = COLORS[variant]
        panel.plot([place - 0.1] * len(found["batch_fvu"]), found["batch_fvu"], "o", color=color, markersize=4)
        hollow = {"markerfacecolor": "none"}
        panel.plot([place + 0.1] * len(found["fvu"]), found["fvu"], "s", color=color, markersize=4, **hollow)
    for name, label, style in (("components", "principal components", "--"), ("random", "random directions", ":")):
        value = float(np.mean(model["references"][name]))
        panel.axhline(value, color=GREY, linestyle=style, linewidth=1, label=f"{label}, {model['k']:g} a token")
    panel.plot([], [], "o", color=GREY, markersize=4, label="as in training")
    panel.plot([], [], "s", color=GREY, markersize=4, markerfacecolor="none", label="each token by itself")
    name_variants(panel, model, [f"L0 {np.mean(found['batch_l0']):.1f}" for found in model["variants"].values()])
    panel.set(ylabel="fraction of variance unexplained")
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=6.5)


def name_variants(panel: Axes, model: dict[str, Any], below: list[str]) -> None:
    """Ticks with the variants' names, and a second line below each."""
    names = [NAMES[variant].replace(" Choice", "") for variant in model["variants"]]
    labels = [f"{name}\n{line}" if line else name for name, line in zip(names, below, strict=True)]
    panel.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
    panel.set_xlim(-0.5, len(labels) - 0.5)


def draw_densities(panel: Axes, model: dict[str, Any]) -> None:
    """Density by rank, mean over seeds, and the law fitted to Mutual Choice's middle ranks."""
    ranks = ranks_shown(model["features"]) + 1
    for variant, found in model["variants"].items():
        mean = np.mean(found["densities"], axis=0)
        panel.plot(ranks, np.where(mean > 0, mean, np.nan), color=COLORS[variant], label=NAMES[variant], linewidth=1.3)
    mutual = model["variants"]["mutual"]
    alpha, mean = float(np.mean(mutual["alpha"])), np.mean(mutual["densities"], axis=0)
    live = round(float(np.mean(1 - np.array(mutual["dead"]))) * model["features"])
    inside = (ranks > MIDDLE[0] * live) & (ranks <= MIDDLE[1] * live) & (mean > 0)
    if inside.any():
        level = np.exp(np.mean(np.log(mean[inside]) + alpha * np.log(ranks[inside])))
        panel.plot(
            ranks[inside], level * ranks[inside] ** -alpha, "--", color=BLACK, label=f"Zipf, alpha = {alpha:.2f}"
        )
    panel.set(xlabel="rank", ylabel="density", xscale="log", yscale="log", title="How often features fire")


def draw_output(panel: Axes, model: dict[str, Any]) -> None:
    """Cross-entropy recovered of a language model; cosine of a sentence's embedding of an encoder."""
    for place, variant in enumerate(model["variants"]):
        if model["predicts"]:
            for ablation, marker in (("zero", "o"), ("mean", "s")):
                values = recovered(model, variant, ablation)
                hollow = {"markerfacecolor": "none"} if ablation == "mean" else {}
                panel.plot([place] * len(values), values, marker, color=COLORS[variant], markersize=4, **hollow)
        else:
            values = model["variants"][variant]["output"]
            panel.plot([place] * len(values), values, "o", color=COLORS[variant], markersize=4)
    name_variants(panel, model, [""] * len(model["variants"]))
    if model["predicts"]:
        panel.plot([], [], "o", color=GREY, markersize=4, label="against zeros")
        panel.plot([], [], "s", color=GREY, markersize=4, markerfacecolor="none", label="against the mean")
        panel.set(ylabel="cross-entropy recovered", title="The model on reconstructions")
        panel.legend()
    else:
        for name in ("zero", "mean"):
            value = float(np.mean(model["outputs"][name]))
            style = ":" if name == "zero" else "--"
            panel.axhline(
                value, color=GREY, linestyle=style, linewidth=1, label="zeros" if name == "zero" else "the mean"
            )
        panel.set(ylabel="cosine of embeddings", title="Sentences on reconstructions")
        panel.legend()


def draw_difficulty(panel: Axes, model: dict[str, Any]) -> None:
    """Mean number of active features by tenths of the loss."""
    for variant, found in model["variants"].items():
        values = np.mean(found["l0_by_loss"], axis=0)
        panel.plot(np.arange(1, len(values) + 1), values, "o-", color=COLORS[variant], markersize=3, linewidth=1.3)
    panel.set(xlabel="tenth of the loss (10: hardest)", ylabel="active latents (L0)", title="Harder tokens")
