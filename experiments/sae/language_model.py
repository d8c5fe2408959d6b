"""Sparse autoencoders on a language model and on a sentence encoder: reconstruction, use of the features, and what the model loses.

Ayonrinde 2024, there on GPT-2 small; the card's second experiment. Autoencoders of six variants on the middle residual stream of a small
Transformer trained here on Python's source code, and on a middle layer of MiniLM, an encoder with published weights, on English text. The
same command trains them on a GPT-2 or Pythia checkpoint (`--subjects.0.subject.model FOLDER`). Seeds are those of the autoencoders and of
the held-out text: intervals are given one model and one order of its text.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, PALETTE, SKY, panels
from experiments.harness.sweep_algebra import override
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.activation_autoencoders import (
    LAW,
    PUBLISHED,
    TINY,
    AutoencodersConfig,
    judge,
    laws_of,
    references,
    train_variant,
)
from experiments.subjects.language_subjects import GPT2, SMALL, Subject, SubjectConfig, open_language_model
from experiments.subjects.sentence_encoder import open_encoder
from experiments.subjects.sparse_activations import LEAST, NAMES, VARIANTS, TrainingConfig, columns
from lexinv.sae.densities import MIDDLE, ranks_shown
from lexinv.sae.splicing import cross_entropy_recovered
from lexinv.validation import Checked, Distinct

PAPERS = ("ayonrinde2024adaptive",)
ABSTRACT = "ayonrinde2024adaptive: abstract"
SELECTING = ("topk", "mutual", "mutual_zipf", "feature_zipf")
REVIEWS = "ayonrinde2024adaptive: abstract and reviews"
COLORS = dict(zip(VARIANTS, (*PALETTE, GREY, SKY), strict=False))


@dataclass(frozen=True)
class Study(Checked):
    """A model, and the autoencoders of its activations."""

    subject: SubjectConfig = SubjectConfig()
    autoencoders: AutoencodersConfig = AutoencodersConfig()

    def checks(self):
        both = {"topk", "mutual"} <= set(self.autoencoders.variants)
        yield both, "autoencoders.variants", "topk and mutual among them"


@dataclass(frozen=True)
class Config(Checked):
    """subjects: each judged by itself; claims are about all of them, or about the language models among them."""

    subjects: Distinct[Study]

    def checks(self):
        models = [study.subject.model for study in self.subjects]
        yield len(set(models)) == len(models), "subjects", "each model once"
        same = len({study.autoencoders.training.seeds for study in self.subjects}) == 1
        yield same, "subjects", "the same autoencoders.training.seeds for all"

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.subjects[0].autoencoders.training.seeds


MINILM = Study(
    SubjectConfig("minilm", "python-docs", tokenizer="", context=64, layer=2, windows=4000),
    AutoencodersConfig(
        SELECTING,
        features=1536,
        training=TrainingConfig(320, held_out=12, steps_per_dispatch=40),
    ),
)
PRESETS = presets(
    Config((Study(), MINILM)),
    smoke={"subjects": (Study(SMALL, override(AutoencodersConfig(("topk", "mutual", "feature_zipf")), TINY)),)},
    quick={"subjects": (Study(autoencoders=AutoencodersConfig(SELECTING)),)},
    paper={"subjects": (Study(GPT2, override(AutoencodersConfig(), PUBLISHED)),)},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By model: variants with every metric as a list over seeds, references, and the model's own losses."""
    opened = [open_subject(study, workspace) for study in config.subjects]
    pairs = list(zip(config.subjects, opened, strict=True))
    fingerprints = workspace.pinned("corpora", {s.subject.corpus: subject.fingerprint for s, subject in pairs})
    found = {}
    for number, (study, subject) in enumerate(pairs):
        own = study.subject.model in ("own", "minilm")
        name = study.subject.model if own else f"checkpoint-{number}"
        found[name] = measure(name, study, subject, workspace)
    return {
        "corpora": fingerprints,
        "seeds": list(config.seeds),
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
        return columns(
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
            f"{label}/references", lambda: columns([references(subject, config, seed) for seed in seeds])
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
    language = [name for name, model in models.items() if model["predicts"]]

    def of(name: str, variant: str, metric: str) -> np.ndarray:
        return np.array(models[name]["variants"][variant][metric])

    having = {
        variant: [name for name, model in models.items() if variant in model["variants"]]
        for variant in ("feature_zipf", "mutual_zipf")
    }
    laws = {name: laws_of(model["variants"]["mutual"], model["features"]) for name, model in models.items()}
    kept = {
        f"{name}, against {ablation}": np.array(shares)
        for name in language
        for ablation in ("zero", "mean")
        if (shares := recovered(models[name], "mutual", ablation))
    }
    judged = [
        Claim(
            "mutual_below_topk",
            "Mutual Choice leaves less unexplained than TopK with as many latents per token, on held-out text.",
            ABSTRACT,
            {name: of(name, "topk", "batch_fvu") - of(name, "mutual", "batch_fvu") for name in models},
            above(0),
            "FVU of TopK minus that of Mutual Choice",
            "better reconstruction at equal sparsity",
        ),
        Claim(
            "threshold_mode_l0",
            "With a threshold calibrated on other text, each token by itself, Mutual Choice keeps its sparsity.",
            OURS,
            {name: of(name, "mutual", "l0") / model["k"] for name, model in models.items()},
            between(0.95, 1.05).mean,
            "L0 over k",
        ),
        Claim(
            "densities_follow_zipf",
            f"Densities of Mutual Choice's features follow a Zipf law over the middle ranks, {MIDDLE[0]:.0%} to {MIDDLE[1]:.0%} of "
            "those that fire, better than an exponential one.",
            REVIEWS,
            {f"{name}, {part}": values for name, law in laws.items() for part, values in law.items()},
            {f"{name}, {part}": rule for name in laws for part, rule in LAW.items()},
            "R^2 of the line through log density against log rank, and that minus R^2 of the line against rank",
            "a Zipf law except at the low end",
        ),
    ]
    if having["feature_zipf"]:
        judged.append(
            Claim(
                "feature_choice_no_dead",
                "Feature Choice has no feature that never fires on the held-out tokens.",
                REVIEWS,
                {
                    name: np.maximum(of(name, "feature_zipf", "batch_dead"), of(name, "feature_zipf", "dead"))
                    for name in having["feature_zipf"]
                },
                below(LEAST).every_seed,
                "share of dead features, the larger of that in batches as in training and that with thresholds",
                "zero dead features",
            )
        )
    if having["mutual_zipf"]:
        judged.append(
            Claim(
                "zipf_not_worse",
                "aux_zipf leaves no more dead features, and no more in fewer than one of 1000 tokens, than aux_k does with Mutual Choice.",
                REVIEWS,
                {
                    f"{name}, {metric}": of(name, "mutual_zipf", metric) - of(name, "mutual", metric)
                    for name in having["mutual_zipf"]
                    for metric in ("batch_dead", "batch_under_used")
                },
                below(LEAST).mean,
                "share with aux_zipf minus share with aux_k",
                "aux_zipf generalises aux_k to under-used features",
            )
        )
    if language:
        judged.append(
            Claim(
                "harder_tokens_use_more",
                "Mutual Choice gives more features to tokens at which the language model's loss is higher.",
                ABSTRACT,
                {name: of(name, "mutual", "harder_more") for name in language},
                above(0),
                "Spearman correlation of the number of active features with the loss of predicting the next token",
                "more features on harder tokens",
            )
        )
    if worth := {label: above(0.9) for label in kept if label.endswith("zero")}:
        judged.append(
            Claim(
                "ce_recovered",
                "A language model that goes on from the reconstructions of Mutual Choice keeps nearly all that the activations are worth.",
                OURS,
                kept,
                worth,
                "share of the cross-entropy recovered, against zeros and against the mean activation",
            )
        )
    return judged


def figure(results: dict[str, Any]) -> Figure:
    """A row for each model: reconstruction by variant, densities by rank, the model's output, and what harder tokens get."""
    models = results["models"]
    drawn, axes = panels(len(models), 4, width=3.7, height=3.4)
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
    axes[0].legend(fontsize=6.5)
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


def name_variants(panel: Axes, model: dict[str, Any], below: list[str]) -> None:
    """Ticks with the variants' names, and a second line below each."""
    names = [NAMES[variant].replace(" Choice", "") for variant in model["variants"]]
    labels = [f"{name}\n{line}" if line else name for name, line in zip(names, below, strict=True)]
    panel.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
    panel.set_xlim(-0.5, len(labels) - 0.5)


def ranged(panel: Axes, x: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    """The mean of [seeds, points] with the range, where all are positive."""
    there = (values > 0).all(axis=0)
    panel.plot(x[there], values.mean(axis=0)[there], color=color, label=label, linewidth=1.3)
    panel.fill_between(
        x[there], *(end(axis=0)[there] for end in (values.min, values.max)), color=color, alpha=0.2, lw=0
    )


def draw_densities(panel: Axes, model: dict[str, Any]) -> None:
    """Density by rank, mean and range over seeds, and the law fitted to Mutual Choice's middle ranks; JumpReLU is left out for clarity."""
    ranks = ranks_shown(model["features"]) + 1
    for variant, found in model["variants"].items():
        if variant != "jumprelu":
            ranged(panel, ranks, np.array(found["densities"]), COLORS[variant], NAMES[variant])
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
    """Number of active features by tenths of the loss, mean and range over seeds."""
    for variant, found in model["variants"].items():
        values = np.array(found["l0_by_loss"])
        ranged(panel, np.arange(1, values.shape[1] + 1), values, COLORS[variant], NAMES[variant])
    panel.set(xlabel="tenth of the loss (10: hardest)", ylabel="active latents (L0)", title="Harder tokens")
