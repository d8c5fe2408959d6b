"""Whether a thumbnail should decide how many visual tokens each crop of a large scene keeps, and which: GlobalCom^2.

Tokens are taken at test time only, from a toy model that reads a scene as a thumbnail and four crops. All objects are in one crop
(crowded), or each crop has as many (balanced): then there is nothing to allot. All methods keep exactly as many tokens. What they keep of
the patches that show objects is counted first, without a decoder; then the model is asked for the colour of every object. An encoder whose
CLS names the largest object only is the control of the commander. No mosaic and no newline tokens: one crop follows another.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import dots, lines
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, panels, reference, styled
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.crop_answerers import CropSubject, crop_models
from experiments.subjects.crop_views import (
    Guidance,
    Scenery,
    accuracy,
    choose_tokens,
    every_token,
    kept_objects,
    look,
    slot_correlations,
)
from experiments.subjects.scene_pruning import TEXT_LAYER
from lexinv.data.scenes import SceneConfig
from lexinv.merging.global_guidance import crop_ratios, region_scores
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Fractions

PAPERS = ("liu2025globalcom2",)
ABLATION = "liu2025globalcom2: ablation at 25 %"
LABELS = {
    "random": "random",
    "uniform": "uniform + local",
    "local": "adaptive + local",
    "global": "adaptive + global",
    "both": "adaptive + both",
    "truth": "true shares + local",
}
CONTROLS = ("largest", "ranked", "all")
"""Both under the CLS that names the largest object; both with the thumbnail's tokens in the order of their scores; all tokens."""
KINDS = ("crowded", "balanced")
JUDGED = 0.1
TEXT_TEMPERATURE = 10.0
"""Of the paper, for sums of logits over the 144 cells of a region."""


@dataclass(frozen=True)
class Config(Checked):
    """scenes: held out, of either kind. ratios: of tokens kept, falling, the judged one among them."""

    subject: CropSubject = CropSubject()
    scenes: Count = 128
    ratios: Fractions = (0.5, 0.25, JUDGED, 0.05)
    guidance: Guidance = Guidance()

    def checks(self):
        falling = all(a > b for a, b in pairwise(self.ratios)) and JUDGED in self.ratios
        yield falling, "ratios", f"falling, {JUDGED} among them"
        yield round(min(self.ratios) * self.subject.scenes.data.patches) >= 1, "ratios", "shares that leave a token"
        yield self.subject.scenes.depth >= TEXT_LAYER, "subject.scenes.depth", f"at least {TEXT_LAYER}"


PRESETS = presets(
    Config(),
    smoke={
        "subject.scenes.data": SceneConfig(grid=4, sizes=(2, 1, 1, 1)),
        "subject.scenes.vision_depth": 1,
        "subject.scenes.vision_width": 16,
        "subject.scenes.depth": 2,
        "subject.scenes.width": 16,
        "subject.scenes.training": Training(10, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=10),
        "subject.training": Training(10, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=10),
        "subject.naming": Training(10, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=10),
        "scenes": 8,
        "ratios": (JUDGED,),
    },
    paper={
        "subject.scenes.data": SceneConfig(grid=24, patch=16, sizes=(8, *[1] * 7)),
        "subject.scenes.vision_depth": 24,
        "subject.scenes.vision_width": 1024,
        "subject.scenes.depth": 32,
        "subject.scenes.width": 4096,
        "subject.scenes.heads": 32,
        "subject.scenes.training": Training(20_000, 256, (0, 1, 2), OptimizerConfig("muon", 2e-3, 500)),
        "subject.training": Training(10_000, 256, (0, 1, 2), OptimizerConfig("muon", 2e-3, 500)),
        "subject.naming": Training(5_000, 256, (0, 1, 2), OptimizerConfig("muon", 2e-3, 500)),
        "scenes": 5000,
        "guidance.temperature": TEXT_TEMPERATURE,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm, kind of scene and ratio the share of object patches kept, and accuracy; then what scores do by order and scale."""
    subject, guidance = config.subject, config.guidance
    seeds, models = subject.training.seeds, crop_models(subject, workspace)

    @cache
    def scenery(seed: int, kind: str) -> Scenery:
        return look(subject, config.scenes, kind == "crowded", models[seed], stream(jax.random.key(seed), "held out"))

    def one(arm: str, seed: int) -> dict[str, Any]:
        found, params = {}, models[seed].params
        for kind in KINDS:
            seen = scenery(seed, kind)
            if arm == "all":
                found[f"{kind} accuracy"] = round(float(accuracy(subject, params, seen, every_token(seen))), 4)
                continue
            rows = [choose_tokens(guidance, arm, ratio, seen.views) for ratio in config.ratios]
            found[f"{kind} kept"] = [kept_objects(seen, row) for row in rows]
            found[f"{kind} accuracy"] = [round(float(accuracy(subject, params, seen, row)), 4) for row in rows]
        return found

    def scores(_: str, seed: int) -> dict[str, Any]:
        slots = slot_correlations(subject, guidance, JUDGED, models[seed].params, scenery(seed, "balanced"))
        return slots | scales(config, scenery(seed, "crowded").views.thumbnail)

    arms = measured(workspace, (*LABELS, *CONTROLS), seeds, one) | measured(workspace, ("scores",), seeds, scores)
    chance = 1 / subject.scenes.data.colours
    return {"corpora": {}, "seeds": seeds, "ratios": config.ratios, "chance": chance, "arms": arms}


def scales(config: Config, logits: Array) -> dict[str, float]:
    """The largest ratio less the smallest, of the base ratio; mean over scenes of the logits' thumbnails."""
    across, found = config.subject.across, {}
    probabilities = jax.nn.softmax(logits.reshape(len(logits), -1)).reshape(logits.shape)
    for name, scores, temperature in (
        ("probabilities, paper's temperature", probabilities, TEXT_TEMPERATURE),
        ("logits, paper's temperature", logits, TEXT_TEMPERATURE),
        ("logits, our temperature", logits, config.guidance.temperature),
    ):
        sums = jax.vmap(lambda one: region_scores(one, across, across))(scores)
        ratios = jax.vmap(lambda one, t=temperature: crop_ratios(one, JUDGED, t))(sums)
        found[name] = round(float(jnp.mean(jnp.ptp(ratios, axis=1)) / JUDGED), 4)
    return found


def claims(results: dict[str, Any]) -> list[Claim]:
    """Differences are of the same scenes, seed by seed."""
    arms, place = Arms(results), list(results["ratios"]).index(JUDGED)

    def ahead(one: str, other: str, kind: str = "crowded", what: str = "accuracy") -> np.ndarray:
        return arms[one, f"{kind} {what}"][:, place] - arms[other, f"{kind} {what}"][:, place]

    def scored(*names: str) -> dict[str, np.ndarray]:
        return {name: arms["scores", name] for name in names}

    at, unit = f"at {JUDGED:.0%} of the tokens", "difference of accuracy"
    orders = {
        f"{method}, {order}": rule
        for method, rule in (("FastV", above(0.2)), ("GlobalCom2", between(-0.1, 0.1)))
        for order in ("forward", "reversed")
    }
    spread = {"probabilities, paper's temperature": below(0.02), "logits, paper's temperature": above(0.02)}
    return [
        Claim(
            "model_reads_crops",
            "The model that all this rests on names colours with all its tokens.",
            OURS,
            {kind: arms["all", f"{kind} accuracy"] for kind in KINDS},
            above(0.9),
            "accuracy",
        ),
        Claim(
            "guidance_helps",
            f"Where all objects are in one crop, allotment and scores by the thumbnail beat equal shares and local scores {at}.",
            "liu2025globalcom2: abstract",
            {
                "both less uniform": ahead("both", "uniform"),
                "object patches": ahead("both", "uniform", what="kept"),
            },
            {"both less uniform": above(0.03)},
            unit,
            "91.6 against 89.9 (FasterVLM) at 10 %, mean of 10 benchmarks",
        ),
        Claim(
            "allocation_alone_helps",
            f"So does the allotment alone, with local scores in both, {at}.",
            ABLATION,
            {
                "adaptive less uniform": ahead("local", "uniform"),
                "true shares less uniform": ahead("truth", "uniform"),
            },
            {"adaptive less uniform": above(0)},
            unit,
            "1.4 points over uniform",
        ),
        Claim(
            "both_scores_beat_either",
            f"Scores of thumbnail and crop together choose better tokens than either alone {at}.",
            ABLATION,
            {other: ahead("both", other) for other in ("local", "global")},
            above(0),
            unit,
            "96.7 against 95.6 local, 94.7 global",
        ),
        Claim(
            "balanced_same",
            "Where every crop has as many objects there is nothing to gain.",
            OURS,
            {f"{arm} less uniform": ahead(arm, "uniform", "balanced") for arm in ("both", "local")},
            between(-0.03, 0.03),
            unit,
        ),
        Claim(
            "largest_object_misleads",
            "A commander whose CLS names the largest object only is a worse one.",
            OURS,
            {kind: ahead("both", "largest", kind) for kind in KINDS},
            above(0),
            unit,
        ),
        Claim(
            "late_crops_favoured",
            "FastV keeps more of later crops whatever they show, GlobalCom2 does not.",
            "liu2025globalcom2: diagnosis",
            scored(*orders),
            orders,
            "Spearman's correlation of tokens kept and slot, balanced scenes",
        ),
        Claim(
            "probabilities_switch_it_off",
            "With softmax probabilities at the paper's temperature the allotment is uniform; the released code sums logits.",
            "liu2025globalcom2: released code",
            scored(*spread, "logits, our temperature"),
            spread,
            "largest ratio less smallest, of the base ratio",
        ),
        Claim(
            "raster_order_not_worse",
            "The thumbnail's tokens may stay in their places, where the released code orders them by score.",
            "liu2025globalcom2: released code",
            {kind: ahead("both", "ranked", kind) for kind in KINDS},
            above(-0.01),
            unit,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy and object patches kept, by ratio, crowded beside balanced; correlations with the slot; what shares gain."""
    arms, ratios = Arms(results), results["ratios"]
    drawn, axes = panels(2, 3, width=3.9, height=3.0)
    with styled():
        for row, (what, label) in enumerate(
            (("accuracy", "accuracy, mean and range"), ("kept", "object patches kept"))
        ):
            for kind, panel in zip(KINDS, axes[3 * row :], strict=False):
                lines(panel, np.log(ratios), {name: arms[arm, f"{kind} {what}"] for arm, name in LABELS.items()})
                if what == "accuracy":
                    reference(panel, float(arms["all", f"{kind} accuracy"].mean()), "all tokens", BLACK)
                    reference(panel, results["chance"], "blind guess")
                panel.set_xticks(np.log(ratios), [f"{ratio:g}" for ratio in ratios])
                panel.set(title=f"{kind} scenes", xlabel="share of visual tokens kept", ylim=(0, 1.04))
            axes[3 * row].set_ylabel(label)
        found = {
            name: arms["scores", name] for m in ("FastV", "GlobalCom2") for name in (f"{m}, forward", f"{m}, reversed")
        }
        dots(axes[2], found)
        axes[2].set(title="tokens kept and slot", xlabel="Spearman's correlation")
        uniform = arms["uniform", "crowded accuracy"]
        gained = {
            name: None if arm in ("random", "uniform") else arms[arm, "crowded accuracy"] - uniform
            for arm, name in LABELS.items()
        }
        lines(axes[5], np.log(ratios), gained)
        axes[5].axhline(0, color=BLACK, linewidth=0.8)
        axes[5].set_xticks(np.log(ratios), [f"{ratio:g}" for ratio in ratios])
        axes[5].set(title="gained over uniform + local, crowded", xlabel="share of visual tokens kept")
        drawn.legend(*axes[4].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return drawn
