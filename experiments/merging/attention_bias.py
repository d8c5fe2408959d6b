"""Claim C8: the attention that a token receives in the decoder depends on where it stands, similarity does not.

Kong et al. 2026 (arXiv 2505.18227), section 5; method card token-reduction-beyond-efficiency. The toy vision-language models of
`scene_models` read the visual tokens of an image in a random order, so that what a token shows says nothing of its slot. A criterion is
biased by position where its scores still rise with the slot, towards the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, ORANGE, band, reference
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from experiments.subjects.scene_answerers import SceneSubject, ask_together, held_out, scene_models
from experiments.subjects.scene_pruning import TEXT_LAYER, encode_images, layer_attention, run_layers
from lexinv.data.scenes import Questions
from lexinv.merging.bipartite import cosine_similarity
from lexinv.nn.vision_language import SYSTEM
from lexinv.training.streams import stream
from lexinv.validation import require

SMALLEST = 0.05
"""The least rank correlation that matters."""


@dataclass(frozen=True)
class AttentionBiasConfig:
    """scenes: for each model, with all questions of training. Judged is the attention of the layer in which FastV scores tokens."""

    subject: SceneSubject = SceneSubject()
    scenes: int = 128

    def __post_init__(self):
        require(self.scenes >= 2, "attention_bias.scenes", self.scenes, "at least 2")
        most = self.subject.depth
        require(
            most >= TEXT_LAYER, "attention_bias.subject.depth", most, f"at least {TEXT_LAYER}: that layer is judged"
        )


def measure(config: AttentionBiasConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """Rank correlation of score and slot, mean over questions and scenes: of attention [models][layers], of similarity [models]."""
    models = scene_models(config.subject, workspace)
    found = workspace.cached(
        "attention_bias/correlations", partial(_correlations, config, models.params[: len(seeds)], seeds)
    )
    return {**models.origin, "layer": TEXT_LAYER, **found}


def _correlations(config: AttentionBiasConfig, params: list[Any], seeds: Sequence[int]) -> dict[str, Any]:
    found: dict[str, list] = {"attention": [], "similarity": []}
    for tree, seed in zip(params, seeds, strict=False):
        scenes, questions = held_out(config.subject, seed, config.scenes)
        visual = encode_images(config.subject.model, tree, scenes.pixels).visual
        visual, similarity = in_random_order(visual, stream(jax.random.key(seed), "order"))
        attention = attention_of_slots(config.subject, tree, visual, questions)
        found["attention"].append([mean_correlation(layer) for layer in attention])
        found["similarity"].append(mean_correlation(np.asarray(similarity)))
    return found


@jax.jit
def in_random_order(
    visual: Float[Array, "scenes patches width"], key: Array
) -> tuple[Float[Array, "scenes patches width"], Float[Array, "scenes patches"]]:
    """The tokens of each scene in an order of its own, and their cosines to their mean."""
    keys = jax.random.split(key, visual.shape[0])
    visual = jax.vmap(lambda one, k: jax.random.permutation(k, one))(visual, keys)
    with_mean = jnp.concatenate([jnp.mean(visual, axis=1, keepdims=True), visual], axis=1)
    return visual, jax.vmap(lambda x: cosine_similarity(x)[0, 1:])(with_mean)


def attention_of_slots(
    subject: SceneSubject, params: Any, visual: Float[Array, "scenes patches width"], questions: Questions
) -> list[Float[np.ndarray, "scenes questions patches"]]:
    """What the last word of each question attends to in every layer, averaged over heads.

    Slot s has the position of the s-th patch, whatever token stands there.
    """
    asked = ask_together(subject, params, visual, questions)
    found = []
    for index in range(subject.depth):
        weights = np.asarray(layer_attention(subject, params, asked, index)).mean(axis=1)
        found.append(weights[:, asked.words[:, -1], SYSTEM : SYSTEM + visual.shape[1]])
        asked = run_layers(subject, params, asked, index, index + 1)
    return found


def mean_correlation(scores: Float[np.ndarray, "*rows slots"]) -> float:
    """`rank_correlation`, the mean of all rows."""
    return round(float(rank_correlation(scores.reshape(-1, scores.shape[-1])).mean()), 4)


def rank_correlation(scores: Float[np.ndarray, "rows slots"]) -> Float[np.ndarray, " rows"]:
    """Spearman's coefficient of each row's scores with the slots 0, 1, 2, ...; 0 for a row of equal scores."""
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    slots = np.arange(scores.shape[1]) - (scores.shape[1] - 1) / 2
    scale = np.linalg.norm(ranks, axis=1) * np.linalg.norm(slots)
    return np.where(scale > 0, ranks @ slots / np.where(scale > 0, scale, 1.0), 0.0)


def judge(measured: dict[str, Any]) -> list[Claim]:
    """Attention of the judged layer against none, and against similarity."""
    attention, similarity = np.array(measured["attention"]), np.array(measured["similarity"])
    at = attention[:, measured["layer"] - 1]
    return [
        judged(
            8,
            "attention_is_biased_by_position",
            "attention in the decoder favours late slots, whatever token stands there; similarity does not (measured: rank correlation of "
            f"score and slot under random orders of the visual tokens, of the last word's attention in layer {measured['layer']} and "
            "of the cosine to their mean).",
            "correlation above 0 for attention, and above that of similarity",
            {"attention": interval(at), "attention - similarity": interval(at - similarity)},
            SMALLEST,
            {
                "similarity": interval(similarity),
                "attention by layer": [interval(layer) for layer in attention.T],
            },
        )
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Rank correlation against the layer."""
    attention = np.array(measured["attention"])
    layers = np.arange(1, attention.shape[1] + 1)
    band(axes, layers, attention, "attention of the last word", BLUE, marker="o", markersize=3)
    flat = np.repeat(np.array(measured["similarity"])[:, None], len(layers), axis=1)
    band(axes, layers, flat, "similarity to the mean", ORANGE)
    reference(axes, 0.0, "no bias")
    axes.axvline(measured["layer"], color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="layer of the decoder", ylabel="rank correlation with slot", title="C8 bias of position")
    axes.set_xticks(layers)
    axes.legend()
