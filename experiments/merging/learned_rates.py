"""How many tokens each layer keeps, learned at given FLOPs with the model frozen: DiffRate against schedules by hand and thresholds.

Chen et al. 2023 (DiffRate, arXiv 2305.17997), method card token-merging, section DiffRate. The trained glyph models of
`merging/off_the_shelf` are frozen. Learned are, for every layer but the first, logits over the numbers of patches that may stay; in
training a mask with straight-through gradient stands for removal (`learned_rates_model`), and the loss is the cross-entropy and
penalty (FLOPs - target)^2, FLOPs relative to the unreduced model. The numbers that come out are a static schedule, judged with tokens
really removed: pruned, which is what the mask does, and merged (DiffRate's merging of the same tokens). Against it: a ratio per layer and a
fixed number per layer at each seed's learned FLOPs, and one learned threshold per layer, whose count follows the image (at the same FLOPs).

DiffRate learns a rate of pruning and one of merging per block; here is one rate. CLS alone is read after the last attention, so that
learned rates may drop all but one patch before the last MLP, which no schedule by hand does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.style import BLUE, GREEN, ORANGE, VERMILION, band, panels, reference, styled
from experiments.harness.training import Params, Training, stacked, train
from experiments.harness.workspace import Workspace
from experiments.merging.learned_rates_model import (
    Mask,
    flops_share,
    learned_counts,
    mask_by_rank,
    mask_by_threshold,
    masked_classify,
)
from experiments.merging.methods import NAMES
from experiments.merging.reduced_vision import BATCH, Bench, Forward, cost
from experiments.merging.retrained import fixed_schedule
from experiments.subjects.glyph_classifiers import (
    DEIT_S,
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
from lexinv.data.glyphs import GlyphConfig, Images
from lexinv.merging.schedules import token_counts
from lexinv.nn.vision_transformer import VisionConfig
from lexinv.training.metrics import read_metrics
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.step import LossFn
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = """@inproceedings{chen2023diffrate,
  title = {{DiffRate}: Differentiable Compression Rate for Efficient Vision Transformers},
  author = {Chen, Mengzhao and Shao, Wenqi and Xu, Peng and Lin, Mingbao and Zhang, Kaipeng and Chao, Fei and Ji, Rongrong and
    Qiao, Yu and Luo, Ping},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2023},
  eprint = {2305.17997},
  archiveprefix = {arXiv}
}"""

SOURCE = "Chen et al. 2023, DiffRate"
METHODS = ("prune_cls", "diffrate")
"""What becomes of the tokens that a schedule removes."""
SCHEDULES = {"learned": ("learned rates", BLUE), "ratio": ("ratio", VERMILION), "fixed": ("fixed number", ORANGE)}
THRESHOLDS = ("learned thresholds", GREEN)
TOLERANCE = 0.02
"""Of FLOPs: absolute from the target, relative between arms."""
POINTS = 50
"""Of a training's course in results."""


@dataclass(frozen=True)
class Config:
    """targets: FLOPs relative to the unreduced model. penalty: the factor of the squared distance from the target in the loss.

    learning: of rates and of thresholds. threshold: where all start, in nats of CLS attention over an even one; rates start with all
    numbers equally likely. temperature: of the thresholds' gradient, in nats. images: to judge on, per seed.
    The paper's learning rate falls from 0.01 to 0.001 over 3 epochs of ImageNet; in few steps it is ten times as large.
    """

    glyphs: VisionSubject = GLYPHS
    targets: tuple[float, ...] = (0.7, 0.5)
    penalty: float = 100.0
    learning: Training = Training(
        150,
        batch_size=32,
        seeds=SEEDS,
        optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=0),
        steps_per_dispatch=10,
    )
    threshold: float = -1.0
    temperature: float = 0.3
    images: int = 960

    def __post_init__(self):
        model = self.glyphs.model
        cls = model.pool == "cls" and model.layers.depth > 1
        require(
            cls,
            "glyphs.model",
            model.pool,
            "two layers or more, and pool = 'cls': tokens are ranked by what CLS looks at",
        )
        once = 0 < len(set(self.targets)) == len(self.targets)
        require(once, "targets", self.targets, "at least one, each once")
        least = cost(model, (0, model.patches - 1, *[0] * (model.layers.depth - 2)))
        for target in self.targets:
            require(least < target < 1, "targets", target, f"above {least:.2f}, with one patch left, and below 1")
        for field in ("penalty", "temperature"):
            require(getattr(self, field) > 0, field, getattr(self, field), "a positive number")
        same = self.learning.seeds == self.glyphs.training.seeds
        require(same, "learning.seeds", self.learning.seeds, f"those of the models, {self.glyphs.training.seeds}")
        whole = self.images > 0 and self.images % BATCH == 0
        require(whole, "images", self.images, f"a positive multiple of {BATCH}")


SMALLEST = tiny(GLYPHS)
PRESETS = {
    "smoke": Config(
        glyphs=SMALLEST,
        targets=(0.92,),
        learning=replace(Config().learning, steps=10, batch_size=8, seeds=(0, 1)),
        images=64,
    ),
    "quick": Config(
        glyphs=one_seed(GLYPHS), targets=(0.5,), learning=replace(Config().learning, seeds=SEEDS[:1]), images=640
    ),
    "cpu": Config(),
    "paper": Config(
        glyphs=replace(
            GLYPHS,
            glyphs=GlyphConfig(size=224, patch=16, classes=17),
            model=VisionConfig(size=224, patch=16, classes=17, layers=DEIT_S),
            training=replace(GLYPHS.training, steps=20000, batch_size=256),
        ),
        learning=Training(
            3750,
            batch_size=1024,
            seeds=SEEDS,
            optimizer=OptimizerConfig(learning_rate=0.01, warmup_steps=0),
            steps_per_dispatch=10,
        ),
        images=9984,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By target: what each seed learned, and accuracy and FLOPs of every arm on held-out images."""
    models = vision_models(config.glyphs, workspace)
    images = [held_out(config.glyphs, seed, config.images) for seed in config.learning.seeds]
    bench = Bench(config.glyphs.model, models.params, images)
    unreduced = workspace.cached("unreduced", lambda: bench.accuracies(bench.plain))
    found = {}
    for target in config.targets:
        rates = workspace.cached(f"rates-{target}", partial(judge_rates, config, bench, target, workspace))
        goals = rates["flops"]["learned"]
        judge = partial(judge_thresholds, config, bench, target, goals, workspace)
        found[str(target)] = {**rates, "thresholds": workspace.cached(f"thresholds-{target}", judge)}
    return {
        "corpora": {},
        "seeds": list(config.learning.seeds),
        "arms": {"glyphs": models.origin},
        "unreduced": unreduced,
        "targets": found,
    }


def masks_of(config: Config, learned: Array) -> list[Mask | None]:
    """Of all layers: by rank from logits [layers, candidates], by threshold from one number for each layer."""
    if learned.ndim == 2:
        return [None, *[mask_by_rank(own) for own in learned]]
    return [None, *[mask_by_threshold(own, config.temperature) for own in learned]]


def make_loss(config: Config, target: float) -> LossFn:
    """Cross-entropy in nats and the penalty on FLOPs of a batch drawn from the key; params {"learned", "frozen"}.

    FLOPs of rates follow from their counts, those of thresholds are a mean over the images of the batch.
    """
    model = config.glyphs.model

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        images = draw(config.glyphs, config.learning.batch_size, stream(key, "images"))
        learned, frozen = params["learned"], jax.lax.stop_gradient(params["frozen"])
        logits, kept = masked_classify(model, frozen, images.pixels, masks_of(config, learned))
        if learned.ndim == 2:
            flops = flops_share(model, learned_counts(learned))
        else:
            flops = jnp.mean(jax.vmap(lambda one: flops_share(model, one))(kept))
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), images.labels[:, None], axis=1)
        missed = -jnp.mean(own)
        return missed + config.penalty * jnp.square(flops - target), {"cross_entropy": missed, "flops": flops}

    return loss


def learn(
    config: Config, bench: Bench, target: float, name: str, start: Array, workspace: Workspace
) -> tuple[list[Array], dict[str, Any]]:
    """(what each seed learned, the course of FLOPs [seeds, points] in training)."""
    seeds, arm = len(bench.params), f"{name}-{target}"
    params = {
        "learned": jnp.broadcast_to(start, (seeds, *start.shape)),
        "frozen": stacked(bench.params),
    }
    tokens = config.glyphs.model.tokens
    found = train(arm, params, make_loss(config, target), None, config.learning, workspace, tokens=tokens)
    lines = [line for line in read_metrics(workspace.folder(arm) / "metrics.jsonl") if "flops" in line]
    lines = lines[:: max(1, len(lines) // POINTS)]
    course = {
        "steps": [line["step"] for line in lines],
        "flops": np.round(np.array([line["flops"] for line in lines]).T, 4).tolist(),
    }
    return [tree["learned"] for tree in found], course


def judge_rates(config: Config, bench: Bench, target: float, workspace: Workspace) -> dict[str, Any]:
    """Learned counts as a schedule, and the schedules by hand at each seed's FLOPs: counts, FLOPs, accuracy by method."""
    model = bench.model
    start = jnp.zeros((model.layers.depth - 1, model.patches))
    learned, course = learn(config, bench, target, "rates", start, workspace)
    schedules: dict[str, list[tuple[int, ...]]] = {name: [] for name in SCHEDULES}
    for logits in learned:
        left = [model.patches, *[int(count) for count in jax.jit(learned_counts)(logits)]]
        schedules["learned"].append(tuple(before - after for before, after in pairwise(left)))
        goal = cost(model, schedules["learned"][-1])
        schedules["ratio"].append(nearest_ratio_schedule(bench, goal))
        schedules["fixed"].append(fixed_schedule(model, goal))
    forwards: dict[Any, Forward] = {}  # seeds often share a schedule by hand

    def accuracies(method: str, by_seed: Sequence[tuple[int, ...]]) -> list[float]:
        found = []
        for schedule, params, images in zip(by_seed, bench.params, bench.images, strict=True):
            if (method, schedule) not in forwards:
                forwards[method, schedule] = bench.forward(method, schedule)
            one = replace(bench, params=[params], images=[images])
            found += one.accuracies(forwards[method, schedule])
        return found

    return {
        "tokens": {
            name: [list(token_counts(model.tokens, schedule)) for schedule in own] for name, own in schedules.items()
        },
        "flops": {name: [round(cost(model, schedule), 5) for schedule in own] for name, own in schedules.items()},
        "accuracy": {method: {name: accuracies(method, own) for name, own in schedules.items()} for method in METHODS},
        "course": course,
    }


def nearest_ratio_schedule(bench: Bench, goal: float) -> tuple[int, ...]:
    """The schedule of one ratio for all layers whose FLOPs are nearest to `goal` (relative to unreduced)."""
    found = {bench.schedule(float(ratio)) for ratio in np.linspace(0.3, 1.0, 1401)}
    return min(sorted(found), key=lambda schedule: abs(cost(bench.model, schedule) - goal))


def judge_thresholds(
    config: Config, bench: Bench, target: float, goals: list[float], workspace: Workspace
) -> dict[str, Any]:
    """Of the masked model with each seed's thresholds: accuracy, mean FLOPs, mean tokens before the first layer and after each.

    goals: FLOPs of each seed, to which its thresholds are moved, all by as much, on the images to judge on (no label is
    needed). Where tokens are alike a threshold takes or leaves many at once, so that learning alone ends up to a tenth of the FLOPs off.
    """
    model = bench.model
    start = jnp.full(model.layers.depth - 1, config.threshold)
    learned, course = learn(config, bench, target, "thresholds", start, workspace)

    @jax.jit
    def forward(params: Params, thresholds: Array, pixels: Array) -> tuple[Array, Array, Array]:
        logits, kept = masked_classify(model, params, pixels, masks_of(config, thresholds))
        return logits, jax.vmap(lambda one: flops_share(model, one))(kept), kept

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

    def judge(params: Params, thresholds: Array, images: Images) -> tuple[float, float, list[float]]:
        logits, flops, kept = measure(params, thresholds, images.pixels)
        tokens = [model.tokens, *(kept.mean(0) + model.protected)]
        right = accuracy(jnp.asarray(logits), images.labels)
        return round(right, 5), round(float(flops.mean()), 5), np.round(tokens, 2).tolist()

    final = [moved(*one) for one in zip(bench.params, learned, bench.images, goals, strict=True)]
    found = [judge(*one) for one in zip(bench.params, final, bench.images, strict=True)]
    return {
        "accuracy": [right for right, _, _ in found],
        "flops": [flops for _, flops, _ in found],
        "tokens": [tokens for _, _, tokens in found],
        "thresholds": [[round(float(one), 3) for one in own] for own in final],
        "course": course,
    }


def gains(results: dict[str, Any], method: str, over: str) -> dict[str, np.ndarray]:
    """By target, [seeds]: accuracy of the learned counts less that of a schedule by hand."""
    return {
        target: np.array(found["accuracy"][method]["learned"]) - np.array(found["accuracy"][method][over])
        for target, found in results["targets"].items()
    }


def worst(values: Callable[[dict[str, Any]], np.ndarray], results: dict[str, Any]) -> float:
    """The largest over targets and seeds."""
    return round(max(float(np.max(values(found))) for found in results["targets"].values()), 4)


def claims(results: dict[str, Any]) -> list[Claim]:
    """Learned counts against schedules by hand at equal FLOPs, pruned and merged; their FLOPs; thresholds."""
    where = f"(FLOPs {', '.join(results['targets'])} of unreduced)"
    beats = []
    for over, what in (("ratio", "a ratio"), ("fixed", "a fixed number")):
        mismatch = worst(
            lambda f, over=over: np.abs(np.array(f["flops"][over]) / np.array(f["flops"]["learned"]) - 1), results
        )
        for method, suffix, how in (("prune_cls", "", "pruned"), ("diffrate", "_merging", "merged")):
            found = {target: interval(gain) for target, gain in gains(results, method, over).items()}
            beats.append(
                Claim(
                    f"learned_rates_beat_{over if over == 'ratio' else 'fixed_number'}{suffix}",
                    f"At equal FLOPs {where}, learned counts per layer are better than {what} per layer, tokens {how} by CLS attention "
                    "(measured: gain in accuracy).",
                    SOURCE,
                    None,
                    found | {"mismatch of FLOPs": mismatch},
                    "every whole interval above 0, FLOPs of every seed within 2 %",
                    every([*(above(value, 0.0) for value in found.values()), mismatch <= TOLERANCE]),
                )
            )
    missed = {
        target: interval(np.abs(np.array(found["flops"]["learned"]) - float(target)))
        for target, found in results["targets"].items()
    }
    over_thresholds = {
        target: interval(
            np.array(found["accuracy"]["prune_cls"]["learned"]) - np.array(found["thresholds"]["accuracy"])
        )
        for target, found in results["targets"].items()
    }
    excess = worst(lambda f: np.array(f["flops"]["learned"]) / np.array(f["thresholds"]["flops"]) - 1, results)
    return [
        *beats,
        Claim(
            "learned_rates_hit_the_target",
            f"The penalty brings the FLOPs of the learned counts to the target {where} (measured: distance).",
            SOURCE,
            None,
            missed,
            f"every whole interval below {TOLERANCE}",
            every(below(value, TOLERANCE) for value in missed.values()),
        ),
        Claim(
            "learned_rates_not_below_thresholds",
            f"Learned counts, the same for every image, lose nothing to learned thresholds, whose counts follow the image {where} "
            "(measured: gain in accuracy, pruned by CLS attention).",
            SOURCE,
            None,
            over_thresholds | {"FLOPs more than thresholds": excess},
            "every whole interval above -0.01, and at most 2 % more FLOPs than thresholds for every seed",
            every([*(above(value, -0.01) for value in over_thresholds.values()), excess <= TOLERANCE]),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Tokens per layer, accuracy against FLOPs pruned and merged, and the course of FLOPs in training."""
    drawn, axes = panels(2, 2, width=5.0, height=3.6)
    with styled():
        for dash, (target, found) in zip(cycle(("-", "--", ":")), results["targets"].items(), strict=False):
            rows = {SCHEDULES[name]: tokens for name, tokens in found["tokens"].items()}
            for (label, color), tokens in [*rows.items(), (THRESHOLDS, found["thresholds"]["tokens"])]:
                axes[0].plot(
                    np.mean(tokens, axis=0), dash, color=color, label=f"{label}, {target}", marker="o", markersize=3
                )
            for (label, color), course in (
                (SCHEDULES["learned"], found["course"]),
                (THRESHOLDS, found["thresholds"]["course"]),
            ):
                band(axes[3], course["steps"], course["flops"], f"{label}, {target}", color, linestyle=dash)
            reference(axes[3], float(target), f"target {target}")
        axes[0].set(xlabel="layers passed", ylabel="tokens, mean over seeds", title="tokens left")
        axes[3].set(xlabel="step", ylabel="FLOPs of unreduced", title="FLOPs while learning")
        for place, method in ((1, "prune_cls"), (2, "diffrate")):
            for name, (label, color) in SCHEDULES.items():
                points = [
                    (found["flops"][name], found["accuracy"][method][name]) for found in results["targets"].values()
                ]
                against_flops(axes[place], points, label, color)
            if method == "prune_cls":
                points = [
                    (found["thresholds"]["flops"], found["thresholds"]["accuracy"])
                    for found in results["targets"].values()
                ]
                against_flops(axes[place], points, *THRESHOLDS)
            reference(axes[place], float(np.mean(results["unreduced"])), "unreduced")
            title = {"prune_cls": NAMES["prune_cls"][0], "diffrate": "merging by CLS attention (DiffRate)"}[method]
            axes[place].set(xlabel="FLOPs of unreduced", ylabel="accuracy", title=title)
        for one in axes:
            one.legend(fontsize=6.5)
    return drawn


def against_flops(axes: Any, points: list[tuple[list[float], list[float]]], label: str, color: str) -> None:
    """A mean over seeds for each target, joined by a line, and the single seeds as dots."""
    points = sorted(points, key=lambda point: np.mean(point[0]))
    axes.plot(
        [np.mean(x) for x, _ in points], [np.mean(y) for _, y in points], "o-", color=color, label=label, markersize=5
    )
    for x, y in points:
        axes.plot(x, y, ".", color=color, alpha=0.5, markersize=4)
