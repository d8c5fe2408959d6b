"""Small Vision Transformers with fewer tokens at given FLOPs: Zero-TPrune, its ablations and its baselines; what PageRank ranks; a search.

Wang et al. 2024 (Zero-TPrune); method card zero-tprune, small reproduction. All methods remove the same numbers of tokens in the same layers,
so that all cost the same. PageRank takes 30 votes in the first quarter of the layers, 5 in the middle and 1 in the last quarter, as the
card's notes on the paper say for 12 layers. Nothing is trained after pruning.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from experiments.merging.methods import reductions
from lexinv.data.glyphs import BACKGROUND, GLYPH, Images
from lexinv.merging.costs import model_flops
from lexinv.merging.pagerank import (
    favour_cls,
    importance,
    importance_first_prune,
    keep_heads,
    root_mean_square,
    weighted_pagerank,
    zero_shot_prune,
)
from lexinv.merging.plan import compose
from lexinv.merging.ranking import cls_attention, prune_by_score, received_attention
from lexinv.merging.reduction import reduction
from lexinv.merging.schedules import token_counts
from lexinv.nn.reduced import Reduced, Reduction, Seen
from lexinv.nn.vision_transformer import VisionConfig, classify

METHODS = {
    "full": ("Zero-TPrune", BLUE),
    "no_similarity": ("without S-stage", SKY),
    "no_filter": ("without head filter", GREEN),
    "mean": ("mean of heads, not RMS", "#44AA99"),
    "importance_first": ("I before S", PURPLE),
    "prune_cls": ("CLS attention", ORANGE),
    "column": ("attention received", YELLOW),
    "tome": ("ToMe", VERMILION),
    "prune_random": ("random", GREY),
}
VOTES = (0, 1, 2, 3, 5, 10, 20, 30, 50)
REFERENCES = {"column": ("attention received", YELLOW), "cls": ("CLS attention", BLACK)}
CHUNK = 256


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


def averaged(attention: Array, iterations: int, start: Array | None) -> Array:
    """PageRank with the head filter, and the mean over the kept heads in place of the root mean square."""
    scores = weighted_pagerank(attention, iterations, start)
    heads = keep_heads(scores)[:, None]
    return jnp.sum(jnp.where(heads, scores, 0.0), axis=0) / jnp.sum(heads)


def layer_reductions(name: str, pruning: Pruning, model: VisionConfig, key: Key[Array, ""]) -> list[Reduction | None]:
    """One of METHODS in the layers that prune."""
    depth = model.layers.depth
    if name in ("prune_cls", "tome", "prune_random"):
        return reductions(name, pruning.schedule, depth, key=key)

    def plan(layer: int, count: int, e: Any) -> Any:
        similar = 0 if name == "no_similarity" else round(pruning.similar * count)
        stages = e.attention, e.similarity, similar, count - similar, votes_of(layer, depth)
        if name == "column":
            return prune_by_score(received_attention(e.attention), count)
        if name == "importance_first":
            return importance_first_prune(*stages)
        rankings = {"no_filter": partial(importance, lowest=0.0, highest=float("inf")), "mean": averaged}
        return zero_shot_prune(*stages, ranking=rankings.get(name, importance))

    return [reduction(partial(plan, i, count)) if count else None for i, count in enumerate(pruning.schedule)]


def evaluator(name: str, pruning: Pruning, model: VisionConfig) -> Callable[..., Any]:
    """judge(params, images, seed number of draws) -> (right [seeds, images], share of the glyph's patches kept [seeds, images]).

    params and images are stacked over seeds; one compile serves any number of images that is a multiple of CHUNK, or is smaller.
    """

    def one(arguments: tuple[Any, Images, Array]) -> tuple[Array, Array]:
        params, images, key = arguments
        logits, plans = classify(model, params, images.pixels, layer_reductions(name, pruning, model, key))
        whole = functools.reduce(lambda before, after: jax.vmap(compose)(after, before), plans)
        rows = jnp.arange(len(images.labels))[:, None]
        kept = jnp.zeros((len(images.labels), model.tokens), bool).at[rows, whole.anchor].set(True)
        glyph = images.regions == GLYPH
        share = jnp.sum(kept[:, model.protected :] & glyph, axis=1) / jnp.sum(glyph, axis=1)
        return jnp.argmax(logits, axis=1) == images.labels, share

    compiled = jax.jit(lambda params, images, keys: jax.lax.map(one, (params, images, keys)))

    def judge(params: Any, images: Images, keys: Array) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for number, start in enumerate(range(0, images.labels.shape[1], CHUNK)):
            chunk = jax.tree.map(lambda leaf, start=start: leaf[:, start : start + CHUNK], images)
            folded = jax.vmap(lambda key, number=number: jax.random.fold_in(key, number))(keys)
            parts.append(compiled(params, chunk, folded))
        right, share = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        return right, share

    return judge


def sweep(
    model: VisionConfig, subjects: dict[str, tuple[Any, Images]], prunings: Sequence[Pruning], keys: Array
) -> dict[str, Any]:
    """By subject and method: accuracy and share of the glyph's patches kept, [seeds][prunings]; `whole` without pruning."""
    found: dict[str, Any] = {name: {} for name in subjects}
    for method in METHODS:
        columns: dict[str, list[Any]] = {name: [] for name in subjects}
        for pruning in prunings:
            judge = evaluator(method, pruning, model)
            for name, (params, images) in subjects.items():
                columns[name].append([part.mean(axis=1) for part in judge(params, images, keys)])
        for name, parts in columns.items():
            right, share = np.round(np.moveaxis(parts, 0, -1), 4).tolist()
            found[name][method] = {"accuracy": right, "glyph": share}
    return found


def whole_accuracy(model: VisionConfig, params: Any, images: Images) -> list[float]:
    """Accuracy without pruning, by seed."""
    logits = jax.jit(lambda params, pixels: jax.lax.map(lambda one: classify(model, *one)[0], (params, pixels)))
    return np.mean(np.argmax(logits(params, images.pixels), axis=2) == images.labels, axis=1).round(4).tolist()


def ranking_quality(model: VisionConfig, subjects: dict[str, tuple[Any, Images]]) -> dict[str, Any]:
    """Chance that a patch of the glyph ranks above one of the background, nothing pruned: by subject, `pagerank` [seeds][layers][VOTES],
    and [seeds][layers] for `REFERENCES`. 0.5 is no order at all; images are averaged."""

    def votes(attention: Array) -> Array:
        start = jnp.broadcast_to(favour_cls(attention.shape[1]), attention.shape[:2])
        start = start / jnp.mean(start, axis=1, keepdims=True)
        vote = jax.vmap(lambda head, scores: weighted_pagerank(head[None], 1, scores)[0])

        def step(scores: Array, _: None) -> tuple[Array, Array]:
            scores = vote(attention, scores)
            return scores, scores

        _, after = jax.lax.scan(step, start, length=max(VOTES))
        by_votes = jnp.concatenate([start[None], after])[jnp.array(VOTES)]
        return jax.vmap(lambda scores: root_mean_square(scores, keep_heads(scores)))(by_votes)

    def watch(regions: Array, seen: Seen) -> Reduced:
        def of_image(attention: Array, region: Array) -> Array:
            rankings = [votes(attention), received_attention(attention)[None], cls_attention(attention)[None]]
            patches = jnp.concatenate(rankings)[:, model.protected :]
            return jax.vmap(lambda scores: ranks_above(scores, region == GLYPH, region == BACKGROUND))(patches)

        quality = jax.vmap(of_image)(seen.attention_weights(), regions)
        return Reduced(seen.stream, seen.size, jnp.mean(quality, axis=0))

    def one(arguments: tuple[Any, Images]) -> Array:
        params, images = arguments
        layers = [partial(watch, images.regions)] * model.layers.depth
        return jnp.stack(classify(model, params, images.pixels, layers)[1])

    measure = jax.jit(lambda params, images: jax.lax.map(one, (params, images)))
    found = {}
    for name, (params, images) in subjects.items():
        quality = np.round(measure(params, jax.tree.map(lambda leaf: leaf[:, :CHUNK], images)), 4)
        references = {name: quality[..., len(VOTES) + place].tolist() for place, name in enumerate(REFERENCES)}
        found[name] = {"pagerank": quality[..., : len(VOTES)].tolist(), **references}
    return found


def ranks_above(scores: Array, first: Array, second: Array) -> Array:
    """The share of pairs in which one of `first` scores above one of `second`, ties counting half (the area under the ROC curve)."""
    above = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    pairs = first[:, None] & second[None, :]
    return jnp.sum(jnp.where(pairs, above, 0.0)) / jnp.sum(pairs)


def draw_prunings(model: VisionConfig, kept_flops: float, number: int, seed: int) -> list[Pruning]:
    """Random configurations of about these FLOPs (within 0.01): two to four layers but the last, how much in each, and the share of S."""
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < number:
        layers = rng.choice(
            model.layers.depth - 1, size=rng.integers(2, min(4, model.layers.depth - 1) + 1), replace=False
        )
        exponents = rng.dirichlet(np.ones(len(layers))) * len(layers)
        pruning = Pruning(
            solve_schedule(model, kept_flops, dict(zip(layers.tolist(), exponents.tolist(), strict=True))),
            round(float(rng.uniform(0, 0.5)), 3),
        )
        if abs(flops_share(model, pruning.schedule) - kept_flops) <= 0.01:
            drawn.append(pruning)
    return drawn


def random_search(
    model: VisionConfig,
    params: Any,
    calibration: Images,
    images: Images,
    default: Pruning,
    drawn: Sequence[Pruning],
    keys: Array,
) -> dict[str, Any]:
    """Accuracy of Zero-TPrune with the default and the drawn configurations, [configurations][seeds], on calibration and on other images."""
    tried: dict[str, Any] = {"configurations": [], "calibration": [], "accuracy": []}
    for pruning in (default, *drawn):
        judge = evaluator("full", pruning, model)
        tried["configurations"].append([list(pruning.schedule), pruning.similar])
        for name, those in (("calibration", calibration), ("accuracy", images)):
            tried[name].append(np.round(judge(params, those, keys)[0].mean(axis=1), 4).tolist())
    return tried
