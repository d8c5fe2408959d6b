"""What the votes of PageRank rank first on the attention graph: the object's patches, layer by layer, and a majority that votes for itself.

Wang et al. 2024 (Zero-TPrune). Nothing is pruned in the trained models. Heads are combined by the root mean square as in the method, all of
them; CLS starts with more weight than patches.

The majority is constructed: two groups of tokens that attend to themselves. Attention is exp(logit) over rows: `WITHIN_OBJECT` from
object to object, `WITHIN_BACKGROUND` from background to background, 1 across, each times the exponential of Gaussian noise. Keys of the
background are one vector with noise; parts of the object are different from one another. The chain of the two groups has a closed
solution: with mass p from a background token to the object and q back, the object holds p / (p + q) of the importance.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by, measured
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREY, PALETTE, VERMILION, band, panels, reference, styled
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.glyph_classifiers import (
    GLYPHS,
    LARGE,
    SUBJECTS,
    VisionSubject,
    held_out,
    one_seed,
    tiny,
    vision_models,
)
from lexinv.data.glyphs import BACKGROUND, GLYPH, Images
from lexinv.merging.bipartite import cosine_similarity
from lexinv.merging.pagerank import (
    among,
    favour_cls,
    importance,
    root_mean_square,
    similarity_prune,
    weighted_pagerank,
)
from lexinv.merging.ranking import cls_attention, received_attention
from lexinv.nn.reduced import Reduced, Seen
from lexinv.nn.vision_transformer import VisionConfig, classify
from lexinv.validation import Checked, Count, Fractions, NonNegative, Seeds, Share

PAPERS = ("wang2024zerotprune",)
MAJORITY = "wang2024zerotprune: overwhelming of the major group"
VOTES = (0, 1, 2, 3, 5, 10, 20, 30, 50)
RANKED = 256
"""Images of those held out on which rankings are judged."""
WITHIN_OBJECT, WITHIN_BACKGROUND = float(np.exp(2.0)), float(np.exp(1.0))
HEADS, WIDTH = 4, 32
ARMS = {"alone": ("PageRank alone", VERMILION), "after_similarity": ("after the S-stage", BLUE)}


@dataclass(frozen=True)
class MajorityConfig(Checked):
    """shares: of the background, rising. dropped: the share of all tokens that the S-stage drops. noise: of logits and of keys."""

    tokens: Count = 200
    shares: Fractions = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
    dropped: Share = 0.25
    iterations: Count = 50
    noise: NonNegative = 0.3
    seeds: Seeds = tuple(range(20))

    def checks(self):
        yield self.tokens >= 20, "tokens", "at least 20"
        yield len(self.shares) >= 2 and all(a < b for a, b in pairwise(self.shares)), "shares", "two or more, rising"
        yield 0 < self.dropped <= 0.5, "dropped", "above 0 and at most half"


@dataclass(frozen=True)
class Config(Checked):
    """small, large: what the models are trained on. images: held out, per seed; the first `RANKED` of them are looked at."""

    small: VisionSubject = GLYPHS
    large: VisionSubject = LARGE
    images: Count = 512
    majority: MajorityConfig = MajorityConfig()

    def checks(self):
        seeds = self.small.training.seeds
        yield self.large.training.seeds == seeds, "large.training.seeds", f"those of `small`, {seeds}"


PRESETS = presets(
    Config(),
    smoke={
        "small": tiny(GLYPHS),
        "large": tiny(GLYPHS),  # trained once, for other experiments too
        "images": 16,
        "majority": MajorityConfig(tokens=40, shares=(0.5, 0.8, 0.95), iterations=20, seeds=(0, 1)),
    },
    quick={"small": one_seed(GLYPHS), "large": one_seed(LARGE)},
    paper={**{f"{name}.training.seeds": tuple(range(10)) for name in SUBJECTS}, "images": 4096},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Of trained models by subject, see `ranking_quality`; of the majority by arm, see `majority`, with seeds of its own."""
    seeds = config.small.training.seeds
    models = {name: vision_models(getattr(config, name), workspace) for name in SUBJECTS}

    def rank(subject: str, seed: int) -> dict[str, Any]:
        images = held_out(getattr(config, subject), seed, config.images)
        return ranking_quality(getattr(config, subject).model, models[subject][seed], images)

    return {
        "corpora": {},
        "seeds": list(seeds),
        "shares": list(config.majority.shares),
        "arms": {
            **measured(workspace, SUBJECTS, seeds, rank),
            **measured(workspace, ARMS, config.majority.seeds, partial(majority, config.majority)),
        },
    }


def ranking_quality(model: VisionConfig, params: Any, images: Images) -> dict[str, Any]:
    """Chance that a patch of the glyph ranks above one of the background, nothing pruned; 0.5 is no order at all; images are averaged.

    [layers, VOTES] for `pagerank`; [layers] for attention received (`column`) and that of CLS (`cls`).
    """
    found = np.round(_ranking(model, params, jax.tree.map(lambda leaf: leaf[:RANKED], images)), 4)
    return {"pagerank": found[:, : len(VOTES)].tolist(), "column": found[:, -2].tolist(), "cls": found[:, -1].tolist()}


@partial(jax.jit, static_argnames=("model",))
def _ranking(model: VisionConfig, params: Any, images: Images) -> Array:
    """[layers, rankings]."""

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
        return jax.vmap(lambda scores: root_mean_square(scores, every_head))(by_votes)

    def watch(seen: Seen) -> Reduced:
        def of_image(attention: Array, region: Array) -> Array:
            rankings = [votes(attention), received_attention(attention)[None], cls_attention(attention)[None]]
            patches = jnp.concatenate(rankings)[:, model.protected :]
            return jax.vmap(lambda scores: ranks_above(scores, region == GLYPH, region == BACKGROUND))(patches)

        quality = jax.vmap(of_image)(seen.attention_weights(), images.regions)
        return Reduced(seen.stream, seen.size, jnp.mean(quality, axis=0))

    return jnp.stack(classify(model, params, images.pixels, [watch] * model.layers.depth)[1])


def ranks_above(scores: Array, first: Array, second: Array) -> Array:
    """The share of pairs in which one of `first` scores above one of `second`, ties counting half (the area under the ROC curve)."""
    higher = 0.5 + 0.5 * jnp.sign(scores[:, None] - scores[None, :])
    pairs = first[:, None] & second[None, :]
    return jnp.sum(jnp.where(pairs, higher, 0.0)) / jnp.sum(pairs, dtype=jnp.float32)


def majority(config: MajorityConfig, arm: str, seed: int) -> dict[str, list[float]]:
    """Importance of an object's token over that of a background's, by share, and what the chain predicts."""
    backgrounds = [round(share * config.tokens) for share in config.shares]
    groups = jnp.asarray(np.arange(config.tokens)[None] >= np.array(backgrounds)[:, None])
    dropped = round(config.dropped * config.tokens) if arm == "after_similarity" else 0
    found, objects, others = map(np.asarray, _ratios(config, dropped, groups, jax.random.key(seed)))
    return {
        "ratio": np.round(found, 4).tolist(),
        "predicted": np.round(np.vectorize(stationary_ratio)(objects, others), 4).tolist(),
    }


@partial(jax.jit, static_argnums=(0, 1))
def _ratios(config: MajorityConfig, dropped: int, groups: Array, key: Array) -> tuple[Array, ...]:
    """By share: (importance of an object's token over a background's, tokens of the object, of the background) that the S-stage leaves."""

    def one(is_object: Array) -> tuple[Array, ...]:
        attention, similarity = constructed(config, is_object, key)
        kept = similarity_prune(similarity, importance(attention, 1), dropped, 0).anchor
        scores = jnp.mean(weighted_pagerank(among(attention, kept), config.iterations), axis=0)
        left = is_object[kept]
        objects, others = jnp.sum(left, dtype=jnp.float32), jnp.sum(~left, dtype=jnp.float32)
        mean_object = jnp.sum(jnp.where(left, scores, 0.0)) / jnp.maximum(objects, 1.0)
        mean_other = jnp.sum(jnp.where(left, 0.0, scores)) / jnp.maximum(others, 1.0)
        return mean_object / mean_other, objects, others

    return jax.lax.map(one, groups)


def constructed(config: MajorityConfig, is_object: Array, key: Array) -> tuple[Array, Array]:
    """(attention [heads, tokens, tokens], cosines of keys [tokens, tokens])."""
    logit_key, background_key, object_key, noise_key = jax.random.split(key, 4)
    tokens = is_object.shape[0]
    same = is_object[:, None] == is_object[None, :]
    within = jnp.where(is_object, jnp.log(WITHIN_OBJECT), jnp.log(WITHIN_BACKGROUND))
    noise = config.noise * jax.random.normal(logit_key, (HEADS, tokens, tokens))
    attention = jax.nn.softmax(jnp.where(same, within[:, None], 0.0)[None] + noise, axis=2)
    background = jax.random.normal(background_key, (1, WIDTH))
    parts = jax.random.normal(object_key, (tokens, WIDTH))
    keys = jnp.where(is_object[:, None], parts, background)
    return attention, cosine_similarity(keys + config.noise * jax.random.normal(noise_key, keys.shape))


def stationary_ratio(objects: float, backgrounds: float) -> float:
    """Importance of a token of the object over one of the background at the fixed point, without noise."""
    to_object = objects / (objects + backgrounds * WITHIN_BACKGROUND)
    to_background = backgrounds / (backgrounds + objects * WITHIN_OBJECT)
    return (to_object / objects) / (to_background / backgrounds)


def claims(results: dict[str, Any]) -> list[Claim]:
    """What votes do to the ranking, early and late; a majority wins by its number, and dropping its copies first takes that away."""
    arms, shares = Arms(results), results["shares"]
    alone, after = (arms[arm, "ratio"] for arm in ARMS)
    ends = by((f"share {shares[0]}", f"share {shares[-1]}"), alone[:, [0, -1]])
    named, one = [f"share {share}" for share in shares], VOTES.index(1)
    best, deep = {}, {}
    for subject in SUBJECTS:
        ranked, column = arms[subject, "pagerank"], arms[subject, "column"]
        last = ranked.shape[1] * 3 // 4
        best[subject] = ranked[:, :last].mean(axis=1).max(axis=1) - column[:, :last].mean(axis=1)
        deep[subject] = (ranked[:, last:, -1] - ranked[:, last:, one]).mean(axis=1)
    return [
        Claim(
            "votes_rank_better_than_one_step",
            "Before the last quarter of the layers, votes order glyph over background better than the attention received does.",
            OURS,
            best,
            above(0),
            "area under the ROC curve at the best number of votes less that of the attention received, mean of those layers",
        ),
        Claim(
            "iterating_deep_layers_hurts",
            f"In the last quarter of the layers, {VOTES[-1]} votes rank worse than one.",
            "wang2024zerotprune: votes by depth",
            deep,
            below(0),
            "difference of the area under the ROC curve",
            "one vote in the last three layers",
        ),
        Claim(
            "majority_overwhelms",
            "A background that only resembles itself outranks the object once it is a large majority.",
            MAJORITY,
            ends,
            dict(zip(ends, (above(1), below(1)), strict=True)),
            "importance of an object's token over a background's, constructed attention, by share of the background",
        ),
        Claim(
            "similarity_stage_lifts_the_object",
            "Dropping near-duplicates first raises the object's importance at every share.",
            MAJORITY,
            by(named, after - alone),
            above(0),
            "gain of that ratio",
        ),
        Claim(
            "similarity_stage_restores_the_ranking",
            "Where a majority outranks the object, the S-stage can restore the object's place: at one share at least.",
            MAJORITY,
            by(named, np.minimum(1 - alone, after - 1)),
            above(0).but(len(shares) - 1),
            "the less of 1 - ratio without the S-stage and of ratio - 1 with it",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """The area under the ROC curve against votes by layer; the majority."""
    arms, shares = Arms(results), results["shares"]
    drawn, (*ranked, crowd) = panels(1, 3, width=4.0, height=3.4)
    with styled():
        for panel, (subject, title) in zip(ranked, SUBJECTS.items(), strict=True):
            draw_votes(panel, arms[subject, "pagerank"])
            reference(panel, float(np.mean(arms[subject, "column"])), "attention received", BLACK)
            reference(panel, float(np.mean(arms[subject, "cls"])), "CLS attention", GREY)
            panel.set(title=title, xlabel="votes", ylim=(0.2, 1.02))
        ranked[0].set_ylabel("area under ROC curve")
        drawn.legend(*ranked[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize=8)
        for arm, (label, color) in ARMS.items():
            band(crowd, shares, arms[arm, "ratio"], label, color, marker="o", markersize=3)
            predicted = arms[arm, "predicted"].mean(axis=0)
            chain = "chain of two states" if arm == "alone" else None
            crowd.plot(shares, predicted, color=BLACK, linestyle=":", linewidth=1.2, label=chain)
        crowd.axhline(1.0, color=BLACK, linewidth=0.8)
        crowd.set(title="A majority votes for itself", xlabel="share of the background", yscale="log")
        crowd.set_ylabel("importance, object over background")
        crowd.legend(fontsize=7)
    return drawn


def draw_votes(axes: Axes, ranked: np.ndarray) -> None:
    """[seeds, layers, votes]: a line for each layer, the mean of the seeds with their range; votes evenly spaced."""
    for layer, color in zip(range(ranked.shape[1]), PALETTE, strict=False):
        places = np.arange(len(VOTES)) + 0.06 * (layer - ranked.shape[1] / 2)
        values = ranked[:, layer]
        axes.plot(places, values.mean(axis=0), "o-", label=f"layer {layer}", color=color, markersize=2.5)
        axes.vlines(places, values.min(axis=0), values.max(axis=0), color=color, linewidth=0.9, alpha=0.6)
    axes.set_xticks(range(len(VOTES)), [str(votes) for votes in VOTES])
