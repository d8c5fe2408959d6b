"""Dead features and reconstruction of Mutual and Feature Choice: with spare latents, with scarce ones, and far from the origin.

Ayonrinde 2024, dead features and aux_zipf. Three regimes of synthetic activations: more latents than features, fewer (as in language
models), and a large mean with b_dec starting at 0, where most latents are born on the wrong side. All at one sparsity; every seed has its
own dictionary and data. And dead features against the number of latents, on the data of the second regime.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import bars
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, PALETTE, band, panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.autoencoder_scores import LEAST, REFERENCES, judge_all, refer
from experiments.subjects.sparse_activations import LONG, NAMES, TINY, VARIANTS, Setting, TrainingConfig, train
from lexinv.sae.synthetic import SyntheticConfig
from lexinv.validation import Allowed, Checked, Count, Positive

PAPERS = ("ayonrinde2024adaptive",)
ABSTRACT = "ayonrinde2024adaptive: abstract"
REVIEWS = "ayonrinde2024adaptive: abstract, reviews and TL;DR on OpenReview"
KINDS = ("topk", "mutual", "mutual_zipf", "feature_uniform", "feature_zipf")
WIDENED = ("topk", "mutual", "mutual_zipf", "feature_zipf")
REGIMES = ("spare", "scarce", "offset")
COLORS = dict(zip(KINDS, PALETTE, strict=False))
Rising = Annotated[
    tuple[int, ...],
    Allowed(
        lambda v: len(v) > 1 and v[0] > 0 and list(v) == sorted(set(v)), "at least two, rising", ((), (2,), (3, 2))
    ),
]


@dataclass(frozen=True)
class Regime(Checked):
    """Data, latents, and whether b_dec begins at the mean of the data."""

    data: SyntheticConfig
    features: Count
    centred: bool = True


@dataclass(frozen=True)
class Config(Checked):
    """k: latents per token on average, for every variant. widths: numbers of latents on the data of `scarce`."""

    spare: Regime = Regime(SyntheticConfig(), 192)
    scarce: Regime = Regime(SyntheticConfig(features=192), 96)
    offset: Regime = Regime(SyntheticConfig(offset=1.5), 192, centred=False)
    k: Positive = 5.0
    widths: Rising = (48, 96, 192, 384)
    training: TrainingConfig = TrainingConfig()

    def checks(self):
        sizes = [*(getattr(self, name).features for name in REGIMES), *self.widths]
        least = max(max(sizes) / self.training.batch, 1)
        allowed = f"from {least:.3g}, one token of a batch for each feature, to {min(sizes)}, the fewest features"
        yield least <= self.k <= min(sizes), "k", allowed


def sized(width: int, l0: float, spare: tuple[int, int], scarce: tuple[int, int]) -> dict[str, Any]:
    """Regimes of these (true features, latents), for `presets`."""
    found: dict[str, Any] = {}
    for name, (features, latents) in {"spare": spare, "scarce": scarce, "offset": spare}.items():
        data = {"data.width": width, "data.features": features, "data.l0": l0, "features": latents}
        found |= {f"{name}.{field}": value for field, value in data.items()}
    return found


PRESETS = presets(
    Config(),
    smoke={  # widths are shapes that are there already
        **sized(16, 2.0, (24, 32), (40, 20)),
        **TINY,
        "training.seeds": (0,),
        "k": 2.0,
        "widths": (20, 32),
    },
    paper={
        **sized(768, 25.0, (8192, 16_384), (16_384, 4096)),
        **LONG,
        "training.batch": 8192,
        "k": 25.0,
        "widths": (4096, 16_384, 65_536),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By place (a regime, or a width on the data of `scarce`), variant and metric a list over seeds; references by regime."""
    places = {name: getattr(config, name) for name in REGIMES}
    places |= {f"width-{width}": Regime(config.scarce.data, width) for width in config.widths}
    kinds = {place: (*KINDS, "references") if place in REGIMES else WIDENED for place in places}

    def one(arm: str, seed: int) -> dict[str, float]:
        place, kind = arm.split("/")
        regime = places[place]
        if kind == "references":
            found = refer(regime.data, [config.k], config.training, seed)
        else:
            chosen = VARIANTS[kind], regime.data, regime.features, [Setting(config.k)], config.training, seed
            found = judge_all(train(*chosen, f"{arm}/seed-{seed}", workspace, regime.centred))
        return {metric: value for metric, (value,) in found.items()}

    arms = [f"{place}/{kind}" for place in places for kind in kinds[place]]
    return {
        "seeds": list(config.training.seeds),
        "k": config.k,
        "widths": list(config.widths),
        "true_features": config.scarce.data.features,
        "arms": measured(workspace, arms, config.training.seeds, one),
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """Dead features, budgets, the second chance, and reconstruction by regime."""
    arms, widths = Arms(results), results["widths"]
    last = max(width for i, width in enumerate(widths) if width <= results["true_features"] or i == 1)

    def dead(arm: str) -> np.ndarray:
        return np.maximum(arms[arm, "dead"], arms[arm, "threshold_dead"])

    grown = {
        NAMES[kind]: arms[f"width-{last}/{kind}", "dead"] - arms[f"width-{widths[0]}/{kind}", "dead"]
        for kind in ("topk", "mutual")
    }
    chosen = {
        "Feature Choice, largest share": np.max([dead(f"width-{width}/feature_zipf") for width in widths], axis=0)
    }
    by_width = Claim(
        "dead_features_grow_with_width_but_not_of_feature_choice",
        "The share of dead features grows with their number for TopK and Mutual Choice and stays 0 for Feature Choice.",
        REVIEWS,
        grown | chosen,
        dict.fromkeys(grown, above(0)) | dict.fromkeys(chosen, below(LEAST).every_seed),
        f"share at {last} latents, no more than there are features, minus share at {widths[0]}; of Feature Choice the largest share at "
        "any width, in batches as in training and with thresholds",
        "zero dead features, up to 34 million latents",
    )
    return [
        *of_regimes(arms, dead, ("spare", "scarce")),
        by_width,
        *(
            replace(claim, name=f"{claim.name}_offset", source=OURS, published=None)
            for claim in of_regimes(arms, dead, ("offset",))
        ),
    ]


def of_regimes(arms: Arms, dead: Callable[[str], np.ndarray], regimes: tuple[str, ...]) -> list[Claim]:
    """What is said of every regime, with the thresholds that an autoencoder is used with; an offset of all activations is our own."""

    def difference(metric: str, first: str, second: str) -> dict[str, np.ndarray]:
        return {name: arms[f"{name}/{first}", metric] - arms[f"{name}/{second}", metric] for name in regimes}

    under = {
        f"{regime}, {metric}": values
        for metric in ("dead", "under_used")
        for regime, values in difference(metric, "mutual_zipf", "mutual").items()
    }
    return [
        Claim(
            "feature_choice_no_dead",
            "Feature Choice, uniform and Zipf, has no feature that never fires on the held-out tokens, in any regime.",
            REVIEWS,
            {
                f"{regime}, {kind}": dead(f"{regime}/feature_{kind}")
                for regime in regimes
                for kind in ("uniform", "zipf")
            },
            below(LEAST).every_seed,
            "share of dead features, the larger of that in batches as in training and that with calibrated thresholds",
            "zero dead features",
        ),
        Claim(
            "zipf_not_worse",
            "aux_zipf leaves no more dead features, and no more under-used ones (below one firing in 1000 tokens), than aux_k does with "
            "Mutual Choice.",
            REVIEWS,
            under,
            below(LEAST).mean,
            "share with aux_zipf minus share with aux_k",
            "aux_zipf generalises aux_k to under-used features",
        ),
        Claim(
            "mutual_below_topk_in_every_regime",
            "Mutual Choice leaves less unexplained than TopK.",
            ABSTRACT,
            difference("threshold_fvu", "topk", "mutual"),
            above(0),
            "FVU with thresholds, of TopK minus that of Mutual Choice",
            "better reconstruction at equal sparsity",
        ),
        Claim(
            "zipf_budgets_beat_uniform_ones",
            "Feature Choice reconstructs better with Zipf budgets, of the data's own exponent, than with uniform ones.",
            OURS,
            difference("threshold_fvu", "feature_uniform", "feature_zipf"),
            above(0),
            "FVU with thresholds, uniform minus Zipf",
        ),
        Claim(
            "feature_choice_reconstructs_better",
            "Feature Choice with Zipf budgets leaves less unexplained than TopK in every regime.",
            ABSTRACT,
            difference("threshold_fvu", "topk", "feature_zipf"),
            above(0),
            "FVU with thresholds, of TopK minus its own",
            "better reconstruction at equal sparsity",
        ),
    ]


LABELS = {
    "threshold_fvu": "FVU with thresholds",
    "dead": "dead latents",
    "under_used": "under-used latents",
    "mcc": "MCC with the true features",
}


def figure(results: dict[str, Any]) -> Figure:
    """FVU, dead and under-used features, and recovery, by regime and variant, a point for each seed; dead features by width."""
    arms, widths = Arms(results), results["widths"]
    drawn, axes = panels(2, 3, width=4.4, height=3.2)
    for panel, (metric, label) in zip(axes, LABELS.items(), strict=False):
        groups = {kind: np.stack([arms[f"{regime}/{kind}", metric] for regime in REGIMES], axis=1) for kind in KINDS}
        bars(panel, REGIMES, {kind: (NAMES[kind], values) for kind, values in groups.items()})
        panel.set_ylabel(label)
    for place, regime in enumerate(REGIMES):
        for (key, label), color in zip(REFERENCES.items(), (BLACK, GREY), strict=True):
            values = arms[f"{regime}/references", key]
            label = label if place == 0 else None
            axes[0].hlines(np.mean(values), place - 0.42, place + 0.42, color=color, linestyle=":", label=label)
    axes[0].set_ylim(0, 1.25 * axes[0].get_ylim()[1])  # room for the legend
    axes[0].legend(*(found[:2] for found in axes[0].get_legend_handles_labels()), fontsize=7, ncols=2)
    for kind in WIDENED:
        dead = np.stack([arms[f"width-{width}/{kind}", "dead"] for width in widths], axis=1)
        band(axes[4], widths, dead, NAMES[kind], COLORS[kind], marker="o", markersize=3.5)
    axes[4].set(xscale="log", xlabel="latents", ylabel="dead latents", title="scarce, by width", ylim=(-0.02, None))
    axes[4].set_xticks(widths, [str(width) for width in widths])
    axes[4].set_xticks([], minor=True)
    handles, names = axes[1].get_legend_handles_labels()
    axes[5].set_axis_off()
    axes[5].legend(handles, names, loc="upper left", title="mean, 95 % interval over seeds")
    return drawn
