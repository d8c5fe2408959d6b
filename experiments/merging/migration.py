"""Claim C9: what the image says has moved into the text by the middle of the decoder, so that visual tokens can go from there on.

Kong et al. 2026 (arXiv 2505.18227), section 4, after ToDRE and others; method card token-reduction-beyond-efficiency. In the toy
vision-language models of `scene_models` nobody sees a visual token from a layer on. Removal before the first layer is the control: it says
what the image is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREEN, ORANGE, band, reference
from experiments.harness.workspace import Workspace
from experiments.merging.scene_answers import draw_held_out, logits_with, one_by_one, visual_tokens
from experiments.merging.scene_models import SceneSubject, scene_models
from experiments.merging.verdicts import judged
from lexinv.data.scenes import KINDS
from lexinv.validation import require

PLATEAU = 0.02
"""How far below that of all tokens an accuracy on the plateau may be."""


@dataclass(frozen=True)
class MigrationConfig:
    """scenes: for each model, with all questions of training."""

    subject: SceneSubject = SceneSubject()
    scenes: int = 128

    def __post_init__(self):
        require(self.scenes >= 1, "migration.scenes", self.scenes, "at least 1")
        require(self.subject.depth >= 2, "migration.subject.depth", self.subject.depth, "at least 2: there is a middle")


def measure(config: MigrationConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """Accuracy by kind of question and over all, [models][layers + 1], with visual tokens removed from layer 0, 1, ..., never."""
    models = scene_models(config.subject, workspace)
    found = workspace.cached("migration/accuracy", partial(_accuracies, config, models.params[: len(seeds)], seeds))
    return {**models.origin, "accuracy": found}


def _accuracies(config: MigrationConfig, params: list[Any], seeds: Sequence[int]) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {name: [] for name in ("all", *KINDS)}
    for tree, seed in zip(params, seeds, strict=False):
        drawn = draw_held_out(config.subject, seed, config.scenes)
        scene, words, answer = one_by_one(drawn)
        visual = visual_tokens(config.subject, tree, drawn.scenes.pixels)[scene]
        kind = np.asarray(drawn.questions.kind).reshape(-1)
        rows: dict[str, list[float]] = {name: [] for name in found}
        for layer in range(config.subject.depth + 1):
            logits = logits_with(config.subject, tree, visual, words, remove_at=jnp.asarray(layer, jnp.int32))
            right = np.asarray(logits).argmax(axis=-1) == answer
            rows["all"].append(round(float(right.mean()), 4))
            for number, name in enumerate(KINDS):
                if (kind == number).any():
                    rows[name].append(round(float(right[kind == number].mean()), 4))
        for name, row in rows.items():
            found[name].append(row)
    return {name: rows for name, rows in found.items() if rows[0]}


def judge(measured: dict[str, Any]) -> list[Claim]:
    """Removal at the middle against never, and never against removal at once."""
    accuracy = np.array(measured["accuracy"]["all"])
    depth = accuracy.shape[1] - 1
    full, middle, none = accuracy[:, -1], accuracy[:, depth // 2], accuracy[:, 0]
    return [
        judged(
            9,
            "image_has_moved_by_mid_depth",
            f"visual tokens can go from the middle of the decoder on (measured: accuracy over all questions, removed from layer "
            f"{depth // 2 + 1} of {depth} on, less that of all tokens, plus {PLATEAU}; and the latter less that without the image).",
            f"removal at mid-depth costs less than {PLATEAU}, while the image as a whole is worth more; refuted if later layers need it",
            {
                f"removed from the middle - all + {PLATEAU}": interval(middle - full + PLATEAU),
                f"all - no image - {PLATEAU}": interval(full - none - PLATEAU),
            },
            0.0,
            {"accuracy by layer of removal": [interval(row) for row in accuracy.T]},
        )
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Accuracy by kind of question against the layer of removal."""
    accuracy = measured["accuracy"]
    depth = len(accuracy["all"][0]) - 1
    colors = dict(zip(KINDS, (BLUE, ORANGE, GREEN), strict=True))
    for name in KINDS:
        if name in accuracy:
            band(axes, range(depth + 1), accuracy[name], name, colors[name], marker="o", markersize=3)
    reference(axes, float(np.mean(accuracy["all"], axis=0)[-1]), "all tokens, all questions")
    axes.set(xlabel="layers that see the image", ylabel="accuracy", title="C9 removal of all visual tokens")
    axes.set_xticks(range(depth + 1))
    axes.legend()
