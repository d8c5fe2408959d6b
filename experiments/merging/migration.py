"""Whether what the image says has moved into the text by the middle of the decoder, so that visual tokens can go from there on.

Kong et al. 2026 (arXiv 2505.18227), section 4, after ToDRE and others; claim C9 of method card token-reduction-beyond-efficiency. In toy
vision-language models all visual tokens are removed before a layer. Removal before the first is the control: it says what the image is
worth.
"""

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, ORANGE, PURPLE, band, panels, reference
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.scene_answerers import PUBLISHED, SMOKE, SceneSubject, held_out, scene_models
from experiments.subjects.scene_pruning import encode_images, group, layer_by_layer, pose
from lexinv.validation import Checked, Count

PAPERS = ("kong2025token",)
TYPES = {
    "rare": ("colour of a small object", PURPLE),
    "dominant": ("colour of the largest", BLUE),
    "count": ("how many", ORANGE),
    "presence": ("whether there", GREEN),
}
PLATEAU = 0.02
"""How far below that of all tokens an accuracy on the plateau may be."""


@dataclass(frozen=True)
class Config(Checked):
    """scenes: for each model, with all questions of training."""

    subject: SceneSubject = SceneSubject()
    scenes: Count = 128

    def checks(self):
        yield self.subject.depth >= 2, "subject.depth", "at least 2: there is a middle"


PRESETS = presets(
    Config(),
    smoke={**SMOKE, "scenes": 16},
    quick={"subject.training.seeds": (0, 1)},
    paper={**PUBLISHED, "scenes": 2000},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Accuracy by type of question and over all: [seeds][layers + 1], with visual tokens removed before layer 1, 2, ..., never."""
    models, seeds = scene_models(config.subject, workspace), config.subject.training.seeds
    params = dict(zip(seeds, models.params, strict=True))

    def one(_: str, seed: int) -> dict[str, Any]:
        scenes, questions = held_out(config.subject, seed, config.scenes)
        visual = encode_images(config.subject.model, params[seed], scenes.pixels).visual
        asked = pose(config.subject, params[seed], visual, questions)
        layers = layer_by_layer(config.subject, params[seed], asked, questions, thresholds=(0.1,))
        grouped = [group(config.subject.data, questions, right) for right in layers.right]
        return {name: [types[name] for types in grouped] for name in ("all", *TYPES)}

    arms = measured(workspace, ("removed",), seeds, one)
    return {"corpora": {}, "seeds": seeds, "arms": arms}


def claims(results: dict[str, Any]) -> list[Claim]:
    """Removal at the middle against never, and never against removal at once."""
    accuracy = Arms(results)["removed", "all"]
    depth = accuracy.shape[1] - 1
    full, middle, none = accuracy[:, -1], accuracy[:, depth // 2], accuracy[:, 0]
    return [
        Claim(
            "image_has_moved_by_mid_depth",
            f"C9: Visual tokens can go from the middle of the decoder on, layer {depth // 2 + 1} of {depth}, while the image as a whole is "
            "needed.",
            "kong2025token: section 4",
            {
                f"removed from the middle - all + {PLATEAU}": middle - full + PLATEAU,
                f"all - no image - {PLATEAU}": full - none - PLATEAU,
            },
            above(0),
            "accuracy over all questions",
        )
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by type of question against the layer of removal."""
    arms = Arms(results)
    accuracy = arms["removed", "all"]
    layers = range(accuracy.shape[1])
    drawn, (axes,) = panels(width=5, titles=("All visual tokens removed",))
    for name, (label, color) in TYPES.items():
        band(axes, layers, arms["removed", name], label, color, marker="o", markersize=3)
    reference(axes, accuracy[:, -1].mean(), "all tokens, all questions")
    axes.set(xlabel="layers that see the image", ylabel="accuracy", ylim=(0, 1.05), xticks=layers)
    axes.legend()
    return drawn
