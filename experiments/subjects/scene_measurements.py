"""What the experiment on visual tokens measures of one model: methods, layers, positions, redundancy against relevance."""

from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.harness.training import Params
from experiments.subjects.scene_answerers import SceneSubject, held_out, named, said_of
from experiments.subjects.scene_pruning import (
    METHODS,
    answers,
    encode_images,
    group,
    keep,
    layer_by_layer,
    one_by_one,
    pose,
    presence,
    right_answers,
    run_layers,
    text_attention,
    views_of,
)
from lexinv.data.scenes import LENGTH, Questions
from lexinv.merging.bipartite import cosine_similarity
from lexinv.merging.costs import block_flops
from lexinv.merging.k_center import check_layer
from lexinv.training.streams import stream

JUDGED = 0.1
TAU = 1.0
TAUS = (0.1, 0.3, 0.5, 0.75, 1.0, 1.5)
"""Of stage 2, in units of the share that attention has where it is even."""


def measure(
    subject: SceneSubject, params: Params, seed: int, scenes_held_out: int, counts: dict[str, int]
) -> dict[str, Any]:
    """All numbers of one model, on scenes of its own. counts: how many tokens are kept at each ratio, `JUDGED` among them."""
    scenes, questions = jax.jit(partial(held_out, subject, seed, scenes_held_out))()
    encoded = encode_images(subject.model, params, scenes.pixels)
    key = stream(jax.random.key(seed), "pruning")
    views, text = views_of(encoded, key), text_attention(subject, params, encoded, questions)
    judged = counts[str(JUDGED)]

    def scored(right: np.ndarray) -> dict[str, float]:
        right = right.reshape(questions.answer.shape)
        return group(subject.data, questions, right) | presence(subject.data, questions, right)

    def accuracy(method: str, count: int, gaps: Any = "keep") -> dict[str, float]:
        asked = one_by_one(questions) if method == "text" else questions
        return scored(answers(subject, params, keep(method, count, views, text), asked, gaps))

    full, first = pose(subject, params, encoded.visual, questions), keep("maxsum", judged, views, text)
    pruned = pose(subject, params, first.visual, questions, first)
    said, truth = (
        np.asarray(named(subject, params, encoded.cls)).argmax(axis=-1),
        np.asarray(said_of(subject.data, scenes)),
    )
    return {
        "full": scored(right_answers(params, run_layers(subject, params, full), questions)),
        "named": round(float((said == truth)[truth < subject.data.colours].mean()), 4),
        "methods": {method: {ratio: accuracy(method, n) for ratio, n in counts.items()} for method in METHODS},
        "closed": accuracy("divprune", judged, "close")["all"],
        "layers": {
            "all": by_layer(subject, params, full, questions),
            "first": by_layer(subject, params, pruned, questions),
        },
        "correlation": correlation(encoded.visual, text),
    }


def by_layer(subject: SceneSubject, params: Params, asked: Any, questions: Questions) -> dict[str, Any]:
    """Accuracy with visual tokens removed before each layer, a_tv of each, and what stage 2 decides, leaves and saves, by threshold.

    saved: of the multiply-adds of a question's prompt in the decoder.
    """
    found, check, depth = layer_by_layer(subject, params, asked, questions), check_layer(subject.depth), subject.depth
    removed = found.share[check] < np.array(TAUS)[:, None, None] * found.even
    text, visual = subject.system + LENGTH, int(np.sum(asked.prompt.visual))
    less, more = (float(block_flops(n, n, subject.width, 2 * subject.width)) for n in (text, text + visual))
    withdrawn = removed.mean(axis=(1, 2))
    return {
        "accuracy": [group(subject.data, questions, right) for right in found.right],
        "share": found.share.astype(np.float64).mean(axis=(1, 2)).round(4).tolist(),
        "even": round(found.even, 4),
        "check": {
            "accuracy": np.where(removed, found.right[check], found.right[-1]).mean(axis=(1, 2)).round(4).tolist(),
            "withdrawn": withdrawn.round(4).tolist(),
            "saved": (withdrawn * (1 - less / more) * (depth - check) / depth).round(4).tolist(),
        },
    }


def correlation(visual: jax.Array, text: jax.Array) -> float:
    """Pearson's r over an image's tokens of redundancy, the mean cosine to the others, and relevance, the text's attention; mean."""
    patches = visual.shape[1]
    redundancy = (np.asarray(jax.jit(jax.vmap(cosine_similarity))(visual)).sum(axis=-1) - 1) / (patches - 1)
    one = redundancy[:, None] - redundancy[:, None].mean(axis=-1, keepdims=True)
    other = np.asarray(text) - np.asarray(text).mean(axis=-1, keepdims=True)
    scale = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return round(float(np.mean((one * other).sum(axis=-1) / np.maximum(scale, 1e-12))), 4)
