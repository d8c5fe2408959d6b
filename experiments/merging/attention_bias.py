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
from experiments.merging.scene_answers import draw_held_out
from experiments.merging.scene_models import SceneSubject, scene_models
from experiments.merging.verdicts import judged
from lexinv.merging.bipartite import cosine_similarity
from lexinv.nn.vision_language import SYSTEM, attention_in_layer, decode, encode, prompt
from lexinv.training.streams import stream
from lexinv.validation import require

SMALLEST = 0.05
"""The least rank correlation that matters."""


@dataclass(frozen=True)
class AttentionBiasConfig:
    """scenes: for each model, with one question each. layer: of the decoder, from 0, whose attention is judged; FastV takes the third's."""

    subject: SceneSubject = SceneSubject()
    scenes: int = 256
    layer: int = 2

    def __post_init__(self):
        require(self.scenes >= 2, "attention_bias.scenes", self.scenes, "at least 2")
        depth = self.subject.depth
        require(0 <= self.layer < depth, "attention_bias.layer", self.layer, f"from 0 to {depth - 1}")


def measure(config: AttentionBiasConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """Rank correlation of score and slot, the mean over scenes: of attention by layer [models][layers], of similarity [models]."""
    models = scene_models(config.subject, workspace)
    found = workspace.cached(
        "attention_bias/correlations", partial(_correlations, config, models.params[: len(seeds)], seeds)
    )
    return {**models.origin, "layer": config.layer, **found}


def _correlations(config: AttentionBiasConfig, params: list[Any], seeds: Sequence[int]) -> dict[str, Any]:
    found: dict[str, list] = {"attention": [], "similarity": []}
    for tree, seed in zip(params, seeds, strict=False):
        drawn = draw_held_out(config.subject, seed, config.scenes)
        asked = np.arange(config.scenes) % drawn.questions.answer.shape[1]
        words = np.asarray(drawn.questions.words)[np.arange(config.scenes), asked]
        key = stream(jax.random.key(seed), "order")
        attention, similarity = scores_in_random_order(config.subject, tree, drawn.scenes.pixels, words, key)
        found["attention"].append(
            [round(float(np.mean(rank_correlation(layer))), 4) for layer in np.asarray(attention)]
        )
        found["similarity"].append(round(float(np.mean(rank_correlation(np.asarray(similarity)))), 4))
    return found


@partial(jax.jit, static_argnums=0)
def scores_in_random_order(
    subject: SceneSubject, params: Any, pixels: Array, words: Array, key: Array
) -> tuple[Float[Array, "layers scenes patches"], Float[Array, "scenes patches"]]:
    """By slot: what the last word attends to in every layer, averaged over heads, and the cosine to the mean of the visual tokens.

    Slot s has the position of the s-th patch, whatever token stands there.
    """
    model = subject.model
    visual = encode(model, params, pixels).visual
    keys = jax.random.split(key, visual.shape[0])
    visual = jax.vmap(lambda one, k: jax.random.permutation(k, one))(visual, keys)
    seen = prompt(model, params, visual, words)
    slots = slice(SYSTEM, SYSTEM + visual.shape[1])
    scores = []
    for index in range(model.decoder.depth):
        scores.append(jnp.mean(attention_in_layer(model, params, seen, index)[:, :, -1, slots], axis=1))
        seen = decode(model, params, seen, index, index + 1)
    with_mean = jnp.concatenate([jnp.mean(visual, axis=1, keepdims=True), visual], axis=1)
    return jnp.stack(scores), jax.vmap(lambda x: cosine_similarity(x)[0, 1:])(with_mean)


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
    at = attention[:, measured["layer"]]
    return [
        judged(
            8,
            "attention_is_biased_by_position",
            "attention in the decoder favours late slots, whatever token stands there; similarity does not (measured: rank correlation of "
            f"score and slot under random orders of the visual tokens, of the last word's attention in layer {measured['layer'] + 1} and "
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
    axes.axvline(measured["layer"] + 1, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="layer of the decoder", ylabel="rank correlation with slot", title="C8 bias of position")
    axes.set_xticks(layers)
    axes.legend()
