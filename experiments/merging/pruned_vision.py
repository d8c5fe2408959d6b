"""Small Vision Transformers with fewer tokens at given FLOPs: Zero-TPrune, its ablations, and its rivals.

Wang et al. 2024 (Zero-TPrune); method card zero-tprune, small reproduction. All methods remove as many tokens in the same layers, so that
all cost the same. PageRank takes 30 votes in the first quarter of the layers, 5 in the middle and 1 in the last quarter, as the card's
notes on the paper say for 12 layers. Nothing is trained after pruning.

The head filter keeps heads whose scores have a variance in the published limits, [0.01, 0.7]. A pilot on one seed showed that they do not
carry over to such small models: here a head that looks at the glyph gives all its attention to a few patches, has a variance far above
0.7, and is dropped, and what is left ranks the background first. The stages are therefore compared with all heads.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from lexinv.data.glyphs import GLYPH, Images
from lexinv.merging.bipartite import bipartite_matching
from lexinv.merging.costs import model_flops
from lexinv.merging.pagerank import (
    importance,
    importance_first_prune,
    keep_heads,
    root_mean_square,
    weighted_pagerank,
    zero_shot_prune,
)
from lexinv.merging.plan import Plan
from lexinv.merging.ranking import cls_attention, prune_by_score, received_attention
from lexinv.merging.reduction import Example, reduction
from lexinv.merging.schedules import token_counts
from lexinv.nn.vision_transformer import VisionConfig, classify

METHODS = {
    "full": ("Zero-TPrune, published filter", SKY),
    "unfiltered": ("Zero-TPrune, all heads", BLUE),
    "mean": ("all heads, mean not RMS", GREEN),
    "no_similarity": ("all heads, no S-stage", "#44AA99"),
    "importance_first": ("all heads, I before S", PURPLE),
    "prune_cls": ("CLS attention", ORANGE),
    "column": ("attention received", YELLOW),
    "tome": ("ToMe", VERMILION),
    "prune_random": ("random", GREY),
}
PROGRAMS = {
    "similarity_first": ("full", "unfiltered", "mean"),
    "importance_alone": ("no_similarity",),
    "importance_first": ("importance_first",),
    "by_score": ("prune_cls", "column", "prune_random"),
    "tome": ("tome",),
}
"""Methods that are one compiled program, since they differ in a number only: compiling is most of what a sweep costs."""
CHUNK = 256
SOURCE = "Wang et al. 2024 (Zero-TPrune)"
CARD = "method card zero-tprune"
SUBJECTS = {"small": "small glyph, distractor", "large": "large glyph"}
AGGRESSIVE = 0.7


class Pruning(NamedTuple):
    """Where and how much. schedule: tokens removed by each layer. similar: the share of them that the S-stage drops."""

    schedule: tuple[int, ...]
    similar: float


def votes_of(layer: int, depth: int) -> int:
    """Iterations of PageRank in a layer, counted from 0."""
    if layer < depth / 4:
        return 30
    return 1 if layer >= 3 * depth / 4 else 5


def flops_share(model: VisionConfig, schedule: Sequence[int]) -> float:
    """FLOPs of all blocks with this schedule over those without."""
    counts = token_counts(model.tokens, tuple(schedule))
    size = model.layers.width, model.layers.mlp_width
    return model_flops(counts, *size) / model_flops((model.tokens,) * len(counts), *size)


def solve_schedule(model: VisionConfig, kept_flops: float, layers: dict[int, float]) -> tuple[int, ...]:
    """Tokens removed by each layer so that the FLOPs come nearest to the share `kept_flops`.

    layers: those that prune, each with an exponent: of its patches it keeps rho^exponent, with one rho for all, rounded.
    """

    def removed(rho: float) -> tuple[int, ...]:
        left, schedule = model.patches, []
        for layer in range(model.layers.depth):
            kept = max(round(left * rho ** layers[layer]), 1) if layer in layers else left
            schedule.append(left - kept)
            left = kept
        return tuple(schedule)

    return min(
        (removed(rho) for rho in np.linspace(0.1, 1, 901)), key=lambda s: abs(flops_share(model, s) - kept_flops)
    )


all_heads = partial(importance, lowest=0.0, highest=float("inf"))
"""Importance without the head filter."""


def rank(variant: Array, attention: Array, iterations: int, start: Array | None) -> Array:
    """Variant 0: `importance` with the published filter; 1: `all_heads`; 2: the mean over all heads in place of the root mean square."""
    scores = weighted_pagerank(attention, iterations, start)
    kept = root_mean_square(scores, keep_heads(scores) | (variant == 1))
    return jnp.where(variant == 2, jnp.mean(scores, axis=0), kept)


def plan_of(program: str, pruning: Pruning, layer: int, depth: int, variant: Array, e: Example) -> Plan:
    """What a method does in a layer; the place of its name among the program's is the variant, which is traced."""
    count = pruning.schedule[layer]
    similar = 0 if program == "importance_alone" else round(pruning.similar * count)
    stages = e.attention, e.similarity, similar, count - similar, votes_of(layer, depth)
    if program == "tome":
        return bipartite_matching(e.similarity, count)
    if program == "by_score":
        scores = cls_attention(e.attention), received_attention(e.attention), jax.random.uniform(e.key, e.size.shape)
        return prune_by_score(jnp.stack(scores)[variant], count)
    if program == "importance_first":
        return importance_first_prune(*stages, ranking=all_heads)
    one = program == "importance_alone"
    return zero_shot_prune(*stages, ranking=all_heads if one else partial(rank, variant))


@functools.cache
def evaluator(program: str, pruning: Pruning, model: VisionConfig) -> Callable[..., Any]:
    """judge(params, images, keys, variant) -> (right [seeds, images], share of the glyph's patches kept [seeds, images]).

    params, images and keys are stacked over seeds. A patch that merges counts as kept where it is the anchor of its target. One compile
    serves all variants of a program and any number of images that is a multiple of CHUNK.
    """
    depth = model.layers.depth

    def one(variant: Array, arguments: tuple[Any, Images, Array]) -> tuple[Array, Array]:
        params, images, key = arguments
        layers = [
            reduction(partial(plan_of, program, pruning, layer, depth, variant), key=jax.random.fold_in(key, layer))
            if count
            else None
            for layer, count in enumerate(pruning.schedule)
        ]
        logits, plans = classify(model, params, images.pixels, layers)
        anchors = functools.reduce(lambda a, b: jnp.take_along_axis(a, b, axis=1), [plan.anchor for plan in plans])
        rows = jnp.arange(anchors.shape[0])[:, None]
        kept = jnp.zeros((anchors.shape[0], model.tokens), bool).at[rows, anchors].set(True)
        glyph = images.regions == GLYPH
        share = jnp.sum(kept[:, model.protected :] & glyph, axis=1) / jnp.sum(glyph, axis=1)
        return jnp.argmax(logits, axis=1) == images.labels, share

    compiled = jax.jit(lambda params, images, keys, variant: jax.lax.map(partial(one, variant), (params, images, keys)))

    def judge(params: Any, images: Images, keys: Array, variant: int = 0) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for number, start in enumerate(range(0, images.labels.shape[1], CHUNK)):
            chunk = jax.tree.map(lambda leaf, start=start: leaf[:, start : start + CHUNK], images)
            folded = jax.vmap(lambda key, number=number: jax.random.fold_in(key, number))(keys)
            parts.append(compiled(params, chunk, folded, jnp.int32(variant)))
        right, share = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        return right, share

    return judge


def sweep(
    model: VisionConfig, subjects: dict[str, tuple[Any, Images]], prunings: Sequence[Pruning], keys: Array
) -> dict[str, Any]:
    """By subject and method: accuracy and share of the glyph's patches kept, [seeds][prunings]."""
    columns: dict[tuple[str, str], list[Any]] = {(name, method): [] for name in subjects for method in METHODS}
    for pruning in prunings:
        for program, methods in PROGRAMS.items():
            judge = evaluator(program, pruning, model)
            for variant, method in enumerate(methods):
                for name, (params, images) in subjects.items():
                    measured = judge(params, images, keys, variant)
                    columns[name, method].append([part.mean(axis=1) for part in measured])
    found: dict[str, Any] = {name: {} for name in subjects}
    for (name, method), parts in columns.items():
        right, share = np.round(np.moveaxis(parts, 0, -1), 4).tolist()
        found[name][method] = {"accuracy": right, "glyph": share}
    return found


def whole_accuracy(model: VisionConfig, params: Any, images: Images) -> list[float]:
    """Accuracy without pruning, by seed."""
    logits = jax.jit(lambda params, pixels: jax.lax.map(lambda one: classify(model, *one)[0], (params, pixels)))
    return np.mean(np.argmax(logits(params, images.pixels), axis=2) == images.labels, axis=1).round(4).tolist()


def accuracy(results: dict[str, Any], subject: str, method: str, what: str = "accuracy") -> np.ndarray:
    """[seeds, kept_flops]."""
    return np.array(results["sweep"][subject][method][what])


def lead(results: dict[str, Any], subject: str, method: str, other: str, least: float = 0.0) -> np.ndarray:
    """Accuracy of one method less another's, [seeds, budgets], where at least the share `least` of the FLOPs is saved."""
    saved = np.array(results["kept_flops"]) <= 1 - least + 0.01
    return (accuracy(results, subject, method) - accuracy(results, subject, other))[:, saved]


def beyond_errors(difference: np.ndarray) -> bool | None:
    """Whether the mean over seeds of [seeds, budgets] is above 0 by more than two standard errors at two budgets; None for fewer."""
    seeds, budgets = difference.shape
    if seeds < 2 or budgets < 2:
        return None
    error = difference.std(axis=0, ddof=1) / np.sqrt(seeds)
    return bool(np.sum(difference.mean(axis=0) > 2 * error) >= 2)


RULE = "above 0 by more than two standard errors over seeds at two budgets"


def claims(results: dict[str, Any]) -> list[Claim]:
    """The method against its rivals, with and without its head filter; then its stages, with all heads."""
    rivals, unfiltered = (
        {name: lead(results, "small", method, name, 1 - AGGRESSIVE) for name in ("prune_cls", "prune_random")}
        for method in ("full", "unfiltered")
    )
    heads = {subject: lead(results, subject, "full", "unfiltered") for subject in SUBJECTS}
    lost = interval(heads["small"].mean(axis=1))
    squares = {subject: lead(results, subject, "unfiltered", "mean") for subject in SUBJECTS}
    stage = {subject: lead(results, subject, "unfiltered", "no_similarity") for subject in SUBJECTS}
    more = interval((stage["large"] - stage["small"]).mean(axis=1))
    order = {
        subject: interval(lead(results, subject, "unfiltered", "importance_first").mean(axis=1)) for subject in SUBJECTS
    }
    pagerank = {subject: lead(results, subject, "no_similarity", "column") for subject in SUBJECTS}
    half = {subject: interval(lead(results, subject, "tome", "unfiltered")[:, -1]) for subject in SUBJECTS}
    glyph = interval(
        (accuracy(results, "small", "unfiltered", "glyph") - accuracy(results, "small", "prune_random", "glyph"))[:, -1]
    )
    least = f"{results['kept_flops'][-1]:.2f}"
    hard = f"(measured: difference of accuracy by budget up to {AGGRESSIVE} of the FLOPs, small glyph)"
    return [
        Claim(
            "full_above_cls_and_random",
            f"Zero-TPrune keeps more accuracy than pruning by CLS attention and at random at the same FLOPs {hard}.",
            SOURCE,
            None,
            {name: by_budget(results, difference) for name, difference in rivals.items()},
            f"both {RULE}",
            every([beyond_errors(difference) for difference in rivals.values()]),
        ),
        Claim(
            "all_heads_above_cls_and_random",
            f"So it does without its head filter {hard[:-1]}; added after the pilot).",
            CARD,
            None,
            {name: by_budget(results, difference) for name, difference in unfiltered.items()},
            f"both {RULE}",
            every([beyond_errors(difference) for difference in unfiltered.values()]),
        ),
        Claim(
            "head_filter_helps",
            "Dropping heads of low and of high variance helps (measured: with the published limits less without, mean over budgets).",
            SOURCE,
            "+0.3 points with the root mean square on ImageNet (from reading notes, unverified)",
            {subject: interval(difference.mean(axis=1)) for subject, difference in heads.items()},
            f"on both subjects {RULE}",
            every([beyond_errors(difference) for difference in heads.values()]),
        ),
        Claim(
            "published_limits_do_not_carry_over",
            "With its published limits the filter drops the heads that see a small glyph (measured: the same, small glyph; added after the "
            "pilot).",
            CARD,
            None,
            lost,
            "whole interval below -0.05",
            below(lost, -0.05),
        ),
        Claim(
            "root_mean_square_helps",
            "The root mean square over heads is better than the mean (measured: difference of accuracy, mean over budgets, all heads).",
            SOURCE,
            "+0.3 points with the head filter on ImageNet (from reading notes, unverified)",
            {subject: interval(difference.mean(axis=1)) for subject, difference in squares.items()},
            f"on both subjects {RULE}",
            every([beyond_errors(difference) for difference in squares.values()]),
        ),
        Claim(
            "similarity_stage_helps_large_objects",
            "Where the object covers most patches, dropping near-duplicates first helps (measured: with less without the S-stage, by "
            "budget, large glyph, all heads).",
            CARD,
            "+0.5 points on ImageNet, all images (from reading notes, unverified)",
            by_budget(results, stage["large"]),
            RULE,
            beyond_errors(stage["large"]),
        ),
        Claim(
            "similarity_stage_adds_most_on_large_objects",
            "The S-stage adds more there than on a small object (measured: difference of that difference, mean over budgets).",
            CARD,
            None,
            more,
            "whole interval above 0",
            above(more, 0.0),
        ),
        Claim(
            "i_prime_s_i_not_below_i_s",
            "Similarity before importance is not worse than after it (measured: I'-S-I less I-S, mean over budgets, all heads).",
            SOURCE,
            None,
            order,
            "both whole intervals above -0.01",
            every([above(value, -0.01) for value in order.values()]),
        ),
        Claim(
            "pagerank_above_column_mean",
            "Importance by PageRank beats the mean attention that a token receives (measured: all heads and no S-stage less that, by "
            "budget).",
            CARD,
            None,
            {subject: by_budget(results, difference) for subject, difference in pagerank.items()},
            f"on both subjects {RULE}",
            every([beyond_errors(difference) for difference in pagerank.values()]),
        ),
        Claim(
            "tome_above_at_half",
            f"Under the most aggressive reduction merging is better (measured: ToMe less all heads at {least} of the FLOPs).",
            SOURCE,
            "admitted for large models and a reduction by half",
            half,
            "both whole intervals above 0",
            every([above(value, 0.0) for value in half.values()]),
        ),
        Claim(
            "keeps_the_object",
            "Zero-TPrune keeps more of the glyph's patches than random pruning does (measured: difference of the share kept at "
            f"{least} of the FLOPs, small glyph, all heads).",
            SOURCE,
            None,
            glyph,
            "whole interval above 0",
            above(glyph, 0.0),
        ),
    ]


def by_budget(results: dict[str, Any], difference: np.ndarray) -> dict[str, Any]:
    budgets = results["kept_flops"][-difference.shape[1] :]
    return {f"{flops:.2f}": interval(column) for flops, column in zip(budgets, difference.T, strict=True)}


def draw(axes: Axes, results: dict[str, Any], subject: str, what: str) -> None:
    """Accuracy, or the share of the glyph that is kept, against FLOPs; ablations dashed."""
    dashed = ("full", "mean", "no_similarity", "importance_first")
    for method, (label, color) in METHODS.items():
        style = {"linestyle": "--" if method in dashed else "-", "marker": "o", "markersize": 3}
        mean = accuracy(results, subject, method, what).mean(axis=0)
        axes.plot(results["kept_flops"], mean, label=label, color=color, **style)
    axes.set(xlabel="share of the FLOPs")
