"""How well a few tokens stand for many, without a network: spread, coverage, clusters hit, and greedy against the best by enumeration.

Alvar et al. 2025 (DivPrune) and Li et al. 2025 (ToDRE); method card divprune, small reproduction 1. Tokens lie in clusters of a long-tailed
size around orthonormal centres of length 1, with noise of that expected length, or are Gaussian without any structure. A cluster is hit
where what is kept comes within cosine distance 0.2 of its centre. The importance of a token is its similarity to the mean of all; the
pivot of ToDRE is the most important one. ToMe halves the tokens until their number is reached; its tokens are means.
"""

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION
from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.diversity import (
    Objective,
    closest_pair,
    cosine_distance,
    distance_to_chosen,
    diversity_prune,
    greedy_dispersion,
    isolated_token,
)
from lexinv.merging.k_center import pivot_prune
from lexinv.merging.plan import merge
from lexinv.merging.ranking import prune_at_random, prune_by_score
from lexinv.validation import choose, require

SOURCE = "Alvar et al. 2025 (DivPrune)"
CARD = "method card divprune"
HIT = 0.2
SELECTIONS = {
    "random": ("random", GREY),
    "top": ("most important", ORANGE),
    "divprune": ("DivPrune", BLUE),
    "kcenter": ("k-center from a pivot", SKY),
    "maxsum": ("max-sum (ToDRE)", GREEN),
    "tome": ("ToMe", VERMILION),
}
MEASURES = ("closest", "radius", "coverage", "hit")


@dataclass(frozen=True)
class SelectionConfig:
    """sizes: of the clusters. kept: tokens. enumerated: draws of `few` tokens of which `chosen` are the best of all subsets."""

    sizes: tuple[int, ...] = (120, 60, 30, 16, 8, 4, 2, *[1] * 9)
    noise: float = 0.3
    width: int = 32
    kept: int = 16
    seeds: tuple[int, ...] = tuple(range(20))
    enumerated: int = 200
    few: int = 12
    chosen: int = 4

    def __post_init__(self):
        require(len(self.sizes) >= 2 and min(self.sizes) >= 1, "selection.sizes", self.sizes, "two or more clusters")
        fits = len(self.sizes) <= self.width
        require(
            fits, "selection.width", self.width, f"at least the {len(self.sizes)} clusters: centres are orthonormal"
        )
        require(self.noise >= 0, "selection.noise", self.noise, "zero or more")
        require(2 <= self.kept <= sum(self.sizes), "selection.kept", self.kept, f"from 2 to {sum(self.sizes)} tokens")
        require(0 < len(set(self.seeds)) == len(self.seeds), "selection.seeds", self.seeds, "at least one, each once")
        require(self.enumerated >= 1, "selection.enumerated", self.enumerated, "at least 1 draw")
        require(
            2 <= self.chosen <= self.few <= 16, "selection.chosen, few", (self.chosen, self.few), "2 <= . <= . <= 16"
        )


def keep(method: str, x: jax.Array, scores: jax.Array, count: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(tokens [count, width], sizes [count]) that a method makes of x [tokens, width]; scores: what "top" ranks and pivots maximise."""
    choose("method", method, SELECTIONS)
    tokens = x.shape[0]
    if method == "tome":
        size = jnp.ones(tokens)
        while x.shape[0] > count:
            halved = min(x.shape[0] // 2, x.shape[0] - count)
            x, size = merge(bipartite_matching(cosine_similarity(x), halved, protect=0), x, size)
        return x, size
    if method == "random":
        plan = prune_at_random(key, tokens, tokens - count, 0)
    elif method == "top":
        plan = prune_by_score(scores, tokens - count, 0)
    elif method == "divprune":
        plan = diversity_prune(x, count)
    else:
        plan = pivot_prune(x, scores, count, "maxmin" if method == "kcenter" else "maxsum")
    return merge(plan, x)


def draw_tokens(config: SelectionConfig, clustered: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, centres of the clusters), float32; without clusters the centres mean nothing. Tokens come in random order."""
    rng = np.random.default_rng([seed, clustered])
    centres = np.linalg.qr(rng.normal(size=(config.width, config.width)))[0][: len(config.sizes)]
    labels = rng.permutation(np.repeat(np.arange(len(config.sizes)), config.sizes))
    x = rng.normal(size=(len(labels), config.width)) / np.sqrt(config.width)
    return (centres[labels] + config.noise * x if clustered else x).astype(np.float32), centres.astype(np.float32)


def qualities(method: str, count: int, x: jax.Array, centres: jax.Array, key: jax.Array) -> jax.Array:
    """The `MEASURES`: closest pair of what is kept, coverage radius, mean coverage (cosine distances), and clusters hit."""
    mean = jnp.mean(x, axis=0)
    kept, _ = keep(method, x, cosine_similarity(jnp.concatenate([mean[None], x]))[0, 1:], count, key)
    distance = cosine_distance(jnp.concatenate([kept, x, centres]))
    chosen = jnp.arange(count, dtype=jnp.int32)
    covered = distance_to_chosen(distance, chosen)[count:]
    to_tokens, to_centres = covered[: len(x)], covered[len(x) :]
    return jnp.stack(
        [
            closest_pair(distance, chosen),
            to_tokens.max(),
            to_tokens.mean(),
            jnp.sum(to_centres < HIT, dtype=jnp.float32),
        ]
    )


def measure(config: SelectionConfig) -> dict[str, Any]:
    """The measures of every selection by seed, on clusters and on tokens without structure, and greedy over the best of all subsets."""
    found: dict[str, Any] = {"clusters": len(config.sizes), "kept": config.kept, "tokens": sum(config.sizes)}
    keys = jnp.stack([jax.random.key(seed) for seed in config.seeds])
    drawn = {
        name: tuple(
            map(np.stack, zip(*[draw_tokens(config, name == "clustered", s) for s in config.seeds], strict=True))
        )
        for name in ("clustered", "unstructured")
    }
    for method in SELECTIONS:
        measured = jax.jit(jax.vmap(partial(qualities, method, config.kept)))
        for name, (x, centres) in drawn.items():
            columns = np.round(measured(x, centres, keys), 4).T.tolist()
            found.setdefault(name, {})[method] = dict(zip(MEASURES, columns, strict=True))
    return found | {"optimality": optimality(config)}


def optimality(config: SelectionConfig) -> dict[str, Any]:
    """Greedy dispersion over the best subset: the closest pair in chord and in cosine distance, the sum in chord distance; and of any one.

    All three greedy runs start from the most isolated token.
    """
    rng = np.random.default_rng(config.seeds[0])
    x = jnp.asarray(rng.normal(size=(config.enumerated, config.few, 3)), jnp.float32)
    cosine = jax.vmap(cosine_distance)(x)
    chord = jnp.sqrt(2 * jnp.maximum(cosine, 0))
    subsets = np.array(list(itertools.combinations(range(config.few), config.chosen)))
    pairs = np.array(list(itertools.combinations(range(config.chosen), 2)))

    def over_best(distance: jax.Array, objective: Objective, total: Any) -> tuple[np.ndarray, np.ndarray]:
        greedy = jax.jit(jax.vmap(lambda d: greedy_dispersion(d, config.chosen, isolated_token(d), objective)))
        d, chosen = np.asarray(distance), np.asarray(greedy(distance))
        of_all = total(d[:, subsets[:, pairs[:, 0]], subsets[:, pairs[:, 1]]])
        of_greedy = total(np.stack([m[np.ix_(c, c)][pairs[:, 0], pairs[:, 1]] for m, c in zip(d, chosen, strict=True)]))
        best = of_all.max(axis=1)
        return of_greedy / best, of_all.mean(axis=1) / best

    found = {}
    for name, distance, objective, total in (
        ("closest pair, chord", chord, "maxmin", lambda d: d.min(axis=-1)),
        ("closest pair, cosine", cosine, "maxmin", lambda d: d.min(axis=-1)),
        ("sum, chord", chord, "maxsum", lambda d: d.sum(axis=-1)),
    ):
        greedy, average = over_best(distance, objective, total)
        counts, _ = np.histogram(np.minimum(greedy, 1 - 1e-9), bins=20, range=(0, 1))
        found[name] = {
            "mean": round(float(greedy.mean()), 4),
            "worst": round(float(greedy.min()), 4),
            "random": round(float(average.mean()), 4),
            "histogram": counts.tolist(),
        }
    return found


BOUNDS = {"closest pair, chord": 0.5, "closest pair, cosine": 0.25, "sum, chord": 0.5}


def claims(found: dict[str, Any]) -> list[Claim]:
    """Diversity finds every cluster, pays only where there is redundancy, and keeps its guarantee."""
    clustered, flat, ratios = found["clustered"], found["unstructured"], found["optimality"]
    hits = {method: interval(clustered[method]["hit"]) for method in SELECTIONS}
    told = hits["random"].n > 1
    gap = {
        name: interval(np.array(found[name]["random"]["radius"]) - np.array(found[name]["divprune"]["radius"]))
        for name in ("clustered", "unstructured")
    }
    pruned = ("random", "top", "divprune", "maxsum")
    radii = {method: float(np.mean(flat[method]["radius"])) for method in pruned}
    closest = {method: interval(clustered[method]["closest"]) for method in ("divprune", "maxsum")}
    wider = interval(np.array(clustered["divprune"]["closest"]) - np.array(clustered["maxsum"]["closest"]))
    spread = max(radii.values()) - min(radii.values())
    return [
        Claim(
            "divprune_hits_all_clusters",
            f"DivPrune keeps a token of each of {found['clusters']} clusters of long-tailed sizes among {found['kept']} kept tokens, where "
            "random tokens and the most important ones do not (measured: clusters hit).",
            CARD,
            "16.0; random 5.2, importance 1.0, max-sum 14.9 (pilot)",
            hits,
            f"all {found['clusters']} in every draw; the intervals of random and importance below half of them",
            every(
                [
                    min(clustered["divprune"]["hit"]) == found["clusters"] if told else None,
                    *[below(hits[method], found["clusters"] / 2) for method in ("random", "top")],
                ]
            ),
        ),
        Claim(
            "divprune_widest_closest_pair",
            "Max-min keeps its closest pair farther apart than max-sum does (measured: cosine distance of the closest pair kept, and the "
            "difference by draw).",
            CARD,
            "0.825 against 0.153 (pilot)",
            closest | {"difference": wider},
            "whole interval of the difference above 0",
            above(wider, 0.0),
        ),
        Claim(
            "diversity_needs_redundancy",
            "Without clusters every selection covers about as well as any other: diversity pays where tokens are redundant (measured: mean "
            "coverage radius on Gaussian tokens; random less DivPrune there and on clusters).",
            CARD,
            "0.50 to 0.53 for random, importance, DivPrune and max-sum (pilot)",
            {"radius": radii, "random less DivPrune": gap},
            "radii within 0.05 of one another; on clusters the whole interval above 0.5",
            every([spread <= 0.05, above(gap["clustered"], 0.5)]),
        ),
        Claim(
            "redundancy_makes_the_gain",
            "DivPrune covers better than random tokens by much more where there are clusters than where there are none (measured: random "
            "less DivPrune, coverage radius; added after the first run, which did not find the pilot's radii without clusters).",
            CARD,
            None,
            gap,
            "without clusters the whole interval below a quarter of the mean on clusters",
            below(gap["unstructured"], gap["clustered"].mean / 4),
        ),
        Claim(
            "greedy_within_bound",
            "Greedy dispersion comes within its guaranteed factor of the best of all subsets (measured: the worst ratio of all draws).",
            "Gonzalez 1985; Ravi et al. 1994",
            "1/2 for a metric, so 1/4 for cosine distance; worst 0.54 (pilot)",
            {name: ratio["worst"] for name, ratio in ratios.items()},
            "at least 0.5 in chord and 0.25 in cosine distance",
            all(ratios[name]["worst"] >= bound for name, bound in BOUNDS.items()),
        ),
        Claim(
            "greedy_near_optimum",
            "On average it is close to the best (measured: mean ratio of the closest pair in chord distance; and an average subset's).",
            CARD,
            "mean 0.88 (pilot)",
            {name: ratios["closest pair, chord"][name] for name in ("mean", "random")},
            "at least 0.8",
            ratios["closest pair, chord"]["mean"] >= 0.8,
        ),
    ]


def draw_coverage(axes: Axes, found: dict[str, Any]) -> None:
    """Coverage radius on clusters and without structure, and the clusters hit written beside."""
    places = np.arange(len(SELECTIONS))
    for name, shift, shade in (("clustered", 0.2, 1.0), ("unstructured", -0.2, 0.4)):
        radii = [interval(found[name][method]["radius"]) for method in SELECTIONS]
        colors = [color for _, color in SELECTIONS.values()]
        errors = [0 if r.high is None else r.high - r.mean for r in radii]
        axes.barh(places + shift, [r.mean for r in radii], 0.36, xerr=errors, color=colors, alpha=shade, ecolor=BLACK)
    for place, method in zip(places, SELECTIONS, strict=True):
        hit = np.mean(found["clustered"][method]["hit"])
        axes.text(0.02, place + 0.2, f"{hit:.1f} of {found['clusters']} clusters", va="center", fontsize=7)
        axes.text(0.02, place - 0.2, "without clusters", va="center", fontsize=7)
    axes.set_yticks(places, [label for label, _ in SELECTIONS.values()])
    axes.invert_yaxis()
    axes.grid(False)
    axes.set(title=f"{found['kept']} of {found['tokens']} tokens", xlabel="coverage radius (cosine distance)")
