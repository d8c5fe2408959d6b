"""How well a few tokens stand for many, without a network: spread, coverage, clusters hit, and greedy against the best by enumeration.

Alvar et al. 2025 (DivPrune) beside ToDRE's max-sum; method card divprune, small reproduction 1. Tokens lie in clusters of
long-tailed sizes around orthonormal centres of length 1, with noise of that expected length, or are Gaussian without any structure. A
cluster is hit where what is kept comes within cosine distance 0.2 of its centre. The importance of a token is its similarity to the mean
of all; the pivot of ToDRE is the most important one. ToMe halves the tokens until their number is reached; its tokens are means.
"""

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import dots
from experiments.harness.presets import presets
from experiments.harness.style import panels, styled
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from lexinv.merging.bipartite import cosine_similarity
from lexinv.merging.diversity import (
    closest_pair,
    cosine_distance,
    distance_to_chosen,
    greedy_dispersion,
    isolated_token,
)
from lexinv.merging.plan import merge
from lexinv.merging.selections import keep
from lexinv.validation import Checked, Count, NonNegative, Seeds

PAPERS = ("alvar2025divprune",)
ABSTRACT = "alvar2025divprune: abstract"
HIT = 0.2
SELECTIONS = {
    "random": "random",
    "top": "most important",
    "divprune": "DivPrune",
    "kcenter": "k-center from a pivot",
    "maxsum": "max-sum (ToDRE)",
    "tome": "ToMe",
}
LAYOUTS = {"clustered": "clusters", "unstructured": "no clusters"}
MEASURES = ("closest", "radius", "coverage", "hit")


@dataclass(frozen=True)
class Config(Checked):
    """sizes: of the clusters. kept: tokens. enumerated: draws of `few` tokens of which `chosen` are the best of all subsets."""

    sizes: tuple[int, ...] = (120, 60, 30, 16, 8, 4, 2, *[1] * 9)
    noise: NonNegative = 0.3
    width: Count = 32
    kept: Count = 16
    seeds: Seeds = tuple(range(20))
    enumerated: Count = 200
    few: Count = 12
    chosen: Count = 4

    def checks(self):
        yield len(self.sizes) >= 2 and min(self.sizes) >= 1, "sizes", "two or more clusters"
        yield len(self.sizes) <= self.width, "width", f"at least the {len(self.sizes)} clusters: they are orthonormal"
        yield 2 <= self.kept <= sum(self.sizes), "kept", f"from 2 to {sum(self.sizes)} tokens"
        yield self.few <= 16, "few", "at most 16: all subsets are tried"
        yield 2 <= self.chosen <= self.few, "chosen", f"from 2 to {self.few}"


PRESETS = presets(
    Config(),
    smoke={
        "sizes": (20, 8, 4, 2, 1, 1),
        "width": 16,
        "kept": 6,
        "seeds": (0, 1),
        "enumerated": 20,
    },
    quick={"seeds": (0, 1, 2)},
    paper={"seeds": tuple(range(100))},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By `layout/method` the `MEASURES` [seeds]; greedy over the best subset, see `optimality`."""
    names = [f"{layout}/{method}" for layout in LAYOUTS for method in SELECTIONS]
    return {
        "corpora": {},
        "seeds": list(config.seeds),
        "clusters": len(config.sizes),
        "kept": config.kept,
        "tokens": sum(config.sizes),
        "arms": measured(workspace, names, config.seeds, partial(selected, config)),
        "optimality": workspace.cached("optimality", lambda: optimality(config)),
    }


def draw_tokens(config: Config, clustered: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, centres of the clusters), float32; without clusters the centres mean nothing. Tokens come in random order."""
    rng = np.random.default_rng([seed, clustered])
    centres = np.linalg.qr(rng.normal(size=(config.width, config.width)))[0][: len(config.sizes)]
    labels = rng.permutation(np.repeat(np.arange(len(config.sizes)), config.sizes))
    x = rng.normal(size=(len(labels), config.width)) / np.sqrt(config.width)
    return (centres[labels] + config.noise * x if clustered else x).astype(np.float32), centres.astype(np.float32)


def selected(config: Config, arm: str, seed: int) -> dict[str, float]:
    """The `MEASURES` of a selection."""
    layout, method = arm.split("/")
    x, centres = draw_tokens(config, layout == "clustered", seed)
    found = np.round(qualities(method, config.kept, x, centres, jax.random.key(seed)), 4)
    return dict(zip(MEASURES, found.tolist(), strict=True))


@partial(jax.jit, static_argnums=(0, 1))
def qualities(method: str, count: int, x: jax.Array, centres: jax.Array, key: jax.Array) -> jax.Array:
    """The `MEASURES`: closest pair of what is kept, coverage radius, mean coverage (cosine distances), and clusters hit."""
    mean = jnp.mean(x, axis=0)
    scores = cosine_similarity(jnp.concatenate([mean[None], x]))[0, 1:]
    kept, _ = merge(keep(method, x, scores, count, key), x)
    distance = cosine_distance(jnp.concatenate([kept, x, centres]))
    chosen = jnp.arange(count, dtype=jnp.int32)
    covered = distance_to_chosen(distance, chosen)[count:]
    to_tokens, to_centres = covered[: len(x)], covered[len(x) :]
    hit = jnp.sum(to_centres < HIT, dtype=jnp.float32)
    return jnp.stack([closest_pair(distance, chosen), to_tokens.max(), to_tokens.mean(), hit])


def optimality(config: Config) -> dict[str, float]:
    """The closest pair in chord distance that greedy dispersion keeps over that of the best of all subsets, and of any subset; means.

    The greedy runs start from the most isolated token.
    """
    rng = np.random.default_rng(config.seeds[0])
    x = jnp.asarray(rng.normal(size=(config.enumerated, config.few, 3)), jnp.float32)
    chord = jnp.sqrt(2 * jnp.maximum(jax.vmap(cosine_distance)(x), 0))
    greedy = jax.jit(jax.vmap(lambda d: greedy_dispersion(d, config.chosen, isolated_token(d), "maxmin")))(chord)
    subsets = np.array(list(itertools.combinations(range(config.few), config.chosen)))
    first, second = np.array(list(itertools.combinations(range(config.chosen), 2))).T
    distance, chosen, draws = np.asarray(chord), np.asarray(greedy), np.arange(config.enumerated)[:, None]
    of_all = distance[:, subsets[:, first], subsets[:, second]].min(axis=-1)
    of_greedy = distance[draws, chosen[:, first], chosen[:, second]].min(axis=-1)
    best = of_all.max(axis=1)
    shares = {"greedy": of_greedy / best, "worst": (of_greedy / best).min(), "any subset": of_all.mean(axis=1) / best}
    return {name: round(float(np.mean(share)), 4) for name, share in shares.items()}


def claims(results: dict[str, Any]) -> list[Claim]:
    """Diversity finds every cluster, pays only where there is redundancy, and comes near the best."""
    arms, clusters = Arms(results), results["clusters"]

    def of(layout: str, method: str, measure: str) -> np.ndarray:
        return arms[f"{layout}/{method}", measure]

    gap = {layout: of(layout, "random", "radius") - of(layout, "divprune", "radius") for layout in LAYOUTS}
    pruned = ("random", "top", "divprune", "maxsum")
    radii = [float(np.mean(of("unstructured", method, "radius"))) for method in pruned]
    closest = {method: of("clustered", method, "closest") for method in ("divprune", "maxsum")}
    return [
        Claim(
            "divprune_hits_all_clusters",
            f"DivPrune keeps a token of each of {clusters} clusters of long-tailed sizes among {results['kept']} kept tokens, where "
            "random tokens and the most important ones do not reach half of them.",
            OURS,
            {method: of("clustered", method, "hit") for method in SELECTIONS},
            {"divprune": above(clusters - 0.5).every_seed, **dict.fromkeys(("random", "top"), below(clusters / 2))},
            "clusters hit",
        ),
        Claim(
            "divprune_widest_closest_pair",
            "Max-min keeps its closest pair farther apart than max-sum does.",
            ABSTRACT,
            closest | {"difference": closest["divprune"] - closest["maxsum"]},
            {"difference": above(0)},
            "cosine distance of the closest pair kept, on clusters",
            "the subset whose closest pair is as far apart as possible",
        ),
        Claim(
            "diversity_needs_redundancy",
            "Without clusters every selection covers about as well as any other: diversity pays where tokens are redundant.",
            OURS,
            {"spread without clusters": max(radii) - min(radii), "random less DivPrune, clusters": gap["clustered"]},
            {"spread without clusters": below(0.05), "random less DivPrune, clusters": above(0.5)},
            f"coverage radius; spread of the means of {', '.join(pruned)}",
        ),
        Claim(
            "redundancy_makes_the_gain",
            "DivPrune covers better than random tokens by four times as much where there are clusters as where there are none (added after "
            "the first run, which did not find the claim before).",
            OURS,
            {"difference": gap["clustered"] / 4 - gap["unstructured"]},
            above(0),
            "a quarter of the gain in coverage radius on clusters less that without",
        ),
        Claim(
            "greedy_near_optimum",
            "The greedy loop is on average close to the best of all subsets.",
            OURS,
            results["optimality"],
            {"greedy": above(0.8)},
            "closest pair over that of the best subset, chord distance, mean of draws",
            over="draws",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Coverage radius with and without clusters, clusters hit, and the closest pair kept."""
    arms, few = Arms(results), f"{results['kept']} of {results['tokens']} tokens"
    drawn, axes = panels(1, 4, width=3.4, height=3.2)
    shown = (
        ("clustered", "radius", f"{few}, clusters", "coverage radius (cosine distance)"),
        ("unstructured", "radius", f"{few}, no clusters", "coverage radius (cosine distance)"),
        ("clustered", "hit", f"of {results['clusters']} clusters", "clusters hit"),
        ("clustered", "closest", f"{few}, clusters", "closest pair (cosine distance)"),
    )
    with styled():
        for panel, (layout, measure, title, label) in zip(axes, shown, strict=True):
            dots(panel, {name: arms[f"{layout}/{method}", measure] for method, name in SELECTIONS.items()})
            panel.set(title=title, xlabel=label)
        for panel in axes[:2]:
            panel.set_xlim(0, 1.2)
        for panel in axes[1:]:
            panel.set_yticklabels([])
    return drawn
