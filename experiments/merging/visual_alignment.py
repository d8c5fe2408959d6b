"""Whether tokens that are clusters of patches fit what words are about better than those of a grid.

Kong et al. 2026 (arXiv 2505.18227), section 4, after SeTok; claim C7 of method card token-reduction-beyond-efficiency. The patches of
generated scenes, as the decoder of toy vision-language models reads them, become equally many tokens: clusters around density peaks, cells
of a grid, or random groups of equal size. Does a token tell the object, by its number (mutual information) and by its vector (linear
probe)?
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import curves
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREY, ORANGE, panels, reference
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.scene_answerers import PUBLISHED, SMOKE, SceneSubject, held_out, scene_models
from experiments.subjects.scene_pruning import encode_images
from lexinv.merging.agreement import mutual_information
from lexinv.merging.density_peaks import density_peaks, euclidean_distance
from lexinv.merging.plan import Plan, merge
from lexinv.randomness import threefry
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts

PAPERS = ("kong2025token",)
ARMS = {
    "random": ("random groups", GREY),
    "grid": ("cells of a grid", ORANGE),
    "cluster": ("density peaks", BLUE),
}
MEASURES = {"information": "mutual information with the object, nats", "probe": "accuracy of a probe of its shape"}
SMALLEST = 0.01
"""The least effect that matters: a hundredth of a nat, one point of accuracy."""
RIDGE = 1e-3


@dataclass(frozen=True)
class Config(Checked):
    """cells: patches along a side of a cell of the grid, less at its end, which decides the number of tokens; the first is judged.

    scenes: for training the probes, and for judging. neighbours: of the densities.
    """

    subject: SceneSubject = SceneSubject()
    cells: Counts = (2, 3)
    scenes: tuple[int, int] = (256, 256)
    neighbours: Count = 5

    def checks(self):
        grid, patches = self.subject.data.grid, self.subject.data.patches
        yield all(2 <= cell < grid for cell in self.cells), "cells", f"from 2 to {grid - 1}"
        yield min(self.scenes) >= 1, "scenes", "at least 1"
        yield self.neighbours < patches, "neighbours", f"below {patches}"


PRESETS = presets(
    Config(),
    smoke={**SMOKE, "cells": (2,), "scenes": (8, 8)},
    quick={"subject.training.seeds": (0, 1)},
    paper={**PUBLISHED, "scenes": (2000, 2000)},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Mutual information of token and object in nats and accuracy of probes: [seeds][counts] of every arm; of all patches [seeds]."""
    params, seeds = scene_models(config.subject, workspace), config.subject.training.seeds

    def one(arm: str, seed: int) -> dict[str, Any]:
        drawn = held_out(config.subject, seed, sum(config.scenes))
        visual = encode_images(config.subject.model, params[seed], drawn.scenes.pixels).visual
        owner, shape = np.asarray(drawn.scenes.owner), np.asarray(drawn.scenes.shape)
        key = stream(jax.random.key(seed), "groups")

        def scored(cell: int) -> dict[str, float]:
            assign, tokens = (np.asarray(part) for part in group(config, arm, cell, visual, key))
            train, rest = slice(config.scenes[0]), slice(config.scenes[0], None)
            shared = [mutual_information(a, o) for a, o in zip(assign[rest], owner[rest], strict=True)]
            x = object_vectors(assign, tokens, owner, shape.shape[1])
            right = probe_accuracy(x[train], shape[train], x[rest], shape[rest], config.subject.data.shapes)
            return {"information": round(float(np.mean(shared)), 4), "probe": round(right, 4)}

        if arm == "patches":
            return scored(1)
        rows = [scored(cell) for cell in config.cells]
        return {what: [row[what] for row in rows] for what in MEASURES}

    arms = measured(workspace, ("patches", *ARMS), seeds, one)
    counts = [(-(-config.subject.data.grid // cell)) ** 2 for cell in config.cells]
    return {"corpora": {}, "seeds": seeds, "counts": counts, "arms": arms}


@partial(jax.jit, static_argnums=(0, 1, 2))
def group(
    config: Config, arm: str, cell: int, visual: Float[Array, "scenes patches width"], key: Array
) -> tuple[Int[Array, "scenes patches"], Float[Array, "scenes tokens width"]]:
    """(token of each patch, tokens: the means of their patches) of (grid / cell)^2 tokens, rounded up."""
    grid = config.subject.data.grid
    across = -(-grid // cell)
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

    plans = jax.vmap(plan)(visual, jax.random.split(threefry(key), visual.shape[0]))
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


def claims(results: dict[str, Any]) -> list[Claim]:
    """Clusters against the grid and against random groups, by both measures."""
    arms, units = Arms(results), {"information": "nats", "probe": "probe"}
    gains = {
        f"{unit} over {other}": arms["cluster", what][:, 0] - arms[other, what][:, 0]
        for other in ("grid", "random")
        for what, unit in units.items()
    }
    return [
        Claim(
            "clusters_fit_objects",
            f"C7: {results['counts'][0]} tokens that are clusters fit objects better than those of a grid and than random groups, by the "
            "mutual information of token and object and by a linear probe of an object's shape from the token that has most of it.",
            "kong2025token: section 4",
            gains,
            above(0, matters=SMALLEST),
            "nats, accuracy",
        )
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Mutual information and accuracy of the probe against the number of tokens, with those of all patches."""
    arms, counts = Arms(results), results["counts"]
    drawn, axes = panels(1, 2, titles=("By the token's number", "By the token's vector"))
    for panel, (what, label) in zip(axes, MEASURES.items(), strict=True):
        curves(panel, counts, arms, what, ARMS, ticks=True)
        reference(panel, arms["patches", what].mean(), "all patches")
        panel.set(xlabel="tokens", ylabel=label)
    axes[1].legend()
    return drawn
