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

from experiments.harness.arms import by_metric
from experiments.harness.figures import bars
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, PALETTE, SKY, panels, reference
from experiments.harness.sweep_algebra import override
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.activation_autoencoders import (
    PUBLISHED,
    TINY,
    AutoencodersConfig,
    judge,
    references,
    train_variant,
)
from experiments.subjects.autoencoder_scores import LEAST
from experiments.subjects.feature_densities import LAW, draw_law, laws_of, ranged
from experiments.subjects.language_subjects import GPT2, SMALL, Subject, SubjectConfig, open_language_model
from experiments.subjects.sentence_encoder import open_encoder
from experiments.subjects.sparse_activations import NAMES, VARIANTS, TrainingConfig
from lexinv.sae.densities import MIDDLE, ranks_shown
from lexinv.sae.metrics import cross_entropy_recovered
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
    pairs = []
    for study in config.subjects:
        opened = open_encoder if study.subject.model == "minilm" else open_language_model
        pairs.append((study, opened(study.subject, study.autoencoders.tokens, len(config.seeds), workspace)))
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
        return by_metric(
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
            f"{label}/references", lambda: by_metric([references(subject, config, seed) for seed in seeds])
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
    rows = [
        (
            "mutual_below_topk",
            "Mutual Choice leaves less unexplained than TopK with as many latents per token, on held-out text.",
            ABSTRACT,
            {name: of(name, "topk", "batch_fvu") - of(name, "mutual", "batch_fvu") for name in models},
            above(0),
            "FVU of TopK minus that of Mutual Choice",
            "better reconstruction at equal sparsity",
        ),
        (
            "threshold_mode_l0",
            "With a threshold calibrated on other text, each token by itself, Mutual Choice keeps its sparsity.",
            OURS,
            {name: of(name, "mutual", "l0") / model["k"] for name, model in models.items()},
            between(0.95, 1.05).mean,
            "L0 over k",
        ),
        (
            "densities_follow_zipf",
            f"Densities of Mutual Choice's features follow a Zipf law over the middle ranks, {MIDDLE[0]:.0%} to {MIDDLE[1]:.0%} of "
            "those that fire, better than an exponential one.",
            REVIEWS,
            {f"{name}, {part}": values for name, law in laws.items() for part, values in law.items()},
            {f"{name}, {part}": rule for name in laws for part, rule in LAW.items()},
            "R^2 of the line through log density against log rank, and that minus R^2 of the line against rank",
            "a Zipf law except at the low end",
        ),
        (
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
        ),
        (
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
        ),
        (
            "harder_tokens_use_more",
            "Mutual Choice gives more features to tokens at which the language model's loss is higher.",
            ABSTRACT,
            {name: of(name, "mutual", "harder_more") for name in language},
            above(0),
            "Spearman correlation of the number of active features with the loss of predicting the next token",
            "more features on harder tokens",
        ),
        (
            "ce_recovered",
            "A language model that goes on from the reconstructions of Mutual Choice keeps nearly all that the activations are worth.",
            OURS,
            kept,
            {label: above(0.9) for label in kept if label.endswith("zero")},
            "share of the cross-entropy recovered, against zeros and against the mean activation",
        ),
    ]
    return [Claim(*row) for row in rows if row[3] and row[4]]


def figure(results: dict[str, Any]) -> Figure:
    """A row for each model: reconstruction by variant, densities by rank, the model's output, and what harder tokens get."""
    models = results["models"]
    drawn, axes = panels(len(models), 4, width=3.7, height=3.4)
    for row, (name, model) in enumerate(models.items()):
        reconstruction, density, output, harder = axes[4 * row : 4 * row + 4]
        draw_reconstruction(reconstruction, model)
        title = {"own": "Own language model", "minilm": "MiniLM"}.get(name, name)
        reconstruction.set_title(f"{title}: D = {model['width']}, F = {model['features']}")
        draw_densities(density, model)
        draw_output(output, model)
        if not model["predicts"]:
            harder.set_axis_off()
            continue
        for variant, found in model["variants"].items():
            values = np.array(found["l0_by_loss"])
            ranged(harder, np.arange(1, values.shape[1] + 1), values, COLORS[variant], NAMES[variant])
        harder.set(xlabel="tenth of the loss (10: hardest)", ylabel="active latents (L0)", title="Harder tokens")
    axes[0].legend(fontsize=6.5, loc=(0.02, 0.45))
    axes[1].legend(fontsize=6.5, loc="lower left")
    return drawn


def by_variant(panel: Axes, model: dict[str, Any], within: dict[str, list[Any]]) -> None:
    """Bars by variant. within: by label the values over seeds of each variant."""
    names = [NAMES[variant].replace(" Choice", "") for variant in model["variants"]]
    bars(panel, names, {label: (label, np.transpose(values)) for label, values in within.items()})
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)


def draw_reconstruction(panel: Axes, model: dict[str, Any]) -> None:
    """FVU by variant: in batches as in training, and each token by itself."""
    ways = {"as in training": "batch_fvu", "each token by itself": "fvu"}
    found = model["variants"].values()
    by_variant(panel, model, {label: [one[metric] for one in found] for label, metric in ways.items()})
    for name, label, color in (("components", "principal components", GREY), ("random", "random directions", BLACK)):
        reference(panel, float(np.mean(model["references"][name])), f"{label}, {model['k']:g} a token", color)
    panel.set(ylabel="fraction of variance unexplained")


def draw_densities(panel: Axes, model: dict[str, Any]) -> None:
    """Density by rank, mean and range over seeds, and the law fitted to Mutual Choice's middle ranks; JumpReLU is left out for clarity."""
    ranks = ranks_shown(model["features"]) + 1
    for variant, found in model["variants"].items():
        if variant != "jumprelu":
            ranged(panel, ranks, np.array(found["densities"]), COLORS[variant], NAMES[variant])
    mutual = model["variants"]["mutual"]
    live = round(float(np.mean(1 - np.array(mutual["dead"]))) * model["features"])
    draw_law(panel, ranks, np.mean(mutual["densities"], axis=0), float(np.mean(mutual["alpha"])), live)
    panel.set(xlabel="rank", ylabel="density", xscale="log", yscale="log", title="How often features fire")


def draw_output(panel: Axes, model: dict[str, Any]) -> None:
    """Cross-entropy recovered of a language model; cosine of a sentence's embedding of an encoder."""
    ablations = {"zero": "zeros", "mean": "the mean"}
    if model["predicts"]:
        shares = {a: [recovered(model, variant, a) for variant in model["variants"]] for a in ablations}
        hurt = {f"against {ablations[a]}": found for a, found in shares.items() if found[0]}
        if hurt:
            by_variant(panel, model, hurt)
        panel.set(ylabel="cross-entropy recovered", title="The model on reconstructions", ylim=(None, 1.25))
    else:
        by_variant(panel, model, {"reconstructions": [one["output"] for one in model["variants"].values()]})
        for (name, label), color in zip(ablations.items(), (GREY, BLACK), strict=True):
            reference(panel, float(np.mean(model["outputs"][name])), label, color)
        panel.set(ylabel="cosine of embeddings", title="Sentences on reconstructions", ylim=(None, 1.25))
    panel.legend(ncols=2, loc="upper center")
