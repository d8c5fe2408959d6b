"""Two groups of tokens that attend to themselves: when a majority outranks the object, and what the S-stage does about it.

Wang et al. 2024 (Zero-TPrune), "overwhelming of the major group"; method card zero-tprune, its majority-group figure. Attention weights are
exp(logit) over rows: `WITHIN_OBJECT` from object to object, `WITHIN_BACKGROUND` from background to background, 1 across, each times the
exponential of Gaussian noise. Keys of the background are one vector with noise; parts of the object are different from one another.
The chain of the two groups has a closed solution: with mass p from a background token to the object and q back, the object holds
p / (p + q) of the importance. The object's token outranks a background token where
objects (WITHIN_OBJECT - 1) > backgrounds (WITHIN_BACKGROUND - 1).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.style import BLACK, BLUE, VERMILION, band
from lexinv.merging.bipartite import cosine_similarity
from lexinv.merging.pagerank import among, importance, similarity_prune, weighted_pagerank
from lexinv.validation import require

SOURCE = "Wang et al. 2024 (Zero-TPrune), the order of the stages"
WITHIN_OBJECT, WITHIN_BACKGROUND = float(np.exp(2.0)), float(np.exp(1.0))
HEADS, WIDTH = 4, 32
ARMS = {"alone": ("PageRank alone", VERMILION), "after_similarity": ("after the S-stage", BLUE)}


@dataclass(frozen=True)
class MajorityConfig:
    """shares: of the background, rising. dropped: the share of all tokens that the S-stage drops. noise: of logits and of keys."""

    tokens: int = 200
    shares: tuple[float, ...] = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
    dropped: float = 0.25
    iterations: int = 50
    noise: float = 0.3
    seeds: tuple[int, ...] = tuple(range(20))

    def __post_init__(self):
        require(self.tokens >= 20, "majority.tokens", self.tokens, "at least 20")
        rising = all(a < b for a, b in zip(self.shares, self.shares[1:], strict=False))
        inside = len(self.shares) >= 2 and rising and self.shares[0] > 0 and self.shares[-1] * self.tokens < self.tokens
        require(inside, "majority.shares", self.shares, "two or more between 0 and 1, rising")
        require(0 < self.dropped <= 0.5, "majority.dropped", self.dropped, "above 0 and at most half")
        require(self.iterations >= 1, "majority.iterations", self.iterations, "at least 1 vote")
        require(self.noise >= 0, "majority.noise", self.noise, "zero or more")
        require(0 < len(set(self.seeds)) == len(self.seeds), "majority.seeds", self.seeds, "at least one, each once")


def measure(config: MajorityConfig) -> dict[str, Any]:
    """Importance of an object's token over that of a background's, [shares][seeds] by arm, and what the chain predicts."""
    backgrounds = [round(share * config.tokens) for share in config.shares]
    groups = jnp.asarray(np.arange(config.tokens)[None] >= np.array(backgrounds)[:, None])
    keys = jnp.stack([jax.random.key(seed) for seed in config.seeds])
    number = round(config.dropped * config.tokens)
    found: dict[str, Any] = {"shares": list(config.shares), "ratio": {}, "predicted": {}}
    for arm, drop in (("alone", 0), ("after_similarity", number)):
        by_share = jax.jit(
            lambda groups, keys, drop=drop: jax.lax.map(
                lambda one: jax.vmap(partial(ratio, config, drop, one))(keys), groups
            )
        )
        measured, objects, others = by_share(groups, keys)
        found["ratio"][arm] = np.round(measured, 4).tolist()
        predicted = np.vectorize(stationary_ratio)(np.asarray(objects), np.asarray(others))
        found["predicted"][arm] = np.round(predicted, 4).tolist()
    return found


def ratio(config: MajorityConfig, drop: int, is_object: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
    """(importance of an object's token over a background's, tokens of the object, of the background) that the S-stage leaves."""
    attention, similarity = constructed(config, is_object, key)
    kept = similarity_prune(similarity, importance(attention, 1), drop, 0).anchor
    scores = jnp.mean(weighted_pagerank(among(attention, kept), config.iterations), axis=0)
    left = is_object[kept]
    objects, others = jnp.sum(left, dtype=jnp.float32), jnp.sum(~left, dtype=jnp.float32)
    mean_object = jnp.sum(jnp.where(left, scores, 0.0)) / jnp.maximum(objects, 1.0)
    mean_other = jnp.sum(jnp.where(left, 0.0, scores)) / jnp.maximum(others, 1.0)
    return mean_object / mean_other, objects, others


def constructed(config: MajorityConfig, is_object: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
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


def claims(found: dict[str, Any]) -> list[Claim]:
    """A majority wins by its number; dropping its copies first takes that away; both as the chain of two groups says."""
    ratios = {arm: np.array(found["ratio"][arm]) for arm in ARMS}
    first, last = (interval(ratios["alone"][row]) for row in (0, -1))
    ends = {f"share {found['shares'][0]}": first, f"share {found['shares'][-1]}": last}
    gain = [interval(row) for row in ratios["after_similarity"] - ratios["alone"]]
    least = min(gain, key=lambda one: one.mean)
    restored = [
        share
        for share, alone, after in zip(found["shares"], ratios["alone"], ratios["after_similarity"], strict=True)
        if every([below(interval(alone), 1.0), above(interval(after), 1.0)])
    ]
    errors = {arm: float(np.max(np.abs(ratios[arm] / np.array(found["predicted"][arm]) - 1))) for arm in ARMS}
    told = len(ratios["alone"][0]) > 1
    return [
        Claim(
            "majority_overwhelms",
            "A background that only resembles itself outranks the object once it is a large majority (measured: importance of an object's "
            "token over a background's, constructed attention, by share of the background).",
            SOURCE,
            None,
            ends,
            "above 1 at the smallest share, below 1 at the largest, whole intervals",
            every([above(first, 1.0), below(last, 1.0)]),
        ),
        Claim(
            "similarity_stage_lifts_the_object",
            "Dropping near-duplicates first raises the object's importance at every share (measured: the least gain of that ratio).",
            SOURCE,
            None,
            least,
            "every whole interval above 0",
            every(above(one, 0.0) for one in gain),
        ),
        Claim(
            "similarity_stage_restores_the_ranking",
            "Where a majority outranks the object, the S-stage can restore the object's place (measured: the shares at which the object is "
            "below the background without the S-stage and above it with it).",
            SOURCE,
            None,
            restored,
            "at least one share",
            bool(restored) if told else None,
        ),
        Claim(
            "two_groups_are_a_chain",
            "PageRank on two noisy groups is that of the chain of two states (measured: the largest relative error of the ratio).",
            "method card zero-tprune; analytic",
            "stationary masses q / (p + q) and p / (p + q)",
            errors,
            "at most 0.1",
            max(errors.values()) <= 0.1,
        ),
    ]


def draw(axes: Axes, found: dict[str, Any]) -> None:
    """The ratio against the share of the background, with and without the S-stage, and the chain's."""
    for arm, (label, color) in ARMS.items():
        band(axes, found["shares"], np.array(found["ratio"][arm]).T, label, color, marker="o", markersize=3)
        predicted = np.mean(found["predicted"][arm], axis=1)
        chain = "chain of two states" if arm == "alone" else None
        axes.plot(found["shares"], predicted, color=BLACK, linestyle=":", linewidth=1.2, label=chain)
    axes.axhline(1.0, color=BLACK, linewidth=0.8)
    axes.set(
        title="A majority votes for itself",
        xlabel="share of the background",
        ylabel="importance, object over background",
        yscale="log",
    )
    axes.legend()
