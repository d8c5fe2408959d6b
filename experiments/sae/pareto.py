"""Reconstruction against sparsity of the family of sparse autoencoders, and recovery of the true features, on synthetic activations.

Ayonrinde 2024 (arXiv 2411.02124), reconstruction at equal sparsity; method card sparse-autoencoders, small reproduction with spare latents.
All settings of a variant are one population; every seed has its own dictionary and data. Best reconstruction is not best recovery: both
are shown. References: principal components (dense), and non-negative matching pursuit on the true dictionary.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, every, interval
from experiments.harness.style import BLACK, GREY, PALETTE, panels, styled
from experiments.harness.workspace import Workspace
from experiments.subjects import sparse_activations
from experiments.subjects.sparse_activations import NAMES, VARIANTS, Setting, TrainingConfig, measure, refer
from lexinv.sae.synthetic import SyntheticConfig, probabilities
from lexinv.sae.training import OptimizerConfig
from lexinv.validation import choose, require

PAPER = sparse_activations.PAPER
SOURCE = "Ayonrinde 2024, abstract"
CARD = "method card sparse-autoencoders (ours)"
SELECTING = ("topk", "mutual", "mutual_zipf", "matryoshka", "feature_zipf")


@dataclass(frozen=True)
class Config:
    """ks: of the variants that select, and targets of JumpReLU. gated, relu: coefficients of their penalties.

    The coefficient of JumpReLU's target is `jumprelu`. variants: names in `sparse_activations.VARIANTS`.
    """

    data: SyntheticConfig = field(default_factory=SyntheticConfig)
    features: int = 192
    training: TrainingConfig = field(default_factory=TrainingConfig)
    variants: tuple[str, ...] = ("topk", "mutual", "matryoshka", "feature_zipf", "jumprelu", "gated", "relu")
    ks: tuple[float, ...] = (2.0, 3.0, 5.0, 8.0, 12.0)
    jumprelu: float = 0.3
    gated: tuple[float, ...] = (1.0, 0.6, 0.4, 0.25, 0.15)
    relu: tuple[float, ...] = (1.2, 0.8, 0.5, 0.35, 0.25)

    def __post_init__(self):
        for name in self.variants:
            choose("variants", name, VARIANTS)
        require(len(set(self.variants)) == len(self.variants), "variants", self.variants, "each once")
        require({"topk", "mutual"} <= set(self.variants), "variants", self.variants, "topk and mutual among them")
        least = self.features / self.training.batch
        fits = len(self.ks) > 0 and all(1 <= k <= self.features and k == round(k) for k in self.ks)
        require(fits, "ks", self.ks, f"whole numbers from 1 to the {self.features} features")
        for name in ("gated", "relu"):
            values = getattr(self, name)
            require(len(values) > 0 and min(values) >= 0, name, values, "at least one coefficient, zero or more")
        require(self.jumprelu >= 0, "jumprelu", self.jumprelu, "zero or more")
        spends = "feature_zipf" not in self.variants or min(self.ks) >= least
        require(spends, "ks", self.ks, f"at least features / batch = {least:.3g}, one token for each feature")
        require(max(self.ks) <= self.data.width, "ks", self.ks, f"at most the {self.data.width} dimensions")

    def settings(self, variant: str) -> list[Setting]:
        """What is trained of one variant."""
        if variant == "jumprelu":
            return [Setting(k, self.jumprelu) for k in self.ks]
        if variant in ("gated", "relu"):
            return [Setting(1.0, coefficient) for coefficient in getattr(self, variant)]
        return [Setting(k) for k in self.ks]


PRESETS = {
    "smoke": Config(
        SyntheticConfig(width=16, features=24, l0=2.0),
        32,
        TrainingConfig(20, 64, OptimizerConfig(warmup_steps=2), held_out=4, steps_per_dispatch=10, seeds=(0, 1)),
        variants=("topk", "mutual", "feature_zipf", "relu"),
        ks=(2.0, 4.0),
        relu=(0.1, 0.2),
    ),
    "quick": Config(),
    "cpu": Config(training=TrainingConfig(seeds=(0, 1, 2, 3, 4))),
    "paper": Config(
        SyntheticConfig(width=768, features=16_384, l0=25.0),
        4096,
        TrainingConfig(steps=50_000, batch=4096, held_out=10, dead_after=10_000_000, auxiliary_k=384),
        ks=(10.0, 20.0, 25.0, 40.0, 80.0),
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By variant, setting and metric a list over seeds; references by k and seed."""
    seeds = config.training.seeds
    arms = {}
    for variant in config.variants:
        by_seed = [
            workspace.cached(
                f"arms/{variant}/{seed}",
                lambda variant=variant, seed=seed: measure(
                    VARIANTS[variant],
                    config.data,
                    config.features,
                    config.settings(variant),
                    config.training,
                    seed,
                    f"{variant}/seed-{seed}",
                    workspace,
                ),
            )
            for seed in seeds
        ]
        arms[variant] = [
            {metric: [found[index][metric] for found in by_seed] for metric in by_seed[0][0]}
            for index in range(len(config.settings(variant)))
        ]
    references = [
        workspace.cached(f"references/{seed}", lambda seed=seed: refer(config.data, config.ks, config.training, seed))
        for seed in seeds
    ]
    return {
        "corpora": {},
        "seeds": list(seeds),
        "ks": list(config.ks),
        "true_l0": round(float(probabilities(config.data).sum()), 4),
        "variants": arms,
        "references": {name: [found[name] for found in references] for name in references[0]},
    }


def at(arms: dict[str, Any], variant: str, metric: str, index: int) -> np.ndarray:
    """One number for each seed."""
    return np.array(arms[variant][index][metric])


def at_l0(arms: dict[str, Any], variant: str, metric: str, l0: float | np.ndarray) -> np.ndarray:
    """A metric of each seed at this mean L0, or at one for each seed, between the settings around it.

    Linear in the logarithm of L0; that of the nearest setting where none is beyond.
    """
    settings = arms[variant]
    rows = np.array([setting["l0"] for setting in settings]), np.array([setting[metric] for setting in settings])
    found = []
    for levels, values, wanted in zip(*(row.T for row in rows), np.broadcast_to(l0, rows[0].shape[1]), strict=True):
        order = np.argsort(levels)
        found.append(np.interp(np.log(wanted), np.log(np.maximum(levels[order], 1e-6)), values[order]))
    return np.array(found)


def claims(results: dict[str, Any]) -> list[Claim]:
    """Mutual Choice against TopK, inference by threshold, and who follows the tokens' difficulty."""
    arms, ks, several = results["variants"], results["ks"], len(results["seeds"]) > 1
    matched = [
        at(arms, "topk", "fvu", i) - at_l0(arms, "mutual", "fvu", at(arms, "topk", "l0", i)) for i in range(len(ks))
    ]
    lower = [bool((gap > 0).all()) for gap in matched]
    gaps = {f"k = {k:g}": interval(gap) for k, gap in zip(ks, matched, strict=True)}
    excess = {f"k = {k:g}": interval(at(arms, "mutual", "threshold_l0", i) / k) for i, k in enumerate(ks)}
    within = all(abs(np.mean(at(arms, "mutual", "threshold_l0", i)) / k - 1) <= 0.05 for i, k in enumerate(ks))
    true = results["true_l0"]
    follows = {name: interval(at_l0(arms, name, "correlation", true)) for name in ("topk", "mutual")}
    ahead = above(follows["mutual"], 0.8)
    fvu = {name: at_l0(arms, name, "fvu", true) for name in arms}
    judged = [
        Claim(
            "mutual_below_topk",
            "At equal L0 Mutual Choice leaves less unexplained than TopK, whose L0 is below k where fewer latents are positive (measured: "
            "FVU of TopK at each k minus that of Mutual Choice, interpolated between its settings to TopK's L0).",
            SOURCE,
            "better reconstruction at equal sparsity",
            gaps,
            "above 0 on every seed, for all values of k but one at most",
            sum(lower) >= max(len(ks) - 1, 1) if several else None,
        ),
        Claim(
            "mutual_follows_difficulty",
            "Mutual Choice gives more features to tokens that have more (measured: correlation over tokens of the number of active "
            "latents and of true features, at the true mean number).",
            SOURCE,
            "more features on harder tokens",
            follows,
            "Mutual Choice: whole interval above 0.8; TopK: mean below it",
            None if ahead is None else ahead and follows["topk"].mean < follows["mutual"].mean,
        ),
        Claim(
            "threshold_mode_l0",
            "With a threshold calibrated on other tokens, each token by itself, Mutual Choice keeps its sparsity (measured: L0 over k).",
            CARD,
            1.0,
            excess,
            "mean within 5 % of 1 for every k",
            within if several else None,
        ),
    ]
    if {"jumprelu", "gated"} <= arms.keys():
        tuned = {name: interval(fvu[name] - fvu["mutual"]) for name in ("jumprelu", "gated")}
        judged.append(
            Claim(
                "mutual_below_jumprelu_and_gated",
                "At the true sparsity, interpolated between settings, Mutual Choice also leaves less unexplained than JumpReLU and Gated "
                "(measured: their FVU minus its own).",
                CARD,
                None,
                tuned,
                "both whole intervals above 0",
                every(above(value, 0.0) for value in tuned.values()),
            )
        )
    return judged


def figure(results: dict[str, Any]) -> Figure:
    """FVU, MCC and share of dead latents against L0; each point the mean over seeds, with the range."""
    arms, ks = results["variants"], results["ks"]
    drawn, axes = panels(1, 3, width=4.3, height=3.8)
    labels = {"fvu": "fraction of variance unexplained", "mcc": "MCC with the true features", "dead": "dead latents"}
    with styled():
        for panel, (metric, label) in zip(axes, labels.items(), strict=True):
            for (variant, settings), color in zip(arms.items(), PALETTE, strict=False):
                l0 = np.array([np.mean(setting["l0"]) for setting in settings])
                order, values = np.argsort(l0), np.array([setting[metric] for setting in settings])
                style = "o-" if variant in SELECTING else "s--"
                panel.plot(
                    l0[order], values.mean(axis=1)[order], style, color=color, markersize=3.5, label=NAMES[variant]
                )
                panel.vlines(l0, values.min(axis=1), values.max(axis=1), color=color, linewidth=0.8, alpha=0.6)
            panel.axvline(results["true_l0"], color=GREY, linewidth=0.8, linestyle=":")
            panel.set(xlabel="active latents per token (L0)", ylabel=label, xscale="log")
            panel.set_xlim(min(ks) / 1.5, max(ks) * 2.5)
            panel.set_xticks(ks, [f"{k:g}" for k in ks])
            panel.set_xticks([], minor=True)
        for name, label, color in (
            ("pursuit", "oracle: matching pursuit", BLACK),
            ("components", "principal components", GREY),
        ):
            axes[0].plot(ks, np.mean(results["references"][name], axis=0), color=color, linestyle=":", label=label)
        axes[0].set_yscale("log")
        axes[0].set_title("Reconstruction")
        axes[1].set_title("Recovery (dotted: true sparsity)")
        axes[2].set_title("Use")
        axes[0].legend(fontsize=6.5, loc="lower left")
    return drawn
