"""Which visual tokens a vision-language model needs, by method, question and layer: DivPrune and ToDRE on generated scenes.

Alvar et al. 2025 (arXiv 2503.02175) and Li et al. 2025 (arXiv 2505.18757); method cards divprune, todre. One toy model answers questions
about coloured shapes, some a single patch (`rare`), some many (`dominant`); all tokens are pruned at test time only. Stage 1 keeps a share
of the visual tokens before the decoder; stage 2 removes all of them from a late layer on. CLS was trained to name the largest object and
nothing else, as captions name their subject: that it looks there is our doing. The text's attention is that of the question itself, for
which a pass over all tokens comes first; it is not in the multiply-adds. The system token counts as image-free context, not as text.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, Interval, above, below, every, interval
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, panels, reference, styled
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.subjects.scene_answerers import SceneSubject, scene_models
from experiments.subjects.scene_measurements import JUDGED, OUTLIERS, TAU, TAUS, measure
from experiments.subjects.scene_pruning import METHODS, TEXT_LAYER, flops
from lexinv.data.scenes import SceneConfig, chance
from lexinv.merging.k_center import check_layer
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import require

PAPER = """@inproceedings{alvar2025divprune,
  title = {{DivPrune}: Diversity-based Visual Token Pruning for Large Multimodal Models},
  author = {Alvar, Saeed Ranjbar and Singh, Gursimran and Akbari, Mohammad and Zhang, Yong},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages = {9392--9401},
  year = {2025},
  eprint = {2503.02175},
  archiveprefix = {arXiv}
}"""
DIVPRUNE, TODRE = "Alvar et al. 2025", "Li et al. 2025"
CARD = "method cards divprune and todre"
PAPER_TAUS = (0.03, 0.05, 0.1, 0.15)
ANSWERS = (1, 16, 64)
TYPES = ("rare", "dominant", "count", "presence")


@dataclass(frozen=True)
class Config:
    """scenes: held out for each seed. ratios: shares of the visual tokens that are kept, falling, the judged one among them."""

    subject: SceneSubject = SceneSubject()
    scenes: int = 512
    ratios: tuple[float, ...] = (0.5, 0.25, 0.1, 0.05)

    def __post_init__(self):
        require(self.scenes >= 1, "scenes", self.scenes, "at least 1")
        falling = all(a > b for a, b in zip(self.ratios, self.ratios[1:], strict=False))
        require(falling and JUDGED in self.ratios, "ratios", self.ratios, f"falling, {JUDGED} among them")
        inside = all(0 < ratio < 1 and self.kept(ratio) >= 1 for ratio in self.ratios)
        require(inside, "ratios", self.ratios, "above 0 and below 1, with a token left")
        depth, data = self.subject.depth, self.subject.data
        require(depth >= 3, "subject.depth", depth, f"at least 3: layer {TEXT_LAYER} and a third of the layers")
        room = data.patches - sum(size**2 for size in data.sizes) >= OUTLIERS
        require(room, "subject.data.sizes", data.sizes, f"objects that leave {OUTLIERS} patches of background")
        asked = (self.subject.counts, self.subject.presences)
        require(min(asked) >= 1, "subject.counts, presences", asked, "at least 1 question of each kind")

    def kept(self, ratio: float) -> int:
        """Visual tokens that are left."""
        return round(ratio * self.subject.data.patches)


PRESETS = {
    "smoke": Config(
        SceneSubject(
            SceneConfig(grid=4, sizes=(2, 1, 1, 1)),
            vision_depth=1,
            vision_width=16,
            depth=3,
            width=16,
            heads=2,
            training=Training(20, 8, (0, 1), OptimizerConfig("muon", 2e-2, 5), steps_per_dispatch=10),
        ),
        scenes=16,
        ratios=(0.5, 0.1),
    ),
    "cpu": Config(),
    "paper": Config(
        SceneSubject(
            SceneConfig(grid=24, patch=16, sizes=(10, 5, 1, 1)),
            vision_depth=24,
            vision_width=1024,
            depth=32,
            width=4096,
            heads=32,
            training=Training(20_000, 256, (0, 1, 2), OptimizerConfig("muon", 2e-3, 500), steps_per_dispatch=10),
        ),
        scenes=5000,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Per seed: accuracy by method, ratio and type of question; by layer of removal; of both stages; with gaps closed; with outliers."""
    models = scene_models(config.subject, workspace)
    counts = {str(ratio): config.kept(ratio) for ratio in config.ratios}
    seeds = [
        workspace.cached(f"seed-{seed}", partial(measure, config.subject, params, seed, config.scenes, counts))
        for seed, params in zip(config.subject.training.seeds, models.params, strict=True)
    ]
    subject, patches = config.subject, config.subject.data.patches
    check = check_layer(subject.depth)
    stages = {"neither": (patches, None), "first": (config.kept(JUDGED), None)}
    stages |= {"second": (patches, check), "both": (config.kept(JUDGED), check)}
    return {
        "corpora": {},
        "seeds": list(subject.training.seeds),
        "ratios": list(config.ratios),
        "depth": subject.depth,
        "chance": chance(subject.data),
        "flops": {str(ratio): flops(subject, config.kept(ratio)) / flops(subject, patches) for ratio in config.ratios},
        "stage_flops": {
            name: {str(answer): flops(subject, *stage, answer) / 1e6 for answer in ANSWERS}
            for name, stage in stages.items()
        },
        "measured": seeds,
        "arms": {"scenes": models.origin},
    }


def of(results: dict[str, Any], method: str, kind: str, ratio: float = JUDGED) -> np.ndarray:
    """Accuracy of a method for each seed."""
    return np.array([seed["methods"][method][str(ratio)][kind] for seed in results["measured"]])


def after_removal(results: dict[str, Any], kind: str = "all") -> np.ndarray:
    """[seeds, depth + 1] accuracy with all visual tokens removed before each layer, and with none removed."""
    return np.array([[layer[kind] for layer in seed["layers"]["all"]["accuracy"]] for seed in results["measured"]])


def shares(results: dict[str, Any]) -> np.ndarray:
    """[seeds, depth] a_tv."""
    return np.array([seed["layers"]["all"]["share"] for seed in results["measured"]])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The cards' expectations; thresholds in points of accuracy are of the questions of that type."""
    seeds, depth, ratios = results["measured"], results["depth"], results["ratios"]

    def ahead(method: str, other: str, kind: str) -> Interval:
        return interval(of(results, method, kind) - of(results, other, kind))

    full = {kind: interval([seed["full"][kind] for seed in seeds]) for kind in TYPES}
    rare = {other: ahead("divprune", other, "rare") for other in ("cls", "random")}
    todre = {other: ahead("maxsum", other, "rare") for other in ("cls", "random")}
    average = interval(
        np.mean([of(results, "divprune", "all", r) - of(results, "maxsum", "all", r) for r in ratios], axis=0)
    )
    removal, share = after_removal(results), shares(results)
    late, early = range(-(-2 * depth // 3), depth), range(1, max(depth // 3, 2))
    lost = {f"layer {layer}": interval(removal[:, -1] - removal[:, layer]) for layer in late}
    gained = (removal - removal[:, :1]) / np.maximum(removal[:, -1:] - removal[:, :1], 1e-9)
    left = {f"layer {layer}": interval(gained[:, layer]) for layer in early}
    third = depth // 3
    ratio = interval(share[:, -third:].mean(axis=1) / share[:, :third].mean(axis=1))
    relation = interval([seed["correlation"] for seed in seeds])

    def stage(which: str, tau: float) -> np.ndarray:
        return np.array([seed["layers"][which]["check"]["accuracy"][TAUS.index(tau)] for seed in seeds])

    second = {
        which: interval([s["layers"][which]["accuracy"][-1]["all"] for s in seeds] - stage(which, TAU))
        for which in ("all", "first")
    }
    fires = {
        which: interval([s["layers"][which]["check"]["withdrawn"][TAUS.index(TAU)] for s in seeds]) for which in second
    }
    most = interval([s["layers"]["all"]["check"]["withdrawn"][TAUS.index(PAPER_TAUS[-1])] for s in seeds])
    by_tau = np.stack([stage("all", tau) for tau in PAPER_TAUS])
    spread = interval(by_tau.max(axis=0) - by_tau.min(axis=0))
    gaps = interval(of(results, "divprune", "all") - [s["closed"]["divprune"][str(JUDGED)]["all"] for s in seeds])
    picked = {
        name: interval([seed["outliers"][name]["outliers_kept"] for seed in seeds])
        for name in ("divprune", "random", "filtered")
    }
    mended = interval([seed["outliers"]["filtered"]["rare"] - seed["outliers"]["divprune"]["rare"] for seed in seeds])
    at = f"at {JUDGED:.0%} of the visual tokens"
    return [
        Claim(
            "model_answers_questions",
            "The model that all this rests on answers every type of question with all its tokens (measured: accuracy).",
            "ours; a condition for the others",
            None,
            full,
            "every whole interval above 0.9",
            every([above(value, 0.9) for value in full.values()]),
        ),
        Claim(
            "divprune_beats_cls_on_rare",
            f"On the colour of objects of a single patch max-min diversity beats CLS attention and random {at} (measured: difference).",
            CARD,
            "state of the art over 16 sets",
            rare,
            "both whole intervals above 0.05",
            every([above(value, 0.05) for value in rare.values()]),
        ),
        Claim(
            "maxsum_beats_cls_on_rare",
            f"So does max-sum diversity from the token of most CLS attention, ToDRE's first stage {at} (measured: difference).",
            CARD,
            "95.0 against 91.4 at 10 % on 8 benchmarks, for CLS attention",
            todre,
            "both whole intervals above 0.05",
            every([above(value, 0.05) for value in todre.values()]),
        ),
        Claim(
            "maxmin_and_maxsum_within_noise",
            "Max-min and max-sum are equal on average (measured: difference over all questions, mean of the ratios).",
            CARD,
            None,
            average,
            "whole interval in (-0.03, 0.03)",
            every([above(average, -0.03), below(average, 0.03)]),
        ),
        Claim(
            "cls_wins_on_dominant",
            f"On the colour of the largest object CLS attention beats max-min diversity {at} (measured: difference; the card: may win).",
            CARD,
            None,
            ahead("cls", "divprune", "dominant"),
            "whole interval above 0",
            above(ahead("cls", "divprune", "dominant"), 0.0),
        ),
        Claim(
            "accuracy_flat_when_removed_late",
            "Removing all visual tokens in the last third of the layers costs next to nothing (measured: loss of accuracy).",
            TODRE,
            "100.0 % kept by stage 2 alone",
            lost,
            "every whole interval below 0.02",
            every([below(value, 0.02) for value in lost.values()]),
        ),
        Claim(
            "collapse_when_removed_early",
            "Removing them in the first third loses most of what the image gives (measured: share that is left of the accuracy above that "
            "of the text alone).",
            CARD,
            None,
            left,
            "every whole interval below 0.5",
            every([below(value, 0.5) for value in left.values()]),
        ),
        Claim(
            "a_tv_falls_with_depth",
            "The text's attention to visual tokens fades (measured: a_tv in the last third over that in the first third of the layers).",
            TODRE,
            "high in early layers, fades in the second half",
            ratio,
            "whole interval below 0.5",
            below(ratio, 0.5),
        ),
        Claim(
            "second_stage_is_free",
            f"Stage 2, removal at layer {check_layer(depth)} where a_tv is below {TAU}, mostly happens and costs next to nothing, with all "
            "tokens and after stage 1 (measured: loss of accuracy, share of questions for which it happens).",
            TODRE,
            "100.0 % kept by stage 2 alone",
            {"loss": second, "happens": fires},
            "every whole interval of losses below 0.02, of shares above 0.5",
            every([below(v, 0.02) for v in second.values()] + [above(v, 0.5) for v in fires.values()]),
        ),
        Claim(
            "threshold_barely_matters",
            f"Thresholds of stage 2 between {PAPER_TAUS[0]} and {PAPER_TAUS[-1]} give the same accuracy (measured: largest less smallest; "
            f"share of questions for which it happens at {PAPER_TAUS[-1]}).",
            TODRE,
            "differences about 0.1 %",
            {"spread": spread, "happens": most},
            "whole interval below 0.01, of the share above 0.5",
            every([below(spread, 0.01), above(most, 0.5)]),
        ),
        Claim(
            "redundancy_independent_of_relevance",
            f"How redundant a token is says nothing on how relevant it is (measured: Pearson's r of mean cosine and text attention "
            f"in layer {TEXT_LAYER}, over an image's tokens).",
            TODRE,
            "covariance 0, derived from an assumption",
            relation,
            "whole interval in (-0.3, 0.3)",
            every([above(relation, -0.3), below(relation, 0.3)]),
        ),
        Claim(
            "closing_gaps_matters",
            f"Closing the gaps in the positions of DivPrune's tokens changes accuracy {at} (measured: kept less closed).",
            CARD,
            None,
            gaps,
            "whole interval above 0.01, or below -0.01",
            None if gaps.low is None else bool(above(gaps, 0.01) or below(gaps, -0.01)),
        ),
        Claim(
            "maxmin_takes_outliers",
            f"Max-min diversity takes injected outliers first, a filter by norm leaves them out {at} (measured: share of outliers kept).",
            CARD,
            None,
            {**picked, "accuracy on rare objects, filtered less not": mended},
            "above 0.9 for DivPrune, below 0.01 filtered; filtering gains: above 0",
            every([above(picked["divprune"], 0.9), below(picked["filtered"], 0.01), above(mended, 0.0)]),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by ratio for each type of question; below, layers of removal with a_tv, both stages, positions, outliers."""
    drawn, axes = panels(2, 4, width=3.3, height=2.9)
    ratios, depth, seeds = results["ratios"], results["depth"], results["measured"]
    labels = {
        "rare": "colour, one patch",
        "dominant": "colour, largest object",
        "count": "count",
        "presence": "presence",
    }
    with styled():
        for ax, kind in zip(axes, TYPES, strict=False):
            for method, (label, color) in METHODS.items():
                values = np.stack([of(results, method, kind, ratio) for ratio in ratios], axis=1)
                band(ax, ratios, values, label, color, marker="o", markersize=3)
            reference(ax, float(np.mean([seed["full"][kind] for seed in seeds])), "all tokens", BLACK)
            reference(ax, results["chance"]["colour" if kind in ("rare", "dominant") else kind], "blind guess")
            ax.set(xscale="log", title=labels[kind], xlabel="share of visual tokens kept", ylim=(0, 1.04))
            ax.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios], minor=False)
            ax.minorticks_off()
        axes[0].set_ylabel("accuracy")
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
        layers = np.arange(depth + 1)
        for kind, color in zip(TYPES, (BLUE, VERMILION, GREEN, ORANGE), strict=True):
            band(axes[4], layers, after_removal(results, kind), kind, color, marker="o", markersize=3)
        band(axes[4], layers[:-1], shares(results), "a_tv", BLACK, linestyle=":")
        axes[4].set(title="all visual tokens removed", xlabel="before layer", ylabel="accuracy, a_tv", ylim=(0, 1.04))
        axes[4].legend(fontsize=6)
        _draw_rules(axes[5], results)
        _draw_stages(axes[6], results)
        for method in ("divprune", "random"):
            label, color = METHODS[method]
            kept = np.stack([of(results, method, "all", ratio) for ratio in ratios], axis=1)
            closed = [[seed["closed"][method][str(ratio)]["all"] for ratio in ratios] for seed in seeds]
            band(axes[7], ratios, kept, f"{label}, gaps kept", color)
            band(axes[7], ratios, closed, f"{label}, gaps closed", color, linestyle="--")
        axes[7].set(xscale="log", title="positions", xlabel="share of visual tokens kept")
        axes[7].set_xticks(ratios, [f"{ratio:g}" for ratio in ratios], minor=False)
        axes[7].minorticks_off()
        axes[7].legend(fontsize=6)
    return drawn


def _draw_rules(ax, results) -> None:
    """Where the rule removes visual tokens, by threshold, and what is still answered, against the same layer for all questions."""
    means = after_removal(results).mean(axis=0)
    ax.plot(range(len(means)), means, label="one layer for all", color=GREY)
    for which, color in (("adaptive", BLUE), ("check", VERMILION)):
        layers, check = [seed["layers"]["all"] for seed in results["measured"]], check_layer(results["depth"])
        accuracy = np.mean([layer[which]["accuracy"] for layer in layers], axis=0)
        removed = np.array([layer["check"]["withdrawn"] for layer in layers])
        late = check * removed + results["depth"] * (1 - removed)
        at = np.mean([layer["adaptive"]["layer"] for layer in layers] if which == "adaptive" else late, axis=0)
        label = f"a_tv below, only at layer {check}" if which == "check" else "first layer with a_tv below"
        ax.plot(at, accuracy, label=label, color=color, marker="o", markersize=4)
        if which == "adaptive":
            for x, y, tau in zip(at, accuracy, TAUS, strict=True):
                if tau in (TAU, 0.3, TAUS[-1]):
                    ax.annotate(f"{tau:g}", (x, y), (2, -9), textcoords="offset points", fontsize=6, color=color)
    ax.set(title="rule with thresholds", xlabel="layer of removal, mean", ylabel="accuracy")
    ax.legend(fontsize=6, loc="lower right")


def _draw_stages(ax, results) -> None:
    """Multiply-adds for answers of several lengths, with the accuracies; the second stage removes at its layer whatever a_tv is."""
    stages, width = results["stage_flops"], 0.2
    accuracy = stage_accuracy(results)
    for place, (name, color) in enumerate(zip(stages, (GREY, BLUE, VERMILION, GREEN), strict=True)):
        heights = [stages[name][str(answer)] for answer in ANSWERS]
        ax.bar(
            np.arange(3) + width * (place - 1.5), heights, width, label=f"{name} ({accuracy[name]:.1%})", color=color
        )
    ax.set_xticks(range(3), [str(answer) for answer in ANSWERS])
    ax.set(title="stages, removal always", xlabel="length of the answer", ylabel="million multiply-adds")
    ax.legend(fontsize=6)


def stage_accuracy(results: dict[str, Any]) -> dict[str, float]:
    """Mean accuracy with neither stage, with one, with both, where the second removes at its layer whatever a_tv is."""
    check = check_layer(results["depth"])
    stages = {"neither": ("all", -1), "first": ("first", -1), "second": ("all", check), "both": ("first", check)}
    return {
        name: float(np.mean([seed["layers"][which]["accuracy"][layer]["all"] for seed in results["measured"]]))
        for name, (which, layer) in stages.items()
    }
