"""Whether the attention that a visual token receives in the decoder depends on where it stands, as similarity does not.

Kong et al. 2026 (arXiv 2505.18227), section 5; claim C8 of method card token-reduction-beyond-efficiency. Toy vision-language models read
the visual tokens of an image in a random order, so that what a token shows says nothing of its slot. A criterion is biased by position
where its scores still rise with the slot, towards the question.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, ORANGE, band, panels, reference
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.scene_answerers import PUBLISHED, SMOKE, SceneSubject, held_out, scene_models
from experiments.subjects.scene_pruning import TEXT_LAYER, encode_images, layer_attention, pose, run_layers
from lexinv.data.scenes import Questions
from lexinv.merging.bipartite import cosine_similarity
from lexinv.randomness import threefry
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count

PAPERS = ("kong2025token",)
SMALLEST = 0.05
"""The least rank correlation that matters."""


@dataclass(frozen=True)
class Config(Checked):
    """scenes: for each model, with all questions of training. Judged is the attention of the layer in which FastV scores tokens."""

    subject: SceneSubject = SceneSubject()
    scenes: Count = 128

    def checks(self):
        deep = self.subject.depth >= TEXT_LAYER
        yield deep, "subject.depth", f"at least {TEXT_LAYER}: that layer is judged"


PRESETS = presets(
    Config(),
    smoke={**SMOKE, "scenes": 16},
    quick={"subject.training.seeds": (0, 1)},
    paper={**PUBLISHED, "scenes": 2000},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Rank correlation of score and slot, mean over questions and scenes: of attention [seeds][layers], of similarity [seeds]."""
    params, seeds = scene_models(config.subject, workspace), config.subject.training.seeds

    def one(_: str, seed: int) -> dict[str, Any]:
        scenes, questions = held_out(config.subject, seed, config.scenes)
        visual = encode_images(config.subject.model, params[seed], scenes.pixels).visual
        visual, similarity = in_random_order(visual, stream(jax.random.key(seed), "order"))
        attention = attention_of_slots(config.subject, params[seed], visual, questions)
        return {"attention": list(map(mean_correlation, attention)), "similarity": mean_correlation(similarity)}

    arms = measured(workspace, ("shuffled",), seeds, one)
    return {"corpora": {}, "seeds": seeds, "layer": TEXT_LAYER, "arms": arms}


@jax.jit
def in_random_order(
    visual: Float[Array, "scenes patches width"], key: Array
) -> tuple[Float[Array, "scenes patches width"], Float[Array, "scenes patches"]]:
    """The tokens of each scene in an order of its own, and their cosines to their mean."""
    keys = jax.random.split(threefry(key), visual.shape[0])
    visual = jax.vmap(lambda one, k: jax.random.permutation(k, one))(visual, keys)
    with_mean = jnp.concatenate([jnp.mean(visual, axis=1, keepdims=True), visual], axis=1)
    return visual, jax.vmap(lambda x: cosine_similarity(x)[0, 1:])(with_mean)


def attention_of_slots(
    subject: SceneSubject, params: Any, visual: Float[Array, "scenes patches width"], questions: Questions
) -> list[Float[np.ndarray, "scenes questions patches"]]:
    """What the last word of each question attends to in every layer, averaged over heads.

    Slot s has the position of the s-th patch, whatever token stands there.
    """
    asked = pose(subject, params, visual, questions)
    found = []
    for index in range(subject.depth):
        weights = np.asarray(layer_attention(subject, params, asked, index)).mean(axis=1)
        found.append(weights[:, asked.words[:, -1], subject.system : subject.system + visual.shape[1]])
        asked = run_layers(subject, params, asked, index, index + 1)
    return found


def mean_correlation(scores: Float[Array, "*rows slots"] | Float[np.ndarray, "*rows slots"]) -> float:
    """`rank_correlation`, the mean of all rows."""
    return round(float(rank_correlation(np.asarray(scores).reshape(-1, scores.shape[-1])).mean()), 4)


def rank_correlation(scores: Float[np.ndarray, "rows slots"]) -> Float[np.ndarray, " rows"]:
    """Spearman's coefficient of each row's scores with the slots 0, 1, 2, ...; 0 for a row of equal scores."""
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    slots = np.arange(scores.shape[1]) - (scores.shape[1] - 1) / 2
    scale = np.linalg.norm(ranks, axis=1) * np.linalg.norm(slots)
    return np.where(scale > 0, ranks @ slots / np.where(scale > 0, scale, 1.0), 0.0)


def claims(results: dict[str, Any]) -> list[Claim]:
    """Attention of the judged layer against none, and against similarity."""
    arms, layer = Arms(results), results["layer"]
    attention = arms["shuffled", "attention"][:, layer - 1]
    return [
        Claim(
            "attention_is_biased_by_position",
            f"C8: Attention in the decoder (of a question's last word, in layer {layer}) favours late slots, whatever token stands there; "
            "similarity to the mean token does not.",
            "kong2025token: section 5",
            {"attention": attention, "attention - similarity": attention - arms["shuffled", "similarity"]},
            above(0, matters=SMALLEST),
            "rank correlation of score and slot under random orders of the visual tokens",
        )
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Rank correlation against the layer."""
    arms = Arms(results)
    attention, similarity = arms["shuffled", "attention"], arms["shuffled", "similarity"]
    layers = np.arange(1, attention.shape[1] + 1)
    drawn, (axes,) = panels(width=5, titles=("Scores of visual tokens in random order",))
    band(axes, layers, attention, "attention of the last word", BLUE, marker="o", markersize=3)
    band(axes, layers, np.repeat(similarity[:, None], len(layers), axis=1), "similarity to the mean", ORANGE)
    reference(axes, 0.0, "no bias")
    axes.axvline(results["layer"], color="black", linestyle=":", linewidth=1, label="judged layer")
    axes.set(xlabel="layer of the decoder", ylabel="rank correlation with the slot", xticks=layers)
    axes.legend()
    return drawn
