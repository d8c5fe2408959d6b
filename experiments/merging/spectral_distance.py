"""What PiToMe and ToMe keep of the spectrum of the token graph: clusters in adverse and in random order, one step and many.

The theorem on spectral distance of Tran et al. 2024, without a network. `parity`: the largest cluster fills one side of ToMe's bipartition.
`dominant`: one large cluster and 12 single tokens. `unequal`: clusters of sizes 40:20:8:4:2:1:1. `equal`: four of one size, against the
theorem's assumption on sizes. Every step merges an eighth of the tokens that are left, matched on their current means. The noise is the
expected length of what is added to a centre of length 1. The oracle knows the clusters and takes the largest first.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.figures import legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import panels, styled
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.energy import energies, energy_matching
from lexinv.merging.plan import Plan, merge
from lexinv.merging.spectral import purity, spectral_distance, token_graph
from lexinv.randomness import threefry
from lexinv.validation import Checked, Count, Seeds

PAPERS = ("tran2024accelerating",)
THEOREM = "tran2024accelerating: theorem on spectral distance"
MARGIN = 0.5
TIGHT = 0.01
"""The noise at which distances are judged; the card's pilot had it."""

METHODS = {
    "oracle": "clusters known",
    "tome": "ToMe",
    "random": "random bipartite",
    "protect": "PiToMe",
    "ordered": "PiToMe, ordered",
    "inverted": "PiToMe, inverted",
}
LAYOUTS = {
    "parity": "one side of the bipartition",
    "dominant": "one large, others single",
    "unequal": "unequal, random order",
    "equal": "equal, random order",
}
SINGLETONS = 12


@dataclass(frozen=True)
class Config(Checked):
    """tokens: per layout, a multiple of 8. noises: from large to small, the judged one among them."""

    tokens: Count = 64
    width: Count = 32
    noises: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01, 0.001)
    seeds: Seeds = tuple(range(10))

    def checks(self):
        yield self.tokens >= 32 and self.tokens % 8 == 0, "tokens", "a multiple of 8, at least 32"
        yield self.width > SINGLETONS, "width", f"above {SINGLETONS}: centres are orthonormal"
        falling = all(a > b > 0 for a, b in pairwise(self.noises))
        yield falling, "noises", "positive numbers, falling"
        tight = [noise for noise in self.noises if noise <= 0.1]
        yield TIGHT in tight and len(tight) >= 2, "noises", f"{TIGHT} and another one up to 0.1"


PRESETS = presets(
    Config(),
    smoke={"tokens": 32, "width": 16, "noises": (0.1, 0.01), "seeds": (0, 1, 2)},
    paper={"tokens": 200, "width": 64, "seeds": tuple(range(30))},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Per layout: spectral distance and purity of every method, [noises][seeds], after one step and at the goal."""
    layouts = {name: workspace.cached(f"layouts/{name}", partial(measure, config, name)) for name in LAYOUTS}
    return {"corpora": {}, "seeds": list(config.seeds), "noises": list(config.noises), "layouts": layouts}


def cluster_sizes(layout: str, tokens: int) -> list[int]:
    """How many tokens each cluster has, the largest first."""
    if layout == "dominant":
        return [tokens - SINGLETONS] + [1] * SINGLETONS
    if layout == "equal":
        return [tokens // 4] * 4
    if layout == "parity":
        largest, rest = tokens // 2, [tokens // 4, tokens // 8, tokens // 16, 2, 1, 1]
    else:
        rest = [*(max(round(tokens * s / 76), 1) for s in (20, 8, 4, 2)), 1, 1]
        largest = tokens - sum(rest)
    rest[0] += tokens - largest - sum(rest)
    return [largest, *rest]


def goal_of(layout: str, tokens: int) -> int:
    """The tokens at which merging stops: as many as clusters, and twice as many where they are equal."""
    return len(cluster_sizes(layout, tokens)) * (2 if layout == "equal" else 1)


def draw(layout: str, config: Config, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [tokens, width] and their clusters. Seeds share centres, order and directions of the noise over all noises."""
    rng = np.random.default_rng([seed, *map(ord, layout)])
    labels = np.repeat(np.arange(len(cluster_sizes(layout, config.tokens))), cluster_sizes(layout, config.tokens))
    if layout == "parity":
        order, half = np.empty(config.tokens, int), config.tokens // 2
        order[0::2], order[1::2] = rng.permutation(half), half + rng.permutation(half)  # sources are the even places
    else:
        order = rng.permutation(config.tokens)
    centres = np.linalg.qr(rng.normal(size=(config.width, config.width)))[0]
    x = centres[labels] + noise / np.sqrt(config.width) * rng.normal(size=(config.tokens, config.width))
    return x[order], labels[order]


def plan_of(method: str, similarity: jax.Array, count: int, mask: jax.Array, key: jax.Array) -> Plan:
    """One step of a method; nothing is protected but by the method."""
    if method in ("tome", "random"):
        return bipartite_matching(similarity, count, 2, 0, mask, key if method == "random" else None)
    scores = energies(similarity, MARGIN, mask=mask)
    mode = "ordered" if method == "ordered" else "protect"
    return energy_matching(similarity, -scores if method == "inverted" else scores, count, mode, 0, mask)


@partial(jax.jit, static_argnames=("method",))
def shrink(
    x: jax.Array, keys: jax.Array, method: str, steps: jax.Array | int, goal: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """Targets [runs, tokens] and their numbers [runs] after `steps` merges of an eighth of what is left, or once `goal` is reached.

    x: [runs, tokens, width]. Targets are padded back to the number of tokens, so that one compile serves all steps and goals; where an
    eighth would go below the goal, the step before is the last.
    """
    tokens = x.shape[1]
    count = -(-tokens // 8)

    def one(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(number, carry):
            y, size, assign = carry
            plan = plan_of(method, cosine_similarity(y), count, size > 0, jax.random.fold_in(key, number))
            merged, sizes = merge(plan, y, size)
            after = jnp.pad(merged, ((0, count), (0, 0))), jnp.pad(sizes, (0, count)), plan.assign[assign]
            going = jnp.sum(sizes > 0) >= goal
            return jax.tree.map(lambda new, old: jnp.where(going, new, old), after, carry)

        start = x, jnp.ones(tokens), jnp.arange(tokens, dtype=jnp.int32)
        _, size, assign = jax.lax.fori_loop(0, steps, step, start)
        return assign, jnp.sum(size > 0)

    return jax.vmap(one)(x, keys)


def measure(config: Config, layout: str) -> dict[str, Any]:
    """Distances and purities of all methods on a layout, at the same numbers of tokens."""
    goal, shape = goal_of(layout, config.tokens), (len(config.noises), len(config.seeds))
    drawn = [draw(layout, config, noise, seed) for noise in config.noises for seed in config.seeds]
    x = jnp.asarray(np.stack([tokens for tokens, _ in drawn]), jnp.float32)
    keys = jnp.tile(jax.random.split(threefry(jax.random.key(0)), len(config.seeds)), len(config.noises))
    graphs = [token_graph(tokens) for tokens, _ in drawn]
    found: dict[str, Any] = {"goal": goal, "sizes": cluster_sizes(layout, config.tokens)}
    for depth, steps in (("step", 1), ("goal", config.tokens)):
        merged = {method: shrink(x, keys, method, steps, goal) for method in METHODS if method != "oracle"}
        left = int(merged["tome"][1][0])
        targets = {method: np.asarray(assign) for method, (assign, _) in merged.items()}
        targets["oracle"] = np.stack([by_cluster(labels, left) for _, labels in drawn])
        found[depth] = {"left": left}
        for method, assigns in targets.items():
            runs = [np.unique(assign, return_inverse=True)[1] for assign in assigns]
            distance = [spectral_distance(w, a, int(a.max()) + 1) for w, a in zip(graphs, runs, strict=True)]
            pure = [purity(a, labels) for a, (_, labels) in zip(runs, drawn, strict=True)]
            found[depth][method] = {
                "distance": [[float(f"{d:.4g}") for d in row] for row in np.reshape(distance, shape)],
                "purity": np.reshape(pure, shape).round(4).tolist(),
            }
    return found


def by_cluster(labels: np.ndarray, left: int) -> np.ndarray:
    """Targets of merging within clusters only, the largest first, until `left` are left."""
    assign, groups = np.arange(len(labels)), len(labels)
    for cluster in np.argsort(-np.bincount(labels), kind="stable"):
        members = np.flatnonzero(labels == cluster)
        gone = min(groups - left, len(members) - 1)
        assign[members[1 : gone + 1]] = members[0]
        groups -= gone
    return assign


JUDGED = {"parity": "step", "dominant": "goal"}
"""The layouts of the theorem, at the depths of the card's pilot."""


def values(results: dict[str, Any], layout: str, depth: str, method: str, what: str = "distance") -> np.ndarray:
    """[seeds, noises]."""
    return np.array(results["layouts"][layout][depth][method][what]).T


def slopes(results: dict[str, Any], layout: str, depth: str, method: str) -> np.ndarray:
    """Exponent of the distance as a power of the noise, per seed: least squares over the noises up to 0.1."""
    noises = np.array(results["noises"])
    used = noises <= 0.1
    logs = np.log(np.maximum(values(results, layout, depth, method)[:, used], 1e-12))
    return np.polyfit(np.log(noises[used]), logs.T, 1)[0]


def claims(results: dict[str, Any]) -> list[Claim]:
    """The theorem's two sides on its layouts, and where PiToMe loses."""
    places = {f"{layout}, {depth}": (layout, depth) for layout, depth in JUDGED.items()}
    row, last = results["noises"].index(TIGHT), f"noise {results['noises'][-1]}"

    def at_judged(method: str, row: int = row) -> dict[str, np.ndarray]:
        return {name: values(results, *place, method)[:, row] for name, place in places.items()}

    def lost(layout: str, what: str) -> np.ndarray:
        """PiToMe's less ToMe's, after many steps."""
        both = (values(results, layout, "goal", method, what)[:, row] for method in ("protect", "tome"))
        return np.subtract(*both)

    smallest = {f"{name}, {last}": found for name, found in at_judged("tome", -1).items()}
    iterated = {
        f"{name}, {what}": lost(name, what) for name in ("parity", "unequal") for what in ("purity", "distance")
    }
    inverted = {name: at_judged("inverted")[name] - at_judged("protect")[name] for name in places}
    left = results["layouts"]["dominant"]["goal"]["left"]
    where = f"noise {TIGHT}: parity after one step, dominant at {left} tokens"
    return [
        Claim(
            "pitome_preserves_spectrum",
            "PiToMe's spectral distance to the original token graph vanishes as clusters tighten.",
            THEOREM,
            at_judged("protect"),
            below(0.005),
            f"spectral distance, {where}",
            "tends to 0",
        ),
        Claim(
            "vanishes_with_squared_noise",
            "PiToMe's distance falls with the square of the noise.",
            OURS,
            {name: slopes(results, *place, "protect") for name, place in places.items()},
            between(1.8, 2.2),
            "exponent over the noises up to 0.1, same layouts",
        ),
        Claim(
            "tome_does_not",
            "ToMe's distance stays however tight the clusters are.",
            THEOREM,
            at_judged("tome") | smallest,
            above(0.01),
            "spectral distance at the judged and at the smallest noise, same layouts",
            "tends to a constant, positive with positive probability",
        ),
        Claim(
            "ordered_pitome_preserves_spectrum",
            "So does PiToMe without protection preserve it, by the order of energies alone.",
            OURS,
            at_judged("ordered"),
            below(0.005),
            f"spectral distance, {where}",
        ),
        Claim(
            "inverted_energy_worse",
            "With the sign of the energy inverted PiToMe's distance is larger.",
            OURS,
            inverted,
            above(0),
            "difference of spectral distances, same layouts and noise",
        ),
        Claim(
            "tome_preserves_many_clusters",
            "On unequal clusters in random order, after one step, ToMe and ordered PiToMe keep the spectrum.",
            OURS,
            {method: values(results, "unequal", "step", method)[:, row] for method in ("tome", "ordered")},
            below(0.005),
            "spectral distance",
        ),
        Claim(
            "pitome_loses_on_equal_clusters",
            "On equal clusters, at two tokens a cluster, PiToMe merges across clusters where ToMe does not.",
            OURS,
            {what: lost("equal", what) for what in ("purity", "distance")},
            {"purity": below(0), "distance": above(0)},
            "PiToMe's less ToMe's",
            "the theorem assumes clusters of different sizes",
        ),
        Claim(
            "pitome_loses_when_iterated",
            "Where clusters are of different sizes too, PiToMe merges across clusters after many steps and ToMe does so less (added after "
            "the first run).",
            OURS,
            iterated,
            {name: below(0) if name.endswith("purity") else above(0) for name in iterated},
            "PiToMe's less ToMe's at the goal",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Distance and purity against noise, a column for each layout; the theorem's at the judged depth, the others at the goal."""
    drawn, axes = panels(2, len(LAYOUTS), width=3.1, height=2.9)
    ticks = np.log10(results["noises"])
    with styled():
        for column, (layout, description) in enumerate(LAYOUTS.items()):
            depth = JUDGED.get(layout, "goal")
            left = results["layouts"][layout][depth]["left"]
            for place, what in ((column, "distance"), (column + len(LAYOUTS), "purity")):
                arms = {label: values(results, layout, depth, method, what) for method, label in METHODS.items()}
                arms = {label: np.maximum(found, 1e-9) for label, found in arms.items()}
                lines(axes[place], ticks, arms)
                axes[place].set_xticks(ticks, [f"{noise:g}" for noise in results["noises"]])
            tokens = sum(results["layouts"][layout]["sizes"])
            axes[column].set(yscale="log", title=f"{description}\n{tokens} to {left} tokens")
            axes[len(LAYOUTS) + column].set(xlabel="noise", ylim=(0, 1.05))
        axes[0].set_ylabel("spectral distance, mean and range")
        axes[len(LAYOUTS)].set_ylabel("purity, mean and range")
        legend_beside(axes[len(LAYOUTS) - 1])
    return drawn
