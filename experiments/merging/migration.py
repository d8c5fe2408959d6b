"""Claim C9: what the image says has moved into the text by the middle of the decoder, so that visual tokens can go from there on.

Kong et al. 2026 (arXiv 2505.18227), section 4, after ToDRE and others; method card token-reduction-beyond-efficiency. In the toy
vision-language models of `scene_models` all visual tokens are removed before a layer. Removal before the first is the control: it says
what the image is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREEN, ORANGE, PURPLE, band, reference
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from experiments.subjects.scene_answerers import SceneSubject, ask_together, held_out, scene_models
from experiments.subjects.scene_pruning import encode_images, group, layer_by_layer
from lexinv.validation import require

TYPES = {"rare": PURPLE, "dominant": BLUE, "count": ORANGE, "presence": GREEN}
"""Of questions: the colour of a small and of the largest object, how many, whether there."""
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
    """Accuracy by type of question and over all, [models][layers + 1], with visual tokens removed before layer 1, 2, ..., never."""
    models = scene_models(config.subject, workspace)
    found = workspace.cached("migration/accuracy", partial(_accuracies, config, models.params[: len(seeds)], seeds))
    return {**models.origin, "accuracy": found}


def _accuracies(config: MigrationConfig, params: list[Any], seeds: Sequence[int]) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {name: [] for name in ("all", *TYPES)}
    for tree, seed in zip(params, seeds, strict=False):
        scenes, questions = held_out(config.subject, seed, config.scenes)
        visual = encode_images(config.subject.model, tree, scenes.pixels).visual
        asked = ask_together(config.subject, tree, visual, questions)
        layers = layer_by_layer(config.subject, tree, asked, questions, thresholds=(0.1,))
        grouped = [group(config.subject.data, questions, right) for right in layers.right]
        for name, rows in found.items():
            rows.append([types[name] for types in grouped])
    return found


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
    """Accuracy by type of question against the layer of removal."""
    accuracy = measured["accuracy"]
    depth = len(accuracy["all"][0]) - 1
    for name, color in TYPES.items():
        band(axes, range(depth + 1), accuracy[name], name, color, marker="o", markersize=3)
    reference(axes, float(np.mean(accuracy["all"], axis=0)[-1]), "all tokens, all questions")
    axes.set(xlabel="layers that see the image", ylabel="accuracy", title="C9 removal of all visual tokens")
    axes.set_xticks(range(depth + 1))
    axes.legend()
