"""Reconstruction against sparsity of the family of sparse autoencoders, and recovery of the true features, on synthetic activations.

Ayonrinde 2024, small reproduction of the card with spare latents. All settings of a variant are one population; every seed has its own
dictionary and data. Best reconstruction is not best recovery: both are shown. References: principal components (dense), and non-negative
matching pursuit on the true dictionary.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by, interpolated, measured
from experiments.harness.figures import tradeoff
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, band, panels
from experiments.harness.verdicts import OURS, Claim, above, between
from experiments.harness.workspace import Workspace
from experiments.subjects.autoencoder_scores import REFERENCES, judge_all, refer
from experiments.subjects.sparse_activations import NAMES, PUBLISHED, SMOKE, VARIANTS, Setting, TrainingConfig, train
from lexinv.sae.synthetic import SyntheticConfig, probabilities
from lexinv.validation import Checked, Count, NonNegative, NonNegatives, some_of

PAPERS = ("ayonrinde2024adaptive",)
ABSTRACT = "ayonrinde2024adaptive: abstract"
ROWS = {
    "A budget is spent": ("mutual", "topk", "matryoshka", "feature_zipf"),
    "A penalty is paid, beside Mutual Choice": ("mutual", "jumprelu", "gated", "relu"),
}


@dataclass(frozen=True)
class Config(Checked):
    """ks: of the variants that select, and targets of JumpReLU, whose coefficient is `jumprelu`. gated, relu: coefficients of penalties."""

    data: SyntheticConfig = SyntheticConfig()
    features: Count = 192
    training: TrainingConfig = TrainingConfig(seeds=(0, 1, 2, 3, 4))
    variants: Annotated[tuple[str, ...], some_of(VARIANTS)] = (
        "topk",
        "mutual",
        "matryoshka",
        "feature_zipf",
        "jumprelu",
        "gated",
        "relu",
    )
    ks: NonNegatives = (2.0, 3.0, 5.0, 8.0, 12.0)
    jumprelu: NonNegative = 1.0
    gated: NonNegatives = (1.0, 0.6, 0.4, 0.25, 0.15)
    relu: NonNegatives = (1.2, 0.8, 0.5, 0.35, 0.25)

    def checks(self):
        least, most = self.features / self.training.batch, min(self.features, self.data.width)
        yield {"topk", "mutual"} <= set(self.variants), "variants", "topk and mutual among them"
        whole = all(1 <= k <= most and k == round(k) for k in self.ks)
        yield whole, "ks", f"whole numbers from 1 to {most}, the fewer of features and dimensions"
        spends = "feature_zipf" not in self.variants or min(self.ks) >= least
        yield spends, "ks", f"at least features / batch = {least:.3g}, one token for each feature"

    def settings(self, variant: str) -> list[Setting]:
        """What is trained of one variant."""
        if variant in ("gated", "relu"):
            return [Setting(1.0, coefficient) for coefficient in getattr(self, variant)]
        return [Setting(k, self.jumprelu if variant == "jumprelu" else 0.0) for k in self.ks]


PRESETS = presets(
    Config(),
    smoke={
        **SMOKE,
        "features": 32,
        "variants": ("topk", "mutual", "feature_zipf", "relu"),
        "ks": (2.0, 4.0),
        "relu": (0.1, 0.2),
    },
    quick={"training.seeds": (0, 1, 2)},
    paper={**PUBLISHED, "features": 4096, "ks": (10.0, 20.0, 25.0, 40.0, 80.0), "training.seeds": (0, 1, 2)},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By variant and metric [seeds, settings]; of the references, [seeds, ks]."""

    def one(arm: str, seed: int) -> dict[str, Any]:
        if arm == "references":
            return refer(config.data, config.ks, config.training, seed)
        chosen = config.data, config.features, config.settings(arm), config.training
        return judge_all(train(VARIANTS[arm], *chosen, seed, f"{arm}/seed-{seed}", workspace))

    return {
        "seeds": list(config.training.seeds),
        "ks": list(config.ks),
        "true_l0": round(float(probabilities(config.data).sum()), 4),
        "arms": measured(workspace, (*config.variants, "references"), config.training.seeds, one),
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """Mutual Choice against TopK, inference by threshold, and who follows the tokens' difficulty."""
    arms, ks, true = Arms(results), results["ks"], results["true_l0"]

    def at(arm: str, metric: str, l0: Any = true):
        return interpolated(arms[arm, "l0"], arms[arm, metric], l0)

    follows = {name: at(name, "correlation") for name in ("mutual", "topk")}
    judged = [
        Claim(
            "mutual_below_topk",
            "At equal L0 Mutual Choice leaves less unexplained than TopK, whose L0 is below k where fewer latents are positive.",
            ABSTRACT,
            by(ks, arms["topk", "fvu"] - at("mutual", "fvu", arms["topk", "l0"]), "k = {:g}"),
            above(0).every_seed.but(1),
            "FVU of TopK at each k minus that of Mutual Choice, interpolated between its settings to TopK's L0",
            "better reconstruction at equal sparsity",
        ),
        Claim(
            "mutual_follows_difficulty",
            "Mutual Choice gives more features to tokens that have more, which TopK cannot.",
            ABSTRACT,
            {"mutual": follows["mutual"], "mutual minus topk": follows["mutual"] - follows["topk"]},
            {"mutual": above(0.8), "mutual minus topk": above(0).mean},
            "correlation over tokens of the number of active latents and of true features, at the true mean number",
            "more features on harder tokens",
        ),
        Claim(
            "threshold_mode_l0",
            "With a threshold calibrated on other tokens, each token by itself, Mutual Choice keeps its sparsity.",
            OURS,
            by(ks, arms["mutual", "threshold_l0"] / ks, "k = {:g}"),
            between(0.95, 1.05).mean,
            "L0 over k",
        ),
    ]
    if {"jumprelu", "gated"} <= set(arms):
        judged.append(
            Claim(
                "mutual_below_jumprelu_and_gated",
                "At the true sparsity, interpolated between settings, Mutual Choice also leaves less unexplained than JumpReLU and Gated.",
                OURS,
                {name: at(name, "fvu") - at("mutual", "fvu") for name in ("jumprelu", "gated")},
                above(0),
                "their FVU minus its own",
            )
        )
    return judged


PANELS = {"fvu": "fraction of variance unexplained", "mcc": "MCC with the true features", "dead": "dead latents"}


def figure(results: dict[str, Any]) -> Figure:
    """FVU, MCC and share of dead latents against L0; each point the mean over seeds, with the range; references with their 95 % band."""
    arms, ks = Arms(results), results["ks"]
    drawn, axes = panels(2, 3, width=4.3, height=3.4)
    for row, (title, variants) in enumerate(ROWS.items()):
        mine = axes[3 * row : 3 * row + 3]
        for panel, (metric, label) in zip(mine, PANELS.items(), strict=True):
            tradeoff(panel, arms, "l0", metric, {name: NAMES[name] for name in variants}, ticks=ks)
            panel.axvline(results["true_l0"], color=GREY, linewidth=0.8, linestyle=":")
            panel.set(xlabel="active latents per token (L0; dotted: true)", ylabel=label)
        for (name, label), color in zip(REFERENCES.items(), (BLACK, GREY), strict=True):
            band(mine[0], ks, arms["references", name], label, color, linestyle="--", linewidth=1)
        mine[0].set(yscale="log", title=title)
        mine[0].legend(fontsize=6.5, loc="lower left")
    for pair in zip(axes[:3], axes[3:], strict=True):
        low, high = zip(*(panel.get_ylim() for panel in pair), strict=True)
        for panel in pair:
            panel.set_ylim(min(low), max(high))
    return drawn
