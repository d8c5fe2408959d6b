"""Which visual tokens a vision-language model needs, by method, question and layer: DivPrune and ToDRE on generated scenes.

One toy model answers questions about coloured shapes, some a single patch (`rare`), some many (`dominant`); all tokens are pruned at test
time only. Stage 1 keeps a share of the visual tokens before the decoder; stage 2 removes all of them from a late layer on. CLS was trained
to name all objects. The text's attention is that of the question itself, for which a pass over all tokens comes first. The system prompt
counts as image-free context, not as text. Claims C6 and C9 of method card token-reduction-beyond-efficiency are judged on the same models:
which criterion and share answer questions of presence (as POPE's) best is decided on other scenes than it is judged on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.arms import by
from experiments.harness.figures import legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, band, panels, reference, styled
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.scene_answerers import PUBLISHED, SMOKE, SceneSubject, scene_models
from experiments.subjects.scene_measurements import JUDGED, TAU, TAUS, measure
from experiments.subjects.scene_pruning import TEXT_LAYER
from lexinv.data.scenes import chance
from lexinv.merging.k_center import check_layer
from lexinv.validation import Checked, Count, Fractions

PAPERS = ("alvar2025divprune", "li2025todre", "kong2025token")
STAGE_TWO = "li2025todre: times of the stages"
NEAR = (0.3, 0.5, 1.0, 1.5)
"""Thresholds that are to that of stage 2 as those that the paper compares, 0.03 to 0.15, are to its 0.1."""
TYPES = {"rare": "colour, one patch", "dominant": "colour, largest object", "count": "count", "presence": "presence"}
WORKING = {"rare": above(0.9), "dominant": above(0.9), "count": above(0.6), "presence": above(0.9)}
PLATEAU = 0.02
"""How far below that of all tokens an accuracy may be after what the image says has moved into the text."""


@dataclass(frozen=True)
class Config(Checked):
    """scenes: held out for each seed. ratios: shares of the visual tokens that are kept, falling, the judged one among them."""

    subject: SceneSubject = SceneSubject()
    scenes: Count = 128
    ratios: Fractions = (0.5, 0.25, 0.1, 0.05)

    def checks(self):
        falling = all(a > b for a, b in pairwise(self.ratios)) and JUDGED in self.ratios
        yield falling, "ratios", f"falling, {JUDGED} among them"
        yield all(self.kept(ratio) >= 1 for ratio in self.ratios), "ratios", "shares that leave a token"
        subject = self.subject
        yield subject.depth >= 3, "subject.depth", f"at least 3: layer {TEXT_LAYER} and a third of the layers"
        for kind in ("counts", "presences"):
            yield getattr(subject, kind) >= 1, f"subject.{kind}", "at least 1 question of each kind"

    def kept(self, ratio: float) -> int:
        """Visual tokens that are left."""
        return round(ratio * self.subject.data.patches)


PRESETS = presets(
    Config(),
    smoke={**SMOKE, "scenes": 16, "ratios": (JUDGED,)},
    quick={"subject.training.seeds": (0, 1, 2)},
    paper={**PUBLISHED, "scenes": 5000},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Per seed: accuracy by method, ratio and type of question; by layer of removal; with gaps closed."""
    subject, counts = config.subject, {str(ratio): config.kept(ratio) for ratio in config.ratios}
    seeds = [
        workspace.cached(f"seed-{seed}", partial(measure, subject, params, seed, config.scenes, counts))
        for seed, params in scene_models(subject, workspace).items()
    ]
    return {
        "corpora": {},
        "seeds": list(subject.training.seeds),
        "ratios": list(config.ratios),
        "depth": subject.depth,
        "chance": chance(subject.data),
        "measured": seeds,
    }


def of(results: dict[str, Any], method: str, kind: str, ratio: float = JUDGED) -> np.ndarray:
    """Accuracy of a method for each seed."""
    return np.array([seed["methods"][method][str(ratio)][kind] for seed in results["measured"]])


def chosen(results: dict[str, Any]) -> tuple[str, float]:
    """Of diversity and relevance the criterion, and the share of tokens, of the best F1 of presence on the scenes for choosing."""
    cells = [(method, ratio) for method in ("divprune", "text") for ratio in results["ratios"]]
    return max(cells, key=lambda cell: of(results, cell[0], "choose f1", cell[1]).mean())


def after_removal(results: dict[str, Any], kind: str = "all") -> np.ndarray:
    """[seeds, depth + 1] accuracy with all visual tokens removed before each layer, and with none removed."""
    return np.array([[layer[kind] for layer in seed["layers"]["all"]["accuracy"]] for seed in results["measured"]])


def shares(results: dict[str, Any]) -> np.ndarray:
    """[seeds, depth] a_tv."""
    return np.array([seed["layers"]["all"]["share"] for seed in results["measured"]])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The cards' expectations; thresholds in points of accuracy are of the questions of that type."""
    seeds, depth, ratios = results["measured"], results["depth"], results["ratios"]

    def each(read: Callable[[dict[str, Any]], float]) -> np.ndarray:
        return np.array([read(seed) for seed in seeds])

    def ahead(method: str, kind: str, others: tuple[str, ...]) -> dict[str, np.ndarray]:
        return {other: of(results, method, kind) - of(results, other, kind) for other in others}

    average = [of(results, "divprune", "all", r) - of(results, "maxsum", "all", r) for r in ratios]
    removal, share, third = after_removal(results), shares(results), depth // 3
    late = range(-(-2 * depth // 3), depth)

    def stage(which: str, tau: float, what: str = "accuracy") -> np.ndarray:
        return each(lambda s: s["layers"][which]["check"][what][TAUS.index(tau)])

    second: dict[str, np.ndarray] = {}
    for which, before in (("all", "all tokens"), ("first", "after stage 1")):
        whole = each(lambda s, which=which: s["layers"][which]["accuracy"][-1]["all"])
        second[f"loss, {before}"] = whole - stage(which, TAU)
        second[f"happens, {before}"] = stage(which, TAU, "withdrawn")
        second[f"FLOPs saved, {before}"] = stage(which, TAU, "saved")
    near = np.stack([stage("all", tau) for tau in NEAR])
    criterion, ratio = chosen(results)
    best, at_random = (of(results, method, "judge f1", ratio) for method in (criterion, "random"))
    presence = each(lambda s: s["full"]["judge f1"])
    middle = removal[:, depth // 2]
    at = f"at {JUDGED:.0%} of the visual tokens"
    rivals = ("cls", "random")
    return [
        Claim(
            "model_answers_questions",
            "The model that all this rests on answers every type of question with all its tokens.",
            OURS,
            {kind: each(lambda s, kind=kind: s["full"][kind]) for kind in TYPES},
            WORKING,
            "accuracy",
        ),
        Claim(
            "divprune_covers_the_rare",
            f"On the colour of objects of a single patch max-min diversity beats random tokens and the attention of a CLS that names all "
            f"objects {at}.",
            "alvar2025divprune: abstract",
            ahead("divprune", "rare", rivals),
            above(0.05),
            "difference of accuracy",
            "state of the art over 16 sets",
        ),
        Claim(
            "maxsum_beats_cls_on_rare",
            f"So does max-sum diversity from the token of most CLS attention, ToDRE's first stage, {at}.",
            "li2025todre: LLaVA-NeXT-7B, 8 image benchmarks",
            ahead("maxsum", "rare", rivals),
            above(0.05),
            "difference of accuracy",
            "95.0 against 91.4 at 10 % on 8 benchmarks, for CLS attention",
        ),
        Claim(
            "maxmin_and_maxsum_within_noise",
            "Max-min and max-sum are equal on average.",
            OURS,
            {"max-min less max-sum": np.mean(average, axis=0)},
            between(-0.03, 0.03),
            "difference of accuracy over all questions, mean of the ratios",
            "ToDRE: 95.0 for max-sum against 93.5 at 10 %",
        ),
        Claim(
            "accuracy_flat_when_removed_late",
            "Removing all visual tokens in the last third of the layers costs next to nothing.",
            STAGE_TWO,
            by([f"layer {layer}" for layer in late], removal[:, -1:] - removal[:, late]),
            below(0.02),
            "loss of accuracy",
            "100.0 % kept by stage 2 alone",
        ),
        Claim(
            "image_has_moved_by_mid_depth",
            f"C9: Visual tokens can go from the middle of the decoder on, layer {depth // 2 + 1} of {depth}, while the image as a whole is "
            "needed.",
            "kong2025token: section 4",
            {
                f"removed from the middle - all + {PLATEAU}": middle - removal[:, -1] + PLATEAU,
                f"all - no image - {PLATEAU}": removal[:, -1] - removal[:, 0] - PLATEAU,
            },
            above(0),
            "accuracy over all questions",
        ),
        Claim(
            "a_tv_falls_with_depth",
            "The text's attention to visual tokens fades.",
            "li2025todre: information migration",
            {"last over first third": share[:, -third:].mean(axis=1) / share[:, :third].mean(axis=1)},
            below(0.5),
            "ratio of a_tv",
            "high in early layers, fades in the second half",
        ),
        Claim(
            "todre_second_stage_saves",
            f"Stage 2, removal at layer {check_layer(depth)} of {depth} where a_tv is below what even attention would give, mostly "
            "happens and costs next to nothing.",
            STAGE_TWO,
            second,
            {
                name: below(0.02) if name.startswith("loss") else above(0.5)
                for name in second
                if not name.startswith("FLOPs")
            },
            "loss of accuracy; share of questions for which it happens; share of the decoder's multiply-adds",
            "100.0 % kept by stage 2 alone",
        ),
        Claim(
            "threshold_barely_matters",
            f"Thresholds of stage 2 between {NEAR[0]:g} and {NEAR[-1]:g} of an even share give the same accuracy, and remove.",
            "li2025todre: threshold ablation",
            {"spread": np.ptp(near, axis=0), "happens": stage("all", TAU, "withdrawn")},
            {"spread": below(0.01), "happens": above(0.5)},
            f"largest accuracy less smallest; share of questions for which it happens at {TAU:g}",
            "differences about 0.1 %",
        ),
        Claim(
            "redundancy_independent_of_relevance",
            "How redundant a token is says nothing on how relevant it is.",
            "li2025todre: appendix, orthogonality",
            {"correlation": each(lambda s: s["correlation"])},
            between(-0.3, 0.3),
            f"Pearson's r of mean cosine and text attention in layer {TEXT_LAYER}, over an image's tokens",
            "covariance 0, derived from an assumption",
        ),
        Claim(
            "closing_gaps_is_harmless",
            f"Closing the gaps in the positions of DivPrune's tokens, as its released code does, changes nothing {at}.",
            OURS,
            {"kept less closed": of(results, "divprune", "all") - each(lambda s: s["closed"])},
            between(-0.01, 0.01),
            "difference of accuracy over all questions",
        ),
        Claim(
            "less_visual_noise_less_hallucination",
            f"C6: Some reduction answers presence questions better than all tokens; {ratio:.0%} of the visual tokens kept by {criterion} "
            "was the best on other scenes. What all tokens lack of an F1 of 1 is all that there is to gain.",
            "kong2025token: section 4",
            {"over all tokens": best - presence, "over random tokens": best - at_random, "F1 of all tokens": presence},
            dict.fromkeys(("over all tokens", "over random tokens"), above(0, matters=0.01)),
            "difference of F1 of yes",
        ),
    ]


GROUPS = {
    "diversity": {
        "divprune": "DivPrune (max-min)",
        "maxsum": "max-sum (ToDRE)",
        "kcenter": "k-center from a pivot",
        "tome": "ToMe",
        "random": "random",
    },
    "importance": {
        "divprune": "DivPrune (max-min)",
        "cls": "CLS attention",
        "text": f"text attention, layer {TEXT_LAYER} (FastV)",
        "column": "mean attention received",
        "random": "random",
    },
}
CRITERIA = {"divprune": GROUPS["diversity"]["divprune"], "text": GROUPS["importance"]["text"], "random": "random"}


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by ratio for each type of question; below, layers of removal with a_tv, stage 2 by threshold, and presence."""
    drawn, axes = panels(3, 4, width=3.5, height=2.8)
    ratios, depth, seeds = results["ratios"], results["depth"], results["measured"]

    def by_ratio(panel: Axes, labels: dict[str, str], kind: str, title: str) -> None:
        found = {label: np.stack([of(results, m, kind, r) for r in ratios], axis=1) for m, label in labels.items()}
        lines(panel, np.log(ratios), found)
        reference(panel, float(np.mean([seed["full"][kind] for seed in seeds])), "all tokens", BLACK)
        panel.set_xticks(np.log(ratios), [f"{ratio:g}" for ratio in ratios])
        panel.set(title=title, xlabel="share of visual tokens kept")

    with styled():
        for row, group in enumerate(GROUPS.values()):
            for panel, (kind, title) in zip(axes[4 * row :], TYPES.items(), strict=False):
                by_ratio(panel, group, kind, title)
                blind = "colour" if kind in ("rare", "dominant") else kind
                reference(panel, results["chance"][blind], "blind guess")
                panel.set_ylim(0, 1.04)
            axes[4 * row].set_ylabel("accuracy, mean and range")
            legend_beside(axes[4 * row + 3])
        removed, stage_two, hallucinated, yes = axes[8:]
        lines(removed, range(depth + 1), {kind: after_removal(results, kind) for kind in TYPES})
        band(removed, range(depth), shares(results), "a_tv", GREY)
        removed.set(title="all visual tokens removed", xlabel="before layer", ylabel="accuracy, a_tv", ylim=(0, 1.04))
        checked = [seed["layers"]["all"]["check"] for seed in seeds]
        lines(stage_two, np.log(TAUS), {what: [check[what] for check in checked] for what in ("accuracy", "withdrawn")})
        stage_two.set_xticks(np.log(TAUS), [f"{tau:g}" for tau in TAUS])
        stage_two.set(title=f"stage 2 at layer {check_layer(depth)}", xlabel="threshold on a_tv, of an even share")
        stage_two.set_ylabel("share of questions")
        by_ratio(hallucinated, CRITERIA, "judge f1", "presence, F1 of yes")
        by_ratio(yes, CRITERIA, "bias", "presence, rate of yes less that of truth")
        legend_beside(yes)
        for panel in (removed, stage_two):
            panel.legend(fontsize=7)
    return drawn
