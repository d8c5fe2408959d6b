"""What the experiment on visual tokens measures of one model: methods, layers, positions, outliers, redundancy against relevance."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.training import Params
from experiments.subjects.scene_answerers import SceneSubject, held_out
from experiments.subjects.scene_pruning import (
    METHODS,
    Kept,
    View,
    answers,
    encode_images,
    group,
    keep,
    keep_tokens,
    layer_by_layer,
    one_by_one,
    pose,
    right_answers,
    run_layers,
    text_attention,
    views_of,
)
from lexinv.data.scenes import BACKGROUND, Questions
from lexinv.merging.bipartite import cosine_similarity
from lexinv.merging.diversity import diversity_prune
from lexinv.merging.k_center import check_layer
from lexinv.merging.plan import merge
from lexinv.nn.vision_language import Encoded
from lexinv.training.streams import stream

JUDGED = 0.1
TAU = 0.1
TAUS = (0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
OUTLIERS = 4
OUTLIER_NORM = 3.0
"""Of injected tokens, in medians of the image's own norms."""


def measure(
    subject: SceneSubject, params: Params, seed: int, scenes_held_out: int, counts: dict[str, int]
) -> dict[str, Any]:
    """All numbers of one model, on scenes of its own. counts: how many tokens are kept at each ratio, `JUDGED` among them."""
    scenes, questions = jax.jit(partial(held_out, subject, seed, scenes_held_out))()
    encoded = encode_images(subject.model, params, scenes.pixels)
    keys = jax.random.split(stream(jax.random.key(seed), "pruning"), 2)
    views, text = views_of(encoded, keys[0]), text_attention(subject, params, encoded, questions)
    judged = counts[str(JUDGED)]

    def accuracy(method: str, count: int, gaps: Any = "keep") -> dict[str, float]:
        asked = one_by_one(questions) if method == "text" else questions
        right = answers(subject, params, keep(method, count, views, text), asked, gaps)
        return group(subject.data, questions, right.reshape(questions.answer.shape))

    full, first = pose(subject, params, encoded.visual, questions), keep("maxsum", judged, views, text)
    pruned = pose(subject, params, first.visual, questions, first)
    return {
        "full": group(subject.data, questions, right_answers(params, run_layers(subject, params, full), questions)),
        "methods": {method: {ratio: accuracy(method, n) for ratio, n in counts.items()} for method in METHODS},
        "closed": accuracy("divprune", judged, "close")["all"],
        "layers": {
            "all": by_layer(subject, params, full, questions),
            "first": by_layer(subject, params, pruned, questions),
        },
        "outliers": with_outliers(
            subject, params, judged, encoded, views, questions, np.asarray(scenes.owner), keys[1]
        ),
        "correlation": correlation(encoded.visual, text),
    }


def by_layer(subject: SceneSubject, params: Params, asked: Any, questions: Questions) -> dict[str, Any]:
    """Accuracy with visual tokens removed before each layer, a_tv of each, and what stage 2 decides and leaves, by threshold."""
    found, check = layer_by_layer(subject, params, asked, questions, TAUS), check_layer(subject.depth)
    removed = found.withdrawn[:, check]
    return {
        "accuracy": [group(subject.data, questions, right) for right in found.right],
        "share": found.share.astype(np.float64).mean(axis=(1, 2)).round(4).tolist(),
        "check": {
            "accuracy": np.where(removed, found.right[check], found.right[-1]).mean(axis=(1, 2)).round(4).tolist(),
            "withdrawn": removed.mean(axis=(1, 2)).round(4).tolist(),
        },
    }


def with_outliers(
    subject: SceneSubject,
    params: Params,
    count: int,
    encoded: Encoded,
    views: View,
    questions: Questions,
    owner: np.ndarray,
    key: jax.Array,
) -> dict[str, Any]:
    """Random background tokens of each image replaced by long random vectors: how many of them are kept, and what is still answered.

    `filtered` is DivPrune among the tokens whose norm is below twice the image's median.
    """
    visual, places = inject(encoded.visual, jnp.asarray(owner), key)
    injected = np.zeros(owner.shape, bool)
    np.put_along_axis(injected, np.asarray(places), True, axis=1)
    changed = views._replace(visual=visual)
    found = {}
    for name in ("divprune", "filtered", "random"):
        kept = keep_short(count, changed) if name == "filtered" else keep_tokens(name, count, changed)
        share = np.take_along_axis(injected, np.asarray(kept.places), axis=1).sum() / injected.sum()
        found[name] = group(subject.data, questions, answers(subject, params, kept, questions))
        found[name]["outliers_kept"] = round(float(share), 4)
    return found


@jax.jit
def inject(visual: jax.Array, owner: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Visual tokens with `OUTLIERS` of the background replaced in every image, and where."""
    place_key, vector_key = jax.random.split(key)
    draws = jax.random.uniform(place_key, owner.shape) - jnp.where(owner == BACKGROUND, 0.0, 1.0)
    places = jax.lax.top_k(draws, OUTLIERS)[1]
    norm = jnp.median(jnp.linalg.norm(visual, axis=-1), axis=1)
    vectors = jax.random.normal(vector_key, (*places.shape, visual.shape[-1]))
    vectors = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True) * OUTLIER_NORM * norm[:, None, None]
    return visual.at[jnp.arange(len(owner))[:, None], places].set(vectors), places


@partial(jax.jit, static_argnums=0)
def keep_short(count: int, views: View) -> Kept:
    """DivPrune after a filter by norm; padding of a plan is what the filter leaves out."""

    def one(visual: jax.Array) -> Kept:
        norms = jnp.linalg.norm(visual, axis=-1)
        plan = diversity_prune(visual, count, norms < 2 * jnp.median(norms))
        kept, size = merge(plan, visual)
        return Kept(kept, plan.anchor, size)

    return jax.vmap(one)(views.visual)


def correlation(visual: jax.Array, text: jax.Array) -> float:
    """Pearson's r over an image's tokens of redundancy, the mean cosine to the others, and relevance, the text's attention; mean."""
    patches = visual.shape[1]
    redundancy = (np.asarray(jax.jit(jax.vmap(cosine_similarity))(visual)).sum(axis=-1) - 1) / (patches - 1)
    one = redundancy[:, None] - redundancy[:, None].mean(axis=-1, keepdims=True)
    other = np.asarray(text) - np.asarray(text).mean(axis=-1, keepdims=True)
    scale = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return round(float(np.mean((one * other).sum(axis=-1) / np.maximum(scale, 1e-12))), 4)
