"""Which patches attention ranks first, layer by layer, as votes of PageRank add up: the glyph's, or the background's.

Wang et al. 2024 (Zero-TPrune); method card zero-tprune, its ranking-only figure. Nothing is pruned here. Heads are combined by the root
mean square as in the method, all of them or those that the published filter keeps; CLS starts with more weight than patches.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.style import BLACK, PALETTE, YELLOW, reference
from experiments.merging.pruned_vision import CARD, CHUNK, SUBJECTS
from lexinv.data.glyphs import BACKGROUND, GLYPH, Images
from lexinv.merging.pagerank import favour_cls, keep_heads, root_mean_square, weighted_pagerank
from lexinv.merging.ranking import cls_attention, received_attention
from lexinv.nn.reduced import Reduced, Seen
from lexinv.nn.vision_transformer import VisionConfig, classify

VOTES = (0, 1, 2, 3, 5, 10, 20, 30, 50)
REFERENCES = {"column": ("attention received", YELLOW), "cls": ("CLS attention", BLACK)}


def ranking_quality(model: VisionConfig, subjects: dict[str, tuple[Any, Images]]) -> dict[str, Any]:
    """Chance that a patch of the glyph ranks above one of the background, nothing pruned: by subject, [seeds][layers][VOTES] for `pagerank`
    on all heads and for `filtered` ones, and [seeds][layers] for `REFERENCES`. 0.5 is no order at all; images are averaged."""

    def votes(attention: Array) -> Array:
        start = jnp.broadcast_to(favour_cls(attention.shape[1]), attention.shape[:2])
        start = start / jnp.mean(start, axis=1, keepdims=True)
        vote = jax.vmap(lambda head, scores: weighted_pagerank(head[None], 1, scores)[0])

        def step(scores: Array, _: None) -> tuple[Array, Array]:
            scores = vote(attention, scores)
            return scores, scores

        _, after = jax.lax.scan(step, start, length=max(VOTES))
        by_votes = jnp.concatenate([start[None], after])[jnp.array(VOTES)]
        every_head = jnp.ones(attention.shape[0], bool)
        filters = (lambda scores: every_head, keep_heads)
        return jnp.concatenate(
            [jax.vmap(lambda s, keep=keep: root_mean_square(s, keep(s)))(by_votes) for keep in filters]
        )

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
        pagerank, filtered, references = np.split(quality, [len(VOTES), 2 * len(VOTES)], axis=-1)
        found[name] = {"pagerank": pagerank.tolist(), "filtered": filtered.tolist()}
        found[name] |= {reference: references[..., place].tolist() for place, reference in enumerate(REFERENCES)}
    return found


def ranks_above(scores: Array, first: Array, second: Array) -> Array:
    """The share of pairs in which one of `first` scores above one of `second`, ties counting half (the area under the ROC curve)."""
    above = 0.5 + 0.5 * jnp.sign(scores[:, None] - scores[None, :])
    pairs = first[:, None] & second[None, :]
    return jnp.sum(jnp.where(pairs, above, 0.0)) / jnp.sum(pairs, dtype=jnp.float32)


def claims(found: dict[str, Any]) -> list[Claim]:
    """What votes do to the ranking, early and late."""
    ranked = {subject: np.array(found[subject]["pagerank"]) for subject in SUBJECTS}
    depth, one = ranked["small"].shape[1], VOTES.index(1)
    deep = {
        subject: interval((r[:, depth * 3 // 4 :, -1] - r[:, depth * 3 // 4 :, one]).mean(1))
        for subject, r in ranked.items()
    }
    best = {
        subject: interval(
            r[:, : depth * 3 // 4].mean(1).max(1) - np.array(found[subject]["column"])[:, : depth * 3 // 4].mean(1)
        )
        for subject, r in ranked.items()
    }
    return [
        Claim(
            "votes_rank_better_than_one_step",
            "Before the last quarter of the layers, votes order glyph over background better than the attention received does (measured: "
            "area under the ROC curve at the best number of votes, less that of the attention received; mean of those layers).",
            CARD,
            None,
            best,
            "both whole intervals above 0",
            every([above(value, 0.0) for value in best.values()]),
        ),
        Claim(
            "iterating_deep_layers_hurts",
            f"In the last quarter of the layers, {VOTES[-1]} votes rank worse than one (measured: area under the ROC curve, difference).",
            CARD,
            None,
            deep,
            "both whole intervals below 0",
            every([below(value, 0.0) for value in deep.values()]),
        ),
    ]


def draw(axes: Axes, found: dict[str, Any], subject: str) -> None:
    """The area under the ROC curve against votes, a line for each layer; thin and dotted with the published head filter."""
    found = found[subject]
    ranked = np.array(found["pagerank"])
    for layer in range(ranked.shape[1]):
        color = PALETTE[layer % len(PALETTE)]
        mean = ranked[:, layer].mean(axis=0)  # bands of three seeds would cover each other
        axes.plot(VOTES, mean, label=f"layer {layer}", color=color, marker="o", markersize=2.5)
        axes.plot(VOTES, np.array(found["filtered"])[:, layer].mean(axis=0), color=color, linestyle=":", linewidth=1)
    for name, (label, color) in REFERENCES.items():
        reference(axes, float(np.mean(found[name])), f"{label}, all layers", color)
    axes.set(
        title=f"PageRank, {SUBJECTS[subject]}", xlabel="votes", ylabel="area under ROC curve, glyph", xscale="symlog"
    )
    axes.set_xticks(VOTES, [str(votes) for votes in VOTES])
    axes.legend(fontsize=6, ncols=2, loc="lower right")
