"""Sparse autoencoders on a published language model and on a sentence encoder: reconstruction, use of the features, and what is lost.

Ayonrinde 2024, there on GPT-2 small; the card's second experiment. Autoencoders on the middle residual stream of SmolLM2-135M-Instruct, on
source code, documentation and old prose, and on a middle layer of MiniLM. Every token is encoded by itself, by thresholds that are
calibrated on other text. Mutual Choice is trained at several sparsities, and each variant is compared with it at that variant's own L0. The
same command trains them on a GPT-2 or Pythia checkpoint (`--subjects.0.subject.model FOLDER`). Seeds are those of the autoencoders and of
the held-out text: intervals are given one model and one order of its text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric, interpolated
from experiments.harness.figures import dots, tradeoff
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, PALETTE, band, panels
from experiments.harness.sweep_algebra import override
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.activation_autoencoders import (
    KNOWN,
    PUBLISHED,
    TINY,
    AutoencodersConfig,
    components,
    judge,
    own_exponents,
    train_variant,
)
from experiments.subjects.autoencoder_scores import LEAST
from experiments.subjects.feature_densities import draw_law, ranged
from experiments.subjects.language_subjects import GPT2, NAMED, SMALL, Subject, SubjectConfig, open_language_model
from experiments.subjects.sentence_encoder import open_encoder
from experiments.subjects.sparse_activations import NAMES
from lexinv.sae.densities import ranks_shown
from lexinv.sae.metrics import cross_entropy_recovered
from lexinv.validation import Checked, Distinct

PAPERS = ("ayonrinde2024adaptive",)
ABSTRACT = "ayonrinde2024adaptive: abstract"
REVIEWS = "ayonrinde2024adaptive: abstract and reviews"
DRAWN = tuple(dict.fromkeys(("mutual", "topk", "feature_zipf", "mutual_zipf", "jumprelu", *KNOWN)))


@dataclass(frozen=True)
class Study(Checked):
    """A model, and the autoencoders of its activations."""

    subject: SubjectConfig = SubjectConfig()
    autoencoders: AutoencodersConfig = AutoencodersConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield {"topk", "mutual"} <= set(self.autoencoders.variants), "autoencoders.variants", "topk and mutual in them"


@dataclass(frozen=True)
class Config(Checked):
    """subjects: each judged by itself; claims are about all of them, or about the language models among them."""

    subjects: Distinct[Study]

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield len({each.subject.name for each in self.subjects}) == len(self.subjects), "subjects", "each model once"
        yield len({each.autoencoders.training.seeds for each in self.subjects}) == 1, "subjects", "the same seeds"

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.subjects[0].autoencoders.training.seeds


MINILM = Study(
    SubjectConfig("minilm", ("python-docs",), context=64, layer=2, windows=2500),
    AutoencodersConfig(("mutual", "topk", "feature_zipf"), features=768, k=16.0),
)
PRESETS = presets(
    Config((Study(), MINILM)),
    smoke={"subjects": (Study(SMALL, override(AutoencodersConfig(("mutual", "topk", "feature_zipf")), TINY)),)},
    quick={"subjects": (Study(autoencoders=AutoencodersConfig(("mutual", "topk", "feature_zipf"))),)},
    paper={"subjects": (Study(GPT2, override(AutoencodersConfig(), PUBLISHED)),)},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By model the arms, a variant's metrics as lists over [seeds][settings], and the model's own losses."""
    pairs = []
    for study in config.subjects:
        opened = open_encoder if study.subject.model == "minilm" else open_language_model
        pairs.append((study, opened(study.subject, study.autoencoders.tokens, len(config.seeds), workspace)))
    found = {name: fingerprint for _, subject in pairs for name, fingerprint in subject.fingerprints.items()}
    return {
        "corpora": workspace.pinned("corpora", found),
        "seeds": list(config.seeds),
        "models": {study.subject.name: measure(study, subject, workspace) for study, subject in pairs},
    }


def measure(study: Study, subject: Subject, workspace: Workspace) -> dict[str, Any]:
    """Everything about one model."""
    label, config = study.subject.name, study.autoencoders
    seeds, batch = range(len(config.training.seeds)), config.training.batch

    def outputs() -> dict[str, list[float]]:
        output = subject.splice(lambda extra, x: extra[0] * x + extra[1][None, None])
        mean = jnp.asarray(subject.calibration.mean(axis=0))
        edits = {"clean": (jnp.float32(1), 0 * mean), "mean": (jnp.float32(0), mean)}
        return {name: [round(output(extra, seed), 5) for seed in seeds] for name, extra in edits.items()}

    around = workspace.cached(f"{label}/outputs", outputs)
    sign = -1 if subject.held_out[0].losses is None else 1  # a cosine is no loss

    def share(output: float, seed: int) -> float:
        """All of it where the ablation does not hurt."""
        kept = cross_entropy_recovered(*(sign * each for each in (around["clean"][seed], output, around["mean"][seed])))
        return 1.0 if kept is None else round(kept, 5)

    mutual = train_variant("mutual", config, subject, workspace)
    alphas = own_exponents(mutual[config.own("mutual")])

    def judged(variant: str) -> dict[str, Any]:
        own = alphas if variant == "feature_zipf" else ()
        trained = mutual if variant == "mutual" else train_variant(variant, config, subject, workspace, own)
        output = subject.splice(trained[0][0].edit())

        def one(setting: int, seed: int) -> dict[str, Any]:
            kept = share(output(trained[setting][seed].extra, seed), seed)
            return judge(trained[setting][seed], subject.held_out[seed], batch) | {"kept": kept}

        return by_metric([by_metric([one(i, seed) for i in range(len(trained))]) for seed in seeds])

    return {
        "width": subject.width,
        "features": config.features,
        "k": config.k,
        "own": config.own("mutual"),
        "predicts": subject.held_out[0].losses is not None,
        "alphas": alphas,
        "outputs": around,
        "components": workspace.cached(f"{label}/components", lambda: [components(subject, config, s) for s in seeds]),
        "arms": workspace.stages(label, config.variants, judged),
    }


def of(model: dict[str, Any], variant: str, metric: str) -> np.ndarray:
    """[seeds] at k itself."""
    return np.array(model["arms"][variant][metric])[:, model["own"] if variant == "mutual" else 0]


def beside(model: dict[str, Any], variant: str, metric: str) -> np.ndarray:
    """[seeds] of Mutual Choice at the L0 of another variant, interpolated between its settings."""
    arms = Arms(model)
    return interpolated(arms["mutual", "l0"], arms["mutual", metric], of(model, variant, "l0"))


def claims(results: dict[str, Any]) -> list[Claim]:
    """On every model that has what a claim is about."""
    models = results["models"]
    language = {name: model for name, model in models.items() if model["predicts"]}

    def having(variant: str, among: dict[str, Any] = models) -> dict[str, Any]:
        return {name: model for name, model in among.items() if variant in model["arms"]}

    rows = [
        (
            "mutual_below_topk_on_a_real_model",
            "At TopK's L0 Mutual Choice leaves less unexplained, on held-out text.",
            ABSTRACT,
            {name: of(model, "topk", "fvu") - beside(model, "topk", "fvu") for name, model in models.items()},
            above(0),
            "FVU of TopK minus that of Mutual Choice, interpolated to its L0",
            "better reconstruction at equal sparsity",
        ),
        (
            "loss_recovered_order",
            "At equal L0 Mutual Choice, which constrains least, keeps more of the model's loss than TopK and than Feature Choice.",
            ABSTRACT,
            {
                f"{name}, minus {NAMES[variant]}": beside(model, variant, "kept") - of(model, variant, "kept")
                for variant in ("topk", "feature_zipf")
                for name, model in having(variant, language).items()
            },
            above(0),
            "share of the cross-entropy recovered, against the mean activation, minus the other's",
            "better reconstruction at equal sparsity",
        ),
        (
            "feature_choice_no_dead_at_its_own_exponent",
            "Feature Choice, with the exponent of Mutual Choice's own densities, has no feature that never fires on the held-out tokens.",
            REVIEWS,
            {name: of(model, "feature_zipf", "dead") for name, model in having("feature_zipf").items()},
            below(LEAST).every_seed,
            "share of dead features",
            "zero dead features",
        ),
        (
            "threshold_mode_l0",
            "With thresholds calibrated on other text, each token by itself, Mutual and Feature Choice keep their sparsity.",
            OURS,
            {
                f"{name}, {label}": of(model, variant, "l0") / model["k"]
                for label, variant in (("Mutual Choice", "mutual"), ("Feature Choice", "feature_zipf"))
                for name, model in having(variant).items()
            },
            between(0.95, 1.05).mean,
            "L0 over k",
        ),
        (
            "jumprelu_reaches_its_target",
            "JumpReLU, its kernel as wide as an active affinity is large, ends within 10 % of the L0 that it aims at.",
            OURS,
            {name: of(model, "jumprelu", "l0") / model["k"] for name, model in having("jumprelu").items()},
            between(0.9, 1.1).every_seed,
            "L0 over its target",
        ),
        (
            "zipf_not_worse",
            "aux_zipf leaves no more dead features, and no more in fewer than one of 1000 tokens, than aux_k does with Mutual Choice.",
            REVIEWS,
            {
                f"{name}, {metric}": of(model, "mutual_zipf", metric) - of(model, "mutual", metric)
                for name, model in having("mutual_zipf").items()
                for metric in ("dead", "under_used")
            },
            below(LEAST).mean,
            "share with aux_zipf minus share with aux_k",
            "aux_zipf generalises aux_k to under-used features",
        ),
        (
            "harder_tokens_use_more",
            "Mutual Choice gives more features to tokens at which the language model's loss is higher.",
            ABSTRACT,
            {name: of(model, "mutual", "harder_more") for name, model in language.items()},
            above(0),
            "Spearman correlation of the number of active features with the loss of predicting the next token",
            "more features on harder tokens",
        ),
    ]
    return [Claim(*row) for row in rows if row[3]]


def figure(results: dict[str, Any]) -> Figure:
    """A row for each model: reconstruction against sparsity and at equal L0, the model's output, densities, and what harder tokens get."""
    models = results["models"]
    drawn, axes = panels(len(models), 5, width=3.5, height=3.3)
    for row, (name, model) in enumerate(models.items()):
        reconstruction, difference, output, density, harder = axes[5 * row : 5 * row + 5]
        draw_against_l0(reconstruction, model, "fvu")
        ks = [round(float(k)) for k in np.mean(model["arms"]["mutual"]["l0"], axis=0)]
        band(reconstruction, ks, model["components"], "principal components", GREY, linestyle="--", linewidth=1)
        title = f"{NAMED.get(name, name)}, F = {model['features']}"
        reconstruction.set(ylabel="fraction of variance unexplained (FVU)", title=title)
        reconstruction.legend(handles=reconstruction.lines[-1:], fontsize=6.5, loc="upper right")  # others: beside it
        excess = {NAMES[v]: (of(model, v, "fvu") - beside(model, v, "fvu")).tolist() for v in colors(model)}
        dots(difference, excess)
        difference.axvline(0, color=BLACK, linewidth=0.8)
        difference.locator_params(axis="x", nbins=4)
        difference.set(xlabel="FVU above Mutual Choice's", title="At equal L0")
        draw_against_l0(output, model, "kept")
        what = "Cross-entropy" if model["predicts"] else "Cosine of embeddings"
        output.set(ylabel="share kept, against the mean activation", title=f"{what} kept")
        draw_densities(density, model)
        if not model["predicts"]:
            harder.set_axis_off()
            continue
        for variant, color in colors(model).items():
            values = of(model, variant, "l0_by_loss")
            ranged(harder, np.arange(1, values.shape[1] + 1), values, color, NAMES[variant])
        harder.set(xlabel="tenth of the loss (10: hardest)", ylabel="active latents (L0)", title="Harder tokens")
    return drawn


def colors(model: dict[str, Any]) -> dict[str, str]:
    """By variant, as `tradeoff` gives them: the same for every model."""
    return {variant: color for variant, color in zip(DRAWN, PALETTE, strict=False) if variant in model["arms"]}


def draw_against_l0(panel: Axes, model: dict[str, Any], metric: str) -> None:
    """A metric of every variant against its L0, mean over seeds and range."""
    tradeoff(panel, Arms(model), "l0", metric, {variant: NAMES[variant] for variant in DRAWN})
    ticks = [round(model["k"] * factor) for factor in (0.5, 1, 2)]
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("active latents per token (L0)")


def draw_densities(panel: Axes, model: dict[str, Any]) -> None:
    """Density by rank, mean and range over seeds, and the law fitted to Mutual Choice's middle ranks."""
    ranks = ranks_shown(model["features"]) + 1
    for variant, color in colors(model).items():
        ranged(panel, ranks, of(model, variant, "densities"), color, NAMES[variant])
    live = round(float(np.mean(1 - of(model, "mutual", "dead"))) * model["features"])
    alpha = float(np.mean(of(model, "mutual", "alpha")))
    draw_law(panel, ranks, of(model, "mutual", "densities").mean(axis=0), alpha, live)
    panel.set(xlabel="rank", ylabel="density", xscale="log", yscale="log", title="How often features fire")
    panel.legend(fontsize=6.5, loc="lower left")
