"""How many tokens each layer keeps, learned at given FLOPs with the model frozen: DiffRate against schedules by hand and thresholds.

Learned are, for every layer but the first, logits over the numbers of patches that may stay (`lexinv.merging.rates`; here one rate, not
one of pruning and one of merging); the loss is the cross-entropy and penalty (FLOPs - target)^2, FLOPs relative to the unreduced model.
The numbers that come out are judged with tokens really removed, pruned or merged. Against them, at each seed's FLOPs: a ratio per layer, a
fixed number per layer, and one learned threshold per layer, whose count follows the image. CLS alone is read after the last attention, so
that learned rates may drop all but one patch before the last MLP, which no schedule by hand does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from experiments.harness.figures import dots
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, ORANGE, VERMILION, band, panels, styled
from experiments.harness.training import Params, Training, stacked, train
from experiments.harness.verdicts import OURS, Claim, Rule, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.glyph_classifiers import (
    FULL_SIZE,
    GLYPHS,
    SEEDS,
    VisionSubject,
    accuracy,
    draw,
    held_out,
    one_seed,
    tiny,
    vision_models,
)
from experiments.subjects.reduced_vision import BATCH, Schedule, accuracy_of, at_flops, flops
from lexinv.data.glyphs import Images
from lexinv.merging.costs import relative_flops
from lexinv.merging.rates import Mask, learned_counts, mask_by_rank, mask_by_threshold, masked_classify
from lexinv.merging.schedules import even_schedules, ratio_schedules, token_counts
from lexinv.nn.vision_transformer import VisionConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.step import LossFn
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Fractions, Positive

PAPERS = ("chen2023diffrate",)
METHODS = {"prune_cls": "pruned by CLS attention", "diffrate": "merged by CLS attention"}
"""What becomes of the tokens that a schedule removes."""
SCHEDULES = {"learned": ("learned rates", BLUE), "ratio": ("ratio", VERMILION), "fixed": ("fixed number", ORANGE)}
THRESHOLDS = ("learned thresholds", GREEN)
TOLERANCE = 0.02
"""Of FLOPs: absolute from the target, relative between arms."""


@dataclass(frozen=True)
class Config(Checked):
    """targets: FLOPs relative to the unreduced model. penalty: the factor of the squared distance from the target in the loss.

    learning: of rates and of thresholds. threshold: where all start, in nats of CLS attention over an even one; rates start with all
    numbers equally likely. temperature: of the thresholds' gradient, in nats. images: to judge on, per seed.
    The paper's learning rate falls from 0.01 to 0.001 over 3 epochs of ImageNet; in few steps it is ten times as large.
    """

    glyphs: VisionSubject = GLYPHS
    targets: Fractions = (0.7, 0.5)
    penalty: Positive = 100.0
    learning: Training = Training(
        150, 32, SEEDS, OptimizerConfig(learning_rate=0.1, warmup_steps=0), steps_per_dispatch=10
    )
    threshold: float = -1.0
    temperature: Positive = 0.3
    images: Count = 960

    def checks(self):
        model = self.glyphs.model
        cls = model.pool == "cls" and model.layers.depth > 1
        yield cls, "glyphs.model", "two layers or more, and pool = 'cls': tokens are ranked by what CLS looks at"
        least = flops(model, (0, model.patches - 1, *[0] * (model.layers.depth - 2)))
        yield min(self.targets) > least, "targets", f"above {least:.2f}, with one patch left"
        seeds = self.glyphs.training.seeds
        yield self.learning.seeds == seeds, "learning.seeds", f"those of the models, {seeds}"
        yield self.images % BATCH == 0, "images", f"a multiple of {BATCH}"


PRESETS = presets(
    Config(),
    smoke={
        "glyphs": tiny(GLYPHS),
        "targets": (0.92,),
        "learning.steps": 10,
        "learning.batch_size": 8,
        "learning.seeds": (0, 1),
        "images": 64,
    },
    quick={"glyphs": one_seed(GLYPHS), "targets": (0.5,), "learning.seeds": SEEDS[:1], "images": 640},
    paper={
        "glyphs": FULL_SIZE,
        "learning.steps": 3750,
        "learning.batch_size": 1024,
        "learning.optimizer.learning_rate": 0.01,
        "images": 9984,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By target: what each seed learned, and accuracy and FLOPs of every arm on held-out images."""
    models = vision_models(config.glyphs, workspace)
    subjects = [(params, held_out(config.glyphs, seed, config.images)) for seed, params in models.items()]
    unreduced = workspace.cached("unreduced", lambda: [accuracy_of(*own, config.glyphs.model) for own in subjects])
    found = {}
    for target in config.targets:
        rates = workspace.cached(f"rates-{target}", partial(judge_rates, config, subjects, target, workspace))
        judge = partial(judge_thresholds, config, subjects, target, rates["flops"]["learned"], workspace)
        found[str(target)] = {**rates, "thresholds": workspace.cached(f"thresholds-{target}", judge)}
    return {"corpora": {}, "seeds": list(config.learning.seeds), "unreduced": unreduced, "targets": found}


Subjects = Sequence[tuple[Params, Images]]
"""Model and held-out images of each seed."""


def masks_of(config: Config, learned: Array) -> list[Mask | None]:
    """Of all layers: by rank from logits [layers, candidates], by threshold from one number for each layer."""
    if learned.ndim == 2:
        return [None, *[mask_by_rank(own) for own in learned]]
    return [None, *[mask_by_threshold(own, config.temperature) for own in learned]]


def flops_left(model: VisionConfig, patches: Array) -> Array:
    """Relative FLOPs with so many patches left after each layer's attention, with their gradient."""
    counts = [model.tokens, *(patches + model.protected)]
    return jnp.asarray(relative_flops(counts, model.layers.width, model.layers.mlp_width))


def make_loss(config: Config, target: float) -> LossFn:
    """Cross-entropy in nats and the penalty on FLOPs of a batch drawn from the key; params {"learned", "frozen"}.

    FLOPs of rates follow from their counts, those of thresholds are a mean over the images of the batch.
    """
    model = config.glyphs.model

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        images = draw(config.glyphs, config.learning.batch_size, stream(key, "images"))
        learned, frozen = params["learned"], jax.lax.stop_gradient(params["frozen"])
        logits, kept = masked_classify(model, frozen, images.pixels, masks_of(config, learned))
        counts = learned_counts(learned)[None] if learned.ndim == 2 else kept
        spent = jnp.mean(jax.vmap(partial(flops_left, model))(counts))
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), images.labels[:, None], axis=1)
        missed = -jnp.mean(own)
        return missed + config.penalty * jnp.square(spent - target), {"cross_entropy": missed, "flops": spent}

    return loss


def learn(
    config: Config, subjects: Subjects, target: float, name: str, start: Array, workspace: Workspace
) -> list[Array]:
    """What each seed learned."""
    frozen = stacked([params for params, _ in subjects])
    params = {"learned": jnp.broadcast_to(start, (len(subjects), *start.shape)), "frozen": frozen}
    loss, tokens = make_loss(config, target), config.glyphs.model.tokens
    found = train(f"{name}-{target}", params, loss, None, config.learning, workspace, tokens=tokens)
    return [tree["learned"] for tree in found]


def judge_rates(config: Config, subjects: Subjects, target: float, workspace: Workspace) -> dict[str, Any]:
    """Learned counts as a schedule, and the schedules by hand at each seed's FLOPs: counts, FLOPs, accuracy by method."""
    model = config.glyphs.model
    start = jnp.zeros((model.layers.depth - 1, model.patches))
    schedules: dict[str, list[Schedule]] = {name: [] for name in SCHEDULES}
    for logits in learn(config, subjects, target, "rates", start, workspace):
        left = [model.patches, *[int(count) for count in jax.jit(learned_counts)(logits)]]
        schedules["learned"].append(tuple(before - after for before, after in pairwise(left)))
        goal = flops(model, schedules["learned"][-1])
        schedules["ratio"].append(at_flops(model, ratio_schedules, goal))
        schedules["fixed"].append(at_flops(model, even_schedules, goal))

    def accuracies(method: str, by_seed: Sequence[Schedule]) -> list[float]:
        return [accuracy_of(*own, model, method, schedule) for own, schedule in zip(subjects, by_seed, strict=True)]

    return {
        "tokens": {n: [list(token_counts(model.tokens, s)) for s in by_seed] for n, by_seed in schedules.items()},
        "flops": {n: [round(flops(model, s), 5) for s in by_seed] for n, by_seed in schedules.items()},
        "accuracy": {m: {n: accuracies(m, by_seed) for n, by_seed in schedules.items()} for m in METHODS},
    }


def judge_thresholds(
    config: Config, subjects: Subjects, target: float, goals: list[float], workspace: Workspace
) -> dict[str, Any]:
    """Of the masked model with each seed's thresholds: accuracy, mean FLOPs, mean tokens before the first layer and after each.

    goals: FLOPs of each seed, to which its thresholds are moved, all by as much, on the images to judge on (no label is
    needed). Where tokens are alike a threshold takes or leaves many at once, so that learning alone ends up to a tenth of the FLOPs off.
    """
    model = config.glyphs.model
    start = jnp.full(model.layers.depth - 1, config.threshold)
    learned = learn(config, subjects, target, "thresholds", start, workspace)

    @jax.jit
    def forward(params: Params, thresholds: Array, pixels: Array) -> tuple[Array, Array, Array]:
        logits, kept = masked_classify(model, params, pixels, masks_of(config, thresholds))
        return logits, jax.vmap(partial(flops_left, model))(kept), kept

    def measure(params: Params, thresholds: Array, pixels: Array) -> list[np.ndarray]:
        parts = [forward(params, thresholds, pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def moved(params: Params, thresholds: Array, images: Images, goal: float) -> Array:
        low, high = -1.0, 1.0
        for _ in range(11):
            middle = (low + high) / 2
            dear = measure(params, thresholds + middle, images.pixels)[1].mean() > goal
            low, high = (middle, high) if dear else (low, middle)
        return thresholds + (low + high) / 2

    rows = []
    for (params, images), own, goal in zip(subjects, learned, goals, strict=True):
        thresholds = moved(params, own, images, goal)
        logits, spent, kept = measure(params, thresholds, images.pixels)
        rows.append(
            {
                "accuracy": round(accuracy(jnp.asarray(logits), images.labels), 5),
                "flops": round(float(spent.mean()), 5),
                "tokens": np.round([model.tokens, *(kept.mean(0) + model.protected)], 2).tolist(),
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def claims(results: dict[str, Any]) -> list[Claim]:
    """Learned counts against schedules by hand at equal FLOPs, pruned and merged; their FLOPs; thresholds."""
    targets: dict[str, Any] = results["targets"]
    where = f"(FLOPs {', '.join(targets)} of unreduced)"

    def beats(method: str, over: str) -> tuple[dict[str, Any], dict[str, Rule]]:
        """Gains in accuracy by target, and how far the FLOPs are apart."""
        measured: dict[str, Any] = {}
        for target, found in targets.items():
            right, spent = found["accuracy"][method], found["flops"]
            measured[target] = np.array(right["learned"]) - np.array(right[over])
            measured[f"{target}, FLOPs"] = np.abs(np.array(spent[over]) / np.array(spent["learned"]) - 1)
        return measured, {n: below(TOLERANCE).every_seed if n.endswith("FLOPs") else above(0) for n in measured}

    thresholds: dict[str, Any] = {}
    for target, found in targets.items():
        other = found["thresholds"]
        thresholds[target] = np.array(found["accuracy"]["prune_cls"]["learned"]) - np.array(other["accuracy"])
        thresholds[f"{target}, FLOPs"] = np.array(found["flops"]["learned"]) / np.array(other["flops"]) - 1
    return [
        *[
            Claim(
                name,
                f"At equal FLOPs {where}, learned counts per layer are better than {what} per layer, tokens {METHODS[method]}.",
                "chen2023diffrate",
                *beats(method, over),
                "gain in accuracy; FLOPs over those of the learned counts, less 1",
            )
            for name, what, over, method in (
                ("learned_rates_beat_ratio", "a ratio", "ratio", "prune_cls"),
                ("learned_rates_beat_ratio_merging", "a ratio", "ratio", "diffrate"),
                ("learned_rates_beat_fixed_number", "a fixed number", "fixed", "prune_cls"),
                ("learned_rates_beat_fixed_number_merging", "a fixed number", "fixed", "diffrate"),
            )
        ],
        Claim(
            "learned_rates_hit_the_target",
            f"The penalty brings the FLOPs of the learned counts to the target {where}.",
            "chen2023diffrate",
            {t: np.abs(np.array(found["flops"]["learned"]) - float(t)) for t, found in targets.items()},
            below(TOLERANCE),
            "distance of relative FLOPs from the target",
        ),
        Claim(
            "learned_rates_not_below_thresholds",
            f"Learned counts, the same for every image, lose nothing to learned thresholds, whose counts follow the image {where}.",
            OURS,
            thresholds,
            {n: below(TOLERANCE).every_seed if n.endswith("FLOPs") else above(-0.01) for n in thresholds},
            "gain in accuracy, pruned by CLS attention; FLOPs over those of the thresholds, less 1",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """For each target tokens per layer, and accuracy of every seed, pruned and merged; lines: unreduced."""
    targets, unreduced = results["targets"], float(np.mean(results["unreduced"]))
    drawn, axes = panels(len(targets), 3, width=4.4, height=3.0)
    with styled():
        for row, (target, found) in enumerate(targets.items()):
            tokens, *accuracies = axes[3 * row : 3 * row + 3]
            arms = {name: found["tokens"][name] for name in SCHEDULES} | {"thresholds": found["thresholds"]["tokens"]}
            for name, counts in arms.items():
                label, color = SCHEDULES.get(name, THRESHOLDS)
                band(tokens, range(len(counts[0])), counts, label, color, marker="o", markersize=3)
            tokens.set(xlabel="layers passed", ylabel="tokens", title=f"FLOPs {target}: tokens left")
            tokens.legend(fontsize=7)
            for panel, (method, title) in zip(accuracies, METHODS.items(), strict=True):
                right = {label: found["accuracy"][method][name] for name, (label, _) in SCHEDULES.items()}
                if method == "prune_cls":
                    right[THRESHOLDS[0]] = found["thresholds"]["accuracy"]
                dots(panel, right)
                panel.axvline(unreduced, color=BLACK, linewidth=0.8)
                panel.set(title=title, xlabel="accuracy")
    return drawn
