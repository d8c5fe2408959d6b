"""Fine-tuning with token reduction on closes the gap to the unreduced model; a ratio per layer against a fixed number at equal FLOPs.

Tran et al. 2024 (arXiv 2405.16148), retrained image classification and the ablation of schedules; method card token-merging, small
reproduction 3. The trained glyph models of `merging/off_the_shelf` go on for some steps with a method on; the control is the unreduced
model with the same steps. The fixed schedule removes as many tokens in every layer, or one more in the last ones, whichever matches
the FLOPs of the ratio best.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.style import BLUE, GREY, VERMILION, panels, styled
from experiments.harness.training import Params, Training, stacked, train
from experiments.harness.workspace import Workspace
from experiments.merging.methods import NAMES
from experiments.merging.methods import PAPER as PAPER
from experiments.merging.reduced_vision import BATCH, Bench, cost, reduced
from experiments.subjects.glyph_classifiers import (
    DEIT_S,
    GLYPHS,
    SEEDS,
    VisionSubject,
    held_out,
    make_loss,
    one_seed,
    tiny,
    vision_models,
)
from lexinv.data.glyphs import GlyphConfig
from lexinv.merging.schedules import clip_schedule, token_counts
from lexinv.nn.vision_transformer import VisionConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import choose, require

SOURCE = "Tran et al. 2024, retrained image classification"
CARD = "method card token-merging"


FINETUNING = Training(
    400, 32, SEEDS, OptimizerConfig("muon", learning_rate=2e-3, warmup_steps=25), steps_per_dispatch=10
)


@dataclass(frozen=True)
class Config:
    """scheduled: methods that are also run with a fixed number of tokens per layer. ratio: of the patches, left after every layer.

    finetuning: of every method and of the control. images: to judge on, per seed.
    """

    glyphs: VisionSubject = GLYPHS
    methods: tuple[str, ...] = ("tome", "pitome", "tofu", "dct", "diffrate", "prune_cls", "prune_random")
    scheduled: tuple[str, ...] = ("tome", "pitome")
    ratio: float = 0.8
    finetuning: Training = FINETUNING
    images: int = 1920

    def __post_init__(self):
        for name in self.methods:
            choose("methods", name, tuple(NAMES))
        require({"tome", "pitome"} <= set(self.methods), "methods", self.methods, "tome and pitome among them")
        some = len(self.scheduled) > 0 and set(self.scheduled) <= set(self.methods)
        require(some, "scheduled", self.scheduled, f"some of {self.methods}")
        require(0 < self.ratio < 1, "ratio", self.ratio, "between 0 and 1")
        same = self.finetuning.seeds == self.glyphs.training.seeds
        require(same, "finetuning.seeds", self.finetuning.seeds, f"those of the models, {self.glyphs.training.seeds}")
        whole = self.images > 0 and self.images % BATCH == 0
        require(whole, "images", self.images, f"a positive multiple of {BATCH}")


SMALLEST = tiny(GLYPHS)
PRESETS = {
    "smoke": Config(
        glyphs=SMALLEST, methods=("tome", "pitome"), scheduled=("tome",), finetuning=SMALLEST.training, images=64
    ),
    "quick": Config(
        glyphs=one_seed(GLYPHS),
        methods=("tome", "pitome", "prune_random"),
        scheduled=("tome",),
        finetuning=replace(FINETUNING, seeds=(0,)),
    ),
    "cpu": Config(),
    "paper": Config(
        glyphs=replace(
            GLYPHS,
            glyphs=GlyphConfig(size=224, patch=16, classes=17),
            model=VisionConfig(size=224, patch=16, classes=17, layers=DEIT_S),
            training=replace(GLYPHS.training, steps=20000, batch_size=256),
        ),
        ratio=0.9,
        finetuning=Training(
            10000, 64, SEEDS, OptimizerConfig("muon", learning_rate=2e-3, warmup_steps=500), steps_per_dispatch=10
        ),
        images=9984,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Accuracy of every seed before and after fine-tuning, by method; with the fixed schedule too for some."""
    models = vision_models(config.glyphs, workspace)
    images = [held_out(config.glyphs, seed, config.images) for seed in config.finetuning.seeds]
    model = config.glyphs.model
    bench = Bench(model, models.params, images)
    by_ratio = bench.schedule(config.ratio)
    fixed = fixed_schedule(model, cost(model, by_ratio))
    subject = replace(config.glyphs, training=config.finetuning)

    def tuned(name: str, apply: Callable[..., jax.Array] | None) -> list[Params]:
        start, loss = stacked(models.params), make_loss(subject, apply)
        return train(name, start, loss, None, config.finetuning, workspace, tokens=model.tokens)

    def control() -> dict[str, list[float]]:
        after = replace(bench, params=tuned("unreduced", None))
        return {"before": bench.accuracies(bench.plain), "after": after.accuracies(after.plain)}

    def measured(method: str, schedule: tuple[int, ...], name: str) -> dict[str, list[float]]:
        inner, forward = reduced(model, method, schedule), bench.forward(method, schedule)
        params = tuned(name, lambda params, pixels, key: inner(params, pixels, key)[0])
        return {"before": bench.accuracies(forward), "after": replace(bench, params=params).accuracies(forward)}

    def stage(method: str, schedule: tuple[int, ...], name: str) -> dict[str, list[float]]:
        return workspace.cached(name, partial(measured, method, schedule, name))

    return {
        "corpora": {},
        "seeds": list(config.finetuning.seeds),
        "arms": {"glyphs": models.origin},
        "ratio": config.ratio,
        "schedules": {
            name: {"tokens": list(token_counts(model.tokens, removed)), "flops": round(cost(model, removed), 4)}
            for name, removed in (("ratio", by_ratio), ("fixed", fixed))
        },
        "unreduced": workspace.cached("unreduced", control),
        "methods": {method: stage(method, by_ratio, method) for method in config.methods},
        "fixed": {method: stage(method, fixed, f"{method}-fixed") for method in config.scheduled},
    }


def fixed_schedule(model: VisionConfig, goal: float) -> tuple[int, ...]:
    """The schedule of one number per layer, or one more in the last ones, whose FLOPs are nearest to `goal` (relative to unreduced)."""
    depth, patches = model.layers.depth, model.patches
    found = (
        clip_schedule([least] * (depth - more) + [least + 1] * more, model.tokens, model.protected)
        for least in range(patches // 2)
        for more in range(depth)
    )
    return min(found, key=lambda schedule: abs(cost(model, schedule) - goal))


def gaps(results: dict[str, Any], when: str, method: str) -> np.ndarray:
    """[seeds]: accuracy that the method lacks to the unreduced model with the same training."""
    return np.array(results["unreduced"][when]) - np.array(results["methods"][method][when])


def claims(results: dict[str, Any]) -> list[Claim]:
    """What fine-tuning closes of the gap, PiToMe against ToMe after it, and the schedules."""
    shrinks = {
        method: interval(gaps(results, "before", method) - gaps(results, "after", method))
        for method in results["methods"]
    }
    small = {  # nothing to close
        method: every(below(interval(gaps(results, when, method)), 0.01) for when in ("before", "after"))
        for method in results["methods"]
    }
    closed = {method: True if small[method] else above(value, 0.0) for method, value in shrinks.items()}
    left = {"pitome": interval(gaps(results, "after", "pitome"))}
    tome, pitome = (np.array(results["methods"][name]["after"]) for name in ("tome", "pitome"))
    over_tome = interval(pitome - tome)
    better = {
        when: {
            name: interval(np.array(results["methods"][name][when]) - np.array(results["fixed"][name][when]))
            for name in results["fixed"]
        }
        for when in ("before", "after")
    }
    flops = {name: schedule["flops"] for name, schedule in results["schedules"].items()}
    mismatch = abs(flops["fixed"] / flops["ratio"] - 1)
    where = f"(ratio {results['ratio']}, FLOPs {flops['ratio']})"
    return [
        Claim(
            "gap_shrinks",
            f"Fine-tuning with reduction on brings every method nearer to the unreduced model {where} (measured: gap before less gap "
            "after, the unreduced model having had the same steps).",
            SOURCE,
            "DeiT-S: ToMe 77.7 to 79.4, ToFu 77.8 to 79.6, DCT 74.8 to 78.6, DiffRate 76.8 to 79.5, PiToMe 79.1 to 79.8 %",
            shrinks,
            "every whole interval above 0, but for methods whose gaps before and after both have their whole intervals below 0.01",
            every(closed.values()),
        ),
        Claim(
            "pitome_recovers",
            f"Retrained, PiToMe is within a point of the unreduced model {where} (measured: gap after).",
            SOURCE,
            "DeiT-S 79.8 of 79.8 %, DeiT-T 71.6 of 72.3 %",
            left,
            "whole interval below 0.01",
            every(below(value, 0.01) for value in left.values()),
        ),
        Claim(
            "pitome_retrained_not_below_tome",
            f"Retrained, PiToMe is no worse than ToMe {where} (measured: gain in accuracy).",
            SOURCE,
            "above: DeiT-S 79.8 against 79.4, DeiT-T 71.6 against 70.0 %",
            over_tome,
            "whole interval above -0.005",
            above(over_tome, -0.005),
        ),
        *[
            Claim(
                name,
                f"{what}, a ratio of the tokens per layer is better than a fixed number at equal FLOPs (measured: gain in accuracy; "
                f"tokens {results['schedules']['ratio']['tokens']} and {results['schedules']['fixed']['tokens']}).",
                "Tran et al. 2024, ablation of schedules",
                "better, for PiToMe and for ToMe",
                better[when] | {"mismatch of FLOPs": round(mismatch, 4)},
                "every whole interval above 0, FLOPs within 2 %",
                every([*(above(value, 0.0) for value in better[when].values()), mismatch <= 0.02]),
            )
            for name, what, when in (
                ("ratio_beats_fixed", "Off the shelf", "before"),
                ("ratio_beats_fixed_retrained", "Retrained", "after"),
            )
        ],
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy of every method before and after fine-tuning, and of the two schedules."""
    drawn, axes = panels(1, 2, width=5.0, height=4.0)
    with styled():
        rows = {"unreduced": results["unreduced"], **results["methods"]}
        bars(axes[0], {name if name == "unreduced" else NAMES[name][0]: runs for name, runs in rows.items()})
        axes[0].set_title(f"ratio {results['ratio']}, FLOPs {results['schedules']['ratio']['flops']:.2f} of unreduced")
        pairs = {
            f"{NAMES[name][0]}, {schedule}": runs[name]
            for name in results["fixed"]
            for schedule, runs in (("ratio", results["methods"]), ("fixed number", results["fixed"]))
        }
        bars(axes[1], pairs)
        axes[1].set_title("ratio or fixed number, equal FLOPs")
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return drawn


def bars(axes: Any, rows: dict[str, dict[str, list[float]]]) -> None:
    """Horizontal pairs with 95 % intervals and the single seeds as dots."""
    for place, runs in enumerate(rows.values()):
        for shift, (when, color) in enumerate((("before", VERMILION), ("after", BLUE))):
            found, y = interval(runs[when]), place + 0.18 * (2 * shift - 1)
            label = {"before": "off the shelf", "after": "fine-tuned"}[when] if place == 0 else None
            axes.barh(y, found.mean, height=0.34, color=color, label=label)
            axes.plot(runs[when], [y] * len(runs[when]), "o", color=GREY, markersize=2.5)
            if found.low is not None and found.high is not None:
                axes.plot([found.low, min(found.high, 1.05)], [y, y], color="black", linewidth=0.9)
    axes.set(yticks=range(len(rows)), yticklabels=list(rows), xlabel="accuracy", xlim=(0, 1.05))
    axes.invert_yaxis()
