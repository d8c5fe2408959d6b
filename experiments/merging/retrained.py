"""Fine-tuning with token reduction on closes the gap to the unreduced model; a ratio per layer against a fixed number at equal FLOPs.

Retrained image classification and the ablation of schedules (Tran et al. 2024); method card token-merging, small reproduction 3. The
trained glyph models go on for some steps with a method on; the control is the unreduced model with the same
steps. The fixed schedule removes as many tokens in every layer, or one more in the last ones, whichever comes nearest to the ratio's FLOPs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.figures import dots
from experiments.harness.presets import presets
from experiments.harness.style import panels, styled
from experiments.harness.training import Params, Training, stacked, train
from experiments.harness.verdicts import Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.glyph_classifiers import (
    FULL_SIZE,
    GLYPHS,
    SEEDS,
    VisionSubject,
    held_out,
    make_loss,
    one_seed,
    tiny,
    vision_models,
)
from experiments.subjects.reduced_vision import (
    BATCH,
    LABELS,
    Schedule,
    accuracy_of,
    at_flops,
    flops,
    forward,
    schedule_of,
)
from lexinv.merging.schedules import even_schedules, token_counts
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Fraction, some_of

PAPERS = ("tran2024accelerating",)
TABLE = "tran2024accelerating: ImageNet table, retrained"
FINETUNING = Training(
    400, 32, SEEDS, OptimizerConfig("muon", learning_rate=2e-3, warmup_steps=25), steps_per_dispatch=10
)
Methods = Annotated[tuple[str, ...], some_of(LABELS)]


@dataclass(frozen=True)
class Config(Checked):
    """scheduled: methods that are also run with a fixed number of tokens per layer. ratio: of the patches, left after every layer.

    finetuning: of every method and of the control. images: to judge on, per seed.
    """

    glyphs: VisionSubject = GLYPHS
    methods: Methods = ("tome", "pitome_protect", "tofu", "dct", "diffrate", "prune_cls", "prune_random")
    scheduled: Methods = ("tome", "pitome_protect")
    ratio: Fraction = 0.8
    finetuning: Training = FINETUNING
    images: Count = 1920

    def checks(self):
        yield {"tome", "pitome_protect"} <= set(self.methods), "methods", "tome and pitome_protect among them"
        yield set(self.scheduled) <= set(self.methods), "scheduled", f"some of {self.methods}"
        seeds = self.glyphs.training.seeds
        yield self.finetuning.seeds == seeds, "finetuning.seeds", f"those of the models, {seeds}"
        yield self.images % BATCH == 0, "images", f"a multiple of {BATCH}"


PRESETS = presets(
    Config(),
    smoke={
        "glyphs": tiny(GLYPHS, depth=1),
        "methods": ("tome", "pitome_protect"),
        "scheduled": ("tome",),
        "finetuning": tiny(GLYPHS).training,
        "images": 64,
    },
    quick={
        "glyphs": one_seed(GLYPHS),
        "methods": ("tome", "pitome_protect", "prune_random"),
        "scheduled": ("tome",),
        "finetuning.seeds": (0,),
    },
    paper={
        "glyphs": FULL_SIZE,
        "ratio": 0.9,
        "finetuning.steps": 10000,
        "finetuning.batch_size": 64,
        "finetuning.optimizer.warmup_steps": 500,
        "images": 9984,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By method, `unreduced` among them, the accuracy [seeds] before and after fine-tuning; `-fixed` with the fixed schedule."""
    models = list(vision_models(config.glyphs, workspace).values())
    images = [held_out(config.glyphs, seed, config.images) for seed in config.finetuning.seeds]
    model, subject = config.glyphs.model, replace(config.glyphs, training=config.finetuning)
    by_ratio = schedule_of(model, config.ratio)
    fixed = at_flops(model, even_schedules, flops(model, by_ratio))

    def measured(name: str, method: str | None, schedule: Schedule) -> dict[str, list[float]]:
        def apply(params: Params, pixels: jax.Array, key: jax.Array) -> jax.Array:
            return forward(params, pixels, key, model, method, schedule)[0]

        def accuracies(trained: list[Params]) -> list[float]:
            pairs = zip(trained, images, strict=True)
            return [accuracy_of(params, own, model, method, schedule) for params, own in pairs]

        loss: Callable[..., Any] = make_loss(subject, None if method is None else apply)
        start = stacked(models)
        tuned = train(name, start, loss, None, config.finetuning, workspace, tokens=model.tokens)
        return {"before": accuracies(models), "after": accuracies(tuned)}

    runs: dict[str, tuple[str | None, Schedule]] = {"unreduced": (None, ())}
    runs |= {method: (method, by_ratio) for method in config.methods}
    runs |= {f"{method}-fixed": (method, fixed) for method in config.scheduled}
    arms = {name: workspace.cached(name, partial(measured, name, *chosen)) for name, chosen in runs.items()}
    return {
        "corpora": {},
        "seeds": list(config.finetuning.seeds),
        "ratio": config.ratio,
        "methods": list(config.methods),
        "scheduled": list(config.scheduled),
        "schedules": {
            name: {"tokens": list(token_counts(model.tokens, removed)), "flops": round(flops(model, removed), 4)}
            for name, removed in (("ratio", by_ratio), ("fixed", fixed))
        },
        "arms": arms,
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """What fine-tuning closes of the gap, PiToMe against ToMe after it, and the schedules."""
    arms, schedules = Arms(results), results["schedules"]
    cost = {name: schedule["flops"] for name, schedule in schedules.items()}
    where = f"(ratio {results['ratio']}, FLOPs {cost['ratio']})"

    def gap(when: str, method: str) -> np.ndarray:
        return arms["unreduced", when] - arms[method, when]

    def better(when: str) -> dict[str, Any]:
        gained = {name: arms[name, when] - arms[f"{name}-fixed", when] for name in results["scheduled"]}
        return gained | {"mismatch of FLOPs": round(abs(cost["fixed"] / cost["ratio"] - 1), 4)}

    rules = dict.fromkeys(results["scheduled"], above(0)) | {"mismatch of FLOPs": below(0.02)}
    return [
        Claim(
            "gap_shrinks",
            f"Fine-tuning with reduction on brings every method nearer to the unreduced model with the same steps {where}.",
            TABLE,
            {method: gap("before", method) - gap("after", method) for method in results["methods"]},
            above(0),
            "gap before less gap after",
            "DeiT-S: ToMe 77.7 to 79.4, ToFu 77.8 to 79.6, DCT 74.8 to 78.6, DiffRate 76.8 to 79.5, PiToMe 79.1 to 79.8 %",
        ),
        Claim(
            "pitome_recovers",
            f"Retrained, PiToMe is within a point of the unreduced model {where}.",
            TABLE,
            {"pitome": gap("after", "pitome_protect")},
            below(0.01),
            "gap after",
            "DeiT-S 79.8 of 79.8 %, DeiT-T 71.6 of 72.3 %",
        ),
        Claim(
            "pitome_retrained_not_below_tome",
            f"Retrained, PiToMe is no worse than ToMe {where}.",
            TABLE,
            {"pitome less tome": arms["pitome_protect", "after"] - arms["tome", "after"]},
            above(-0.005),
            "gain in accuracy",
            "above: DeiT-S 79.8 against 79.4, DeiT-T 71.6 against 70.0 %",
        ),
        *[
            Claim(
                name,
                f"{what}, a ratio of the tokens per layer is better than a fixed number at equal FLOPs (tokens "
                f"{schedules['ratio']['tokens']} and {schedules['fixed']['tokens']}).",
                "tran2024accelerating: ablation of schedules",
                better(when),
                rules,
                "gain in accuracy; FLOPs of one schedule over the other's, less 1",
                "better, for PiToMe and for ToMe",
            )
            for name, what, when in (
                ("ratio_beats_fixed", "Off the shelf", "before"),
                ("ratio_beats_fixed_retrained", "Retrained", "after"),
            )
        ],
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy of every method before and after fine-tuning, and of the two schedules."""
    drawn, axes = panels(1, 2, width=5.4, height=4.4)
    arms, when = Arms(results), {"before": "off the shelf", "after": "fine-tuned"}
    groups = {
        f"ratio {results['ratio']}, FLOPs {results['schedules']['ratio']['flops']:.2f} of unreduced": {
            name: "unreduced" if name == "unreduced" else LABELS[name] for name in ("unreduced", *results["methods"])
        },
        "ratio or fixed number, equal FLOPs": {
            f"{name}{suffix}": f"{LABELS[name]}, {schedule}"
            for name in results["scheduled"]
            for suffix, schedule in (("", "ratio"), ("-fixed", "fixed number"))
        },
    }
    with styled():
        for panel, (title, labels) in zip(axes, groups.items(), strict=True):
            dots(panel, {f"{label}, {said}": arms[arm, w] for arm, label in labels.items() for w, said in when.items()})
            panel.set(title=title, xlabel="accuracy; seeds, mean, 95 % interval")
    return drawn
