"""Token reduction with training: fine-tuning closes the gap to the unreduced model, and DiffRate learns how many tokens each layer keeps.

Retrained image classification and the ablation of schedules (Tran et al. 2024), and learned rates (Chen et al. 2023); method card
token-merging, small reproduction 3. Small Vision Transformers, trained until more training gains nothing, read digits in fonts and on
photographs that they have not seen. Fine-tuned: the models go on for some steps with a method on; the control is the unreduced model with
the same steps. At equal FLOPs with a ratio per layer stands a fixed number of tokens per layer. Learned: with the model frozen, logits over
the numbers of patches that may stay, for every layer but the first (`lexinv.merging.rates`; one rate, not one of pruning and one of
merging), trained on the cross-entropy and penalty (FLOPs - target)^2, FLOPs relative to the unreduced model. The numbers that come out are
judged with tokens really removed, pruned or merged, against both schedules by hand at each seed's FLOPs. CLS alone is read after the last
attention, so that learned rates may drop all but one patch before the last MLP.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.figures import dots
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, ORANGE, VERMILION, band, panels, styled
from experiments.harness.training import Training, stacked, train
from experiments.harness.verdicts import OURS, Claim, Rule, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.font_characters import (
    CHARACTERS,
    FULL_SIZE,
    SEEDS,
    CharacterSubject,
    batches,
    character_models,
    corpora,
    held_out,
    make_loss,
    tiny,
)
from experiments.subjects.reduced_vision import (
    BATCH,
    LABELS,
    Schedule,
    Subjects,
    accuracy_of,
    at_flops,
    flops,
    forward,
    learned_rates,
    schedule_of,
)
from lexinv.merging.schedules import even_schedules, token_counts
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Fraction, Fractions, Positive, some_of

PAPERS = ("tran2024accelerating", "chen2023diffrate")
TABLE = "tran2024accelerating: ImageNet table, retrained"
SCHEDULED = ("tome", "pitome")
"""Methods that are also run with a fixed number of tokens per layer."""
REMOVED = {"prune_cls": "pruned", "diffrate": "merged"}
"""What becomes of the tokens that CLS looks at least, where rates are learned."""
SCHEDULES = {"learned": ("learned rates", BLUE), "ratio": ("ratio", VERMILION), "fixed": ("fixed number", ORANGE)}
ACCURACY = "accuracy; seeds, mean, 95 % interval"
TOLERANCE = 0.02
"""Of FLOPs: absolute from the target, relative between arms."""
Methods = Annotated[tuple[str, ...], some_of(LABELS)]


@dataclass(frozen=True)
class Config(Checked):
    """ratio: of the patches, left after every layer. finetuning: of every method and of the control. images: to judge on, per seed.

    targets: FLOPs relative to the unreduced model. penalty: the factor of the squared distance from the target in the loss. learning: of
    rates; the paper's learning rate falls from 0.01 to 0.001 over 3 epochs of ImageNet, in few steps it is ten times as large.
    """

    characters: CharacterSubject = CHARACTERS
    methods: Methods = ("tome", "pitome", "tofu", "dct", "diffrate", "prune_random")
    ratio: Fraction = 0.6
    finetuning: Training = Training(
        100, 32, SEEDS, OptimizerConfig("muon", learning_rate=3e-3, warmup_steps=10), steps_per_dispatch=10
    )
    targets: Fractions = (0.7, 0.5)
    penalty: Positive = 100.0
    learning: Training = Training(
        150, 32, SEEDS, OptimizerConfig(learning_rate=0.1, warmup_steps=0), steps_per_dispatch=10
    )
    images: Count = 960

    def checks(self):
        yield set(SCHEDULED) <= set(self.methods), "methods", f"{' and '.join(SCHEDULED)} among them"
        model, seeds = self.characters.model, self.characters.training.seeds
        cls = model.pool == "cls" and model.layers.depth > 1
        yield cls, "characters.model", "two layers or more, and pool = 'cls': tokens are ranked by what CLS looks at"
        for name in ("finetuning", "learning"):
            yield getattr(self, name).seeds == seeds, f"{name}.seeds", f"those of the models, {seeds}"
        least = flops(model, (0, model.patches - 1, *[0] * (model.layers.depth - 2)))
        yield min(self.targets) > least, "targets", f"above {least:.2f}, with one patch left"
        yield self.images % BATCH == 0, "images", f"a multiple of {BATCH}"


PRESETS = presets(
    Config(),
    smoke={
        "characters": tiny(),
        "methods": SCHEDULED,
        "finetuning": tiny().training,
        "targets": (0.92,),
        "learning": tiny().training,
        "images": 64,
    },
    quick={
        **{f"{part}.seeds": SEEDS[:3] for part in ("characters.training", "finetuning", "learning")},
        "methods": (*SCHEDULED, "prune_random"),
        "targets": (0.5,),
    },
    paper={
        "characters": FULL_SIZE,
        "ratio": 0.9,
        "finetuning.steps": 10000,
        "finetuning.batch_size": 64,
        "finetuning.optimizer.warmup_steps": 500,
        "learning.steps": 3750,
        "learning.batch_size": 1024,
        "learning.optimizer.learning_rate": 0.01,
        "images": 9984,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Accuracy [seeds] before and after fine-tuning by method and `unreduced`, `-fixed` with the fixed schedule; the rates learned."""
    model, seeds = config.characters.model, config.finetuning.seeds
    images = [held_out(config.characters, seed, config.images) for seed in seeds]
    subjects = list(zip(character_models(config.characters, workspace), images, strict=True))
    by_ratio = schedule_of(model, config.ratio)
    fixed = at_flops(model, even_schedules, flops(model, by_ratio))
    runs: dict[str, tuple[str | None, Schedule]] = {"unreduced": (None, ())}
    runs |= {method: (method, by_ratio) for method in config.methods}
    runs |= {f"{method}-fixed": (method, fixed) for method in SCHEDULED}
    given = batches(config.characters, config.learning), config.learning, workspace
    learned = partial(learned_rates, model, subjects, tuple(REMOVED), config.penalty, *given)
    return {
        "corpora": workspace.pinned("images", corpora(config.characters)),
        "seeds": list(seeds),
        "ratio": config.ratio,
        "methods": list(config.methods),
        "schedules": {
            name: {"tokens": list(token_counts(model.tokens, removed)), "flops": round(flops(model, removed), 4)}
            for name, removed in (("ratio", by_ratio), ("fixed", fixed))
        },
        "arms": workspace.stages(
            "finetuned", runs, lambda name: finetuned(config, subjects, workspace, name, *runs[name])
        ),
        "targets": workspace.stages("learned", map(str, config.targets), lambda target: learned(float(target))),
    }


def finetuned(
    config: Config, subjects: Subjects, workspace: Workspace, name: str, method: str | None, schedule: Schedule
) -> dict[str, list[float]]:
    """Accuracies before and after further training with the method on."""
    model = config.characters.model
    loss = make_loss(lambda params, pixels, key: forward(params, pixels, key, model, method, schedule)[0])
    start, given = stacked([params for params, _ in subjects]), batches(config.characters, config.finetuning)
    tuned = train(name, start, loss, given, config.finetuning, workspace, tokens=model.tokens)
    judged = {"before": subjects, "after": [(own, images) for own, (_, images) in zip(tuned, subjects, strict=True)]}
    return {when: [accuracy_of(*own, model, method, schedule) for own in some] for when, some in judged.items()}


def claims(results: dict[str, Any]) -> list[Claim]:
    """What fine-tuning closes of the gap, PiToMe against ToMe after it, the schedules; learned counts against schedules by hand."""
    arms, schedules, targets = Arms(results), results["schedules"], results["targets"]
    cost = {name: schedule["flops"] for name, schedule in schedules.items()}
    where, wheres = f"(ratio {results['ratio']}, FLOPs {cost['ratio']})", f"(FLOPs {', '.join(targets)} of unreduced)"

    def gap(when: str, method: str) -> np.ndarray:
        return arms["unreduced", when] - arms[method, when]

    def better(when: str) -> dict[str, Any]:
        gained = {name: arms[name, when] - arms[f"{name}-fixed", when] for name in SCHEDULED}
        return gained | {"mismatch of FLOPs": round(abs(cost["fixed"] / cost["ratio"] - 1), 4)}

    def beats(method: str, over: str) -> tuple[dict[str, Any], dict[str, Rule]]:
        """Gains in accuracy by target, and how far the FLOPs are apart."""
        measured: dict[str, Any] = {}
        for target, found in targets.items():
            right, spent = found["accuracy"][method], found["flops"]
            measured[target] = np.array(right["learned"]) - np.array(right[over])
            measured[f"{target}, FLOPs"] = np.abs(np.array(spent[over]) / np.array(spent["learned"]) - 1)
        return measured, {n: below(TOLERANCE).every_seed if n.endswith("FLOPs") else above(0) for n in measured}

    return [
        Claim(
            "bases_converged",
            "The same steps gain less than a point where nothing is reduced: the models were trained to convergence.",
            OURS,
            {"unreduced": arms["unreduced", "after"] - arms["unreduced", "before"]},
            below(0.01),
            "gain in accuracy",
        ),
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
            {"pitome": gap("after", "pitome")},
            below(0.01),
            "gap after",
            "DeiT-S 79.8 of 79.8 %, DeiT-T 71.6 of 72.3 %",
        ),
        Claim(
            "pitome_retrained_not_below_tome",
            f"Retrained, PiToMe is no worse than ToMe {where}.",
            TABLE,
            {"pitome less tome": arms["pitome", "after"] - arms["tome", "after"]},
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
                dict.fromkeys(SCHEDULED, above(0)) | {"mismatch of FLOPs": below(TOLERANCE)},
                "gain in accuracy; FLOPs of one schedule over the other's, less 1",
                "better, for PiToMe and for ToMe",
            )
            for name, what, when in (
                ("ratio_beats_fixed", "Off the shelf", "before"),
                ("ratio_beats_fixed_retrained", "Retrained", "after"),
            )
        ],
        *[
            Claim(
                name,
                f"At equal FLOPs {wheres}, learned counts per layer are better than {what} per layer, tokens {said} by CLS attention.",
                "chen2023diffrate",
                *beats(method, over),
                "gain in accuracy; FLOPs over those of the learned counts, less 1",
            )
            for over, what in (("ratio", "a ratio"), ("fixed", "a fixed number"))
            for method, said in REMOVED.items()
            for name in (f"learned_rates_beat_{what[2:].replace(' ', '_')}{'_merging' * (said == 'merged')}",)
        ],
        Claim(
            "learned_rates_hit_the_target",
            f"The penalty brings the FLOPs of the learned counts to the target {wheres}.",
            "chen2023diffrate",
            {t: np.abs(np.array(found["flops"]["learned"]) - float(t)) for t, found in targets.items()},
            below(TOLERANCE),
            "distance of relative FLOPs from the target",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy before and after fine-tuning, by method and by schedule; of learned rates the tokens per layer and the accuracy."""
    arms, targets, when = Arms(results), results["targets"], {"before": "off the shelf", "after": "fine-tuned"}
    drawn, axes = panels(1 + len(targets), 2, width=5.4, height=3.6)
    cost, kinds = results["schedules"]["ratio"]["flops"], (("", "ratio"), ("-fixed", "fixed number"))
    groups = {
        f"ratio {results['ratio']}, FLOPs {cost:.2f} of unreduced": {
            name: LABELS.get(name, name) for name in ("unreduced", *results["methods"])
        },
        "ratio or fixed number, equal FLOPs": {
            f"{name}{end}": f"{LABELS[name]}, {kind}" for name in SCHEDULED for end, kind in kinds
        },
    }
    with styled():
        for panel, (title, labels) in zip(axes, groups.items(), strict=False):
            dots(panel, {f"{label}, {said}": arms[arm, w] for arm, label in labels.items() for w, said in when.items()})
            panel.set(title=title, xlabel=ACCURACY)
        for row, (target, found) in enumerate(targets.items(), 1):
            tokens, right = axes[2 * row : 2 * row + 2]
            layers = range(len(found["tokens"]["learned"][0]))
            for name, (label, color) in SCHEDULES.items():
                band(tokens, layers, found["tokens"][name], label, color, marker="o", markersize=3)
            tokens.set(xlabel="layers passed", ylabel="tokens", title=f"tokens left at FLOPs {target}", xticks=layers)
            tokens.legend(fontsize=7)
            shown = {
                f"{label}, {said}": found["accuracy"][method][name]
                for method, said in REMOVED.items()
                for name, (label, _) in SCHEDULES.items()
            }
            dots(right, shown)
            right.axvline(float(arms["unreduced", "before"].mean()), color=BLACK, linewidth=0.8)
            right.set(title=f"accuracy at FLOPs {target}, line: unreduced", xlabel=ACCURACY)
    return drawn
