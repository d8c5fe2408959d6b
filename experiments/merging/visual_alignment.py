"""Claim C7: tokens that are clusters of patches fit what words are about better than those of a grid.

Kong et al. 2026 (arXiv 2505.18227), section 4, after SeTok; method card token-reduction-beyond-efficiency. The patches of generated
scenes, as the decoder of the toy vision-language models reads them, become equally many tokens: clusters around density peaks, cells of a
grid, or random groups of equal size. Does a token tell the object, by its number (mutual information) and by its vector (linear probe)?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREY, ORANGE, band, reference
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from experiments.subjects.scene_answerers import SceneSubject, held_out, scene_models
from experiments.subjects.scene_pruning import encode_images
from lexinv.merging.agreement import mutual_information
from lexinv.merging.density_peaks import density_peaks, euclidean_distance
from lexinv.merging.plan import Plan, merge
from lexinv.training.streams import stream
from lexinv.validation import require

ARMS = {
    "random": ("random groups", GREY),
    "grid": ("cells of a grid", ORANGE),
    "cluster": ("density peaks", BLUE),
}
SMALLEST = 0.01
"""The least effect that matters: a hundredth of a nat, one point of accuracy."""
RIDGE = 1e-3


@dataclass(frozen=True)
class AlignmentConfig:
    """cells: patches along a side of a cell of the grid, which decides the number of tokens; the first is judged.

    scenes: for training the probes, and for judging. neighbours: of the densities.
    """

    subject: SceneSubject = SceneSubject()
    cells: tuple[int, ...] = (2, 4)
    scenes: tuple[int, int] = (256, 256)
    neighbours: int = 5

    def __post_init__(self):
        grid, patches = self.subject.data.grid, self.subject.data.patches
        fine = self.cells != () and all(cell >= 2 and grid % cell == 0 for cell in self.cells)
        require(fine, "visual_alignment.cells", self.cells, f"divisors of {grid} from 2 on")
        require(min(self.scenes) >= 1, "visual_alignment.scenes", self.scenes, "at least 1")
        most = f"from 1 to {patches - 1}"
        require(1 <= self.neighbours < patches, "visual_alignment.neighbours", self.neighbours, most)


def measure(config: AlignmentConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """Mutual information of token and object in nats and accuracy of probes: of all patches [models] and of every arm [counts][models]."""
    models = scene_models(config.subject, workspace)
    found = workspace.cached("visual_alignment/arms", partial(_arms, config, models.params[: len(seeds)], seeds))
    counts = [(config.subject.data.grid // cell) ** 2 for cell in config.cells]
    return {**models.origin, "counts": counts, **found}


def _arms(config: AlignmentConfig, params: list[Any], seeds: Sequence[int]) -> dict[str, Any]:
    measures = ("information", "probe")
    full: dict[str, list[float]] = {what: [] for what in measures}
    arms: dict[str, Any] = {name: {what: [[] for _ in config.cells] for what in measures} for name in ARMS}
    for tree, seed in zip(params, seeds, strict=False):
        drawn = held_out(config.subject, seed, sum(config.scenes))
        visual = encode_images(config.subject.model, tree, drawn.scenes.pixels).visual
        owner, shape = np.asarray(drawn.scenes.owner), np.asarray(drawn.scenes.shape)
        key = stream(jax.random.key(seed), "groups")

        def score(name: str, cell: int, visual=visual, owner=owner, shape=shape, key=key) -> tuple[float, float]:
            """Of tokens made of the patches of all scenes."""
            assign, tokens = (np.asarray(part) for part in group(config, name, cell, visual, key))
            train, rest = config.scenes[0], slice(config.scenes[0], None)
            shared = [mutual_information(a, o) for a, o in zip(assign[rest], owner[rest], strict=True)]
            vectors = object_vectors(assign, tokens, owner, shape.shape[1])
            right = probe_accuracy(
                vectors[:train], shape[:train], vectors[rest], shape[rest], config.subject.data.shapes
            )
            return float(np.mean(shared)), right

        for what, value in zip(measures, score("patches", 1), strict=True):
            full[what].append(round(value, 4))
        for row, cell in enumerate(config.cells):
            for name in ARMS:
                for what, value in zip(measures, score(name, cell), strict=True):
                    arms[name][what][row].append(round(value, 4))
    return {"full": full, "arms": arms}


@partial(jax.jit, static_argnums=(0, 1, 2))
def group(
    config: AlignmentConfig, arm: str, cell: int, visual: Float[Array, "scenes patches width"], key: Array
) -> tuple[Int[Array, "scenes patches"], Float[Array, "scenes tokens width"]]:
    """(token of each patch, tokens: the means of their patches) of (grid / cell)^2 tokens."""
    grid = config.subject.data.grid
    across = grid // cell
    row, column = np.divmod(np.arange(grid**2, dtype=np.int32), np.int32(grid))
    cells = row // cell * across + column // cell
    first = np.unique(cells, return_index=True)[1].astype(np.int32)

    def plan(x: Array, key: Array) -> Plan:
        if arm == "cluster":
            return density_peaks(euclidean_distance(x), across**2, config.neighbours)
        regular = Plan(jnp.asarray(cells), jnp.ones(grid**2), jnp.asarray(first))
        if arm == "random":
            order = jax.random.permutation(key, grid**2)
            anchor = jnp.argsort(order)[first].astype(jnp.int32)
            return Plan(regular.assign[order], regular.weight, anchor)
        return regular

    plans = jax.vmap(plan)(visual, jax.random.split(key, visual.shape[0]))
    return plans.assign, jax.vmap(merge)(plans, visual)[0]


def object_vectors(
    assign: Integer[np.ndarray, "scenes patches"],
    tokens: Float[np.ndarray, "scenes tokens width"],
    owner: Integer[np.ndarray, "scenes patches"],
    objects: int,
) -> Float[np.ndarray, "scenes objects width"]:
    """For each object the token that has the most of its patches, of equal ones the first."""
    best = np.zeros((len(assign), objects), int)
    for scene, (groups, owners) in enumerate(zip(assign, owner, strict=True)):
        for number in range(objects):
            best[scene, number] = np.bincount(groups[owners == number], minlength=tokens.shape[1]).argmax()
    return np.take_along_axis(tokens, best[..., None], axis=1)


def probe_accuracy(train_x, train_y, test_x, test_y, classes: int) -> float:
    """Of the largest of linear functions, one for each class, fitted by ridge regression to indicators; vectors [..., width]."""
    x, z = (vectors.reshape(-1, vectors.shape[-1]).astype(np.float64) for vectors in (train_x, test_x))
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    x, z = ((vectors - mean) / scale for vectors in (x, z))
    x, z = (np.concatenate([vectors, np.ones((len(vectors), 1))], axis=1) for vectors in (x, z))
    targets = np.eye(classes)[train_y.reshape(-1)]
    weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ targets)
    return float(np.mean((z @ weights).argmax(axis=1) == test_y.reshape(-1)))


def judge(measured: dict[str, Any]) -> list[Claim]:
    """Clusters against the grid and against random groups, by both measures."""
    arms = {name: {what: np.array(rows[0]) for what, rows in arm.items()} for name, arm in measured["arms"].items()}
    effects = {
        f"{label} - {other}": interval(arms["cluster"][what] - arms[other][what])
        for other in ("grid", "random")
        for what, label in (("information", "nats"), ("probe", "probe"))
    }
    shown = {"all patches": measured["full"], **arms}
    return [
        judged(
            7,
            "clusters_fit_objects",
            f"{measured['counts'][0]} tokens that are clusters fit objects better than those of a grid (measured: differences of mutual "
            "information between token and object of a patch, and of the accuracy of a linear probe of an object's shape from the token "
            "that has most of it).",
            "more information and a better probe than a grid and than random groups; refuted where equal",
            effects,
            SMALLEST,
            {name: {what: interval(values) for what, values in arm.items()} for name, arm in shown.items()},
        )
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Mutual information and accuracy of the probe against the number of tokens, as shares of what all patches have."""
    for name, (label, color) in ARMS.items():
        for what, style, kind in (("information", "-", "information"), ("probe", "--", "probe")):
            share = np.array(measured["arms"][name][what]) / np.array(measured["full"][what])[None]
            band(
                axes, measured["counts"], share.T, f"{label}, {kind}", color, marker="o", markersize=3, linestyle=style
            )
    reference(axes, 1.0, "all patches")
    axes.set(xscale="log", xlabel="tokens", ylabel="share of all patches'", title="C7 tokens and objects")
    axes.set_xticks(measured["counts"], [str(count) for count in measured["counts"]])
    axes.minorticks_off()
    axes.legend(fontsize=6)
