"""Taking visual tokens from scenes that were read in crops: which are kept, the answers that are left, and what FastV would keep.

Method card globalcom2. CLS's scores are logarithms of its attention, averaged over heads: the logits that the released code reads, up to
a constant of each picture and head.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.stats import spearmanr

from experiments.harness.training import Params
from experiments.subjects.crop_answerers import CropSubject, Models, Pictures, draw, encode_pictures, logits_of, pose
from experiments.subjects.scene_pruning import TEXT_LAYER, layer_attention, run_layers
from lexinv.data.scenes import Questions
from lexinv.merging.global_guidance import crop_counts, crop_plan, crop_ratios, guided_scores, region_scores
from lexinv.merging.ranking import prune_at_random, prune_by_score
from lexinv.randomness import threefry
from lexinv.validation import Checked, Positive, Share


@dataclass(frozen=True)
class Guidance(Checked):
    """temperature: of the allotment, in units of logits summed over a region. share: of the thumbnail in a token's score."""

    temperature: Positive = 1.0
    share: Share = 0.5


class View(NamedTuple):
    """Of one scene what CLS gives to the thumbnail's patches, that of the encoder that names the largest object too, and to each crop's.

    objects: how many patches of each crop show one.
    """

    thumbnail: Float[Array, "*scenes side side"]
    largest: Float[Array, "*scenes side side"]
    local: Float[Array, "*scenes crops patches"]
    objects: Int[Array, "*scenes crops"]
    key: Array


class Scenery(NamedTuple):
    """Held-out scenes of one kind as a model sees them."""

    questions: Questions
    pictures: Pictures
    visual: Float[Array, "scenes tokens width"]
    views: View


class Chosen(NamedTuple):
    """Tokens that are kept, and the places that they get, among all visual tokens of a scene."""

    take: Int[Array, "*scenes kept"]
    places: Int[Array, "*scenes kept"]


@partial(jax.jit, static_argnums=(0, 1, 2))
def look(subject: CropSubject, count: int, crowded: bool, models: Models, key: Array) -> Scenery:
    """Crowded and balanced scenes of a key have the same objects, in other crops."""
    _, pictures, questions = draw(subject, count, key, crowded)
    encoded = encode_pictures(subject, models.params, pictures)
    other = encode_pictures(subject, models.largest, pictures._replace(pixels=pictures.pixels[:, :1]))

    def scores(attention: Array) -> Array:
        """[scenes, pictures, patches]."""
        return jnp.log(jnp.maximum(attention, 1e-12)).mean(axis=1).reshape(count, -1, attention.shape[-1])

    own, side = scores(encoded.cls_attention), subject.scenes.data.grid
    thumbnail, largest = (one[:, 0].reshape(count, side, side) for one in (own, scores(other.cls_attention)))
    objects = jnp.sum(pictures.owner >= 0, axis=2)
    keys = jax.random.split(threefry(jax.random.fold_in(key, 1)), count)
    visual = encoded.visual.reshape(count, subject.visual, -1)
    return Scenery(questions, pictures, visual, View(thumbnail, largest, own[:, 1:], objects, keys))


@partial(jax.jit, static_argnums=(0, 1, 2))
def choose_tokens(guidance: Guidance, arm: str, ratio: float, views: View) -> Chosen:
    """What an arm keeps of every scene: equally many tokens of the thumbnail and of all crops together, whatever the arm.

    arm: "random"; "uniform" shares of the crops or "truth", those of the objects' patches, with local scores; allotment by the thumbnail
    with scores that are "local", "global" or "both"; "largest", both by the other encoder; "ranked", both with the thumbnail's tokens in
    the order of their scores.
    """
    return jax.vmap(partial(_choose, guidance, arm, ratio))(views)


def _choose(guidance: Guidance, arm: str, ratio: float, view: View) -> Chosen:
    crops, patches = view.local.shape
    across, total, first = round(crops**0.5), round(ratio * crops * patches), round(ratio * patches)
    command = view.largest if arm == "largest" else view.thumbnail
    if arm == "random":
        of_crops, of_thumbnail = jax.random.split(view.key)
        plan = prune_at_random(of_crops, crops * patches, crops * patches - total, 0)
        top = prune_at_random(of_thumbnail, patches, patches - first, 0).anchor
    else:
        if arm == "uniform":
            ratios = jnp.full(crops, ratio)
        elif arm == "truth":
            ratios = view.objects / jnp.sum(view.objects)
        else:
            ratios = crop_ratios(region_scores(command, across, across), ratio, guidance.temperature)
        counts = crop_counts(ratios, jnp.full(crops, patches, jnp.int32), total)
        share = {"uniform": 0.0, "local": 0.0, "truth": 0.0, "global": 1.0}.get(arm, guidance.share)
        plan = crop_plan(guided_scores(command, view.local, (across, across), share), counts, total)
        top = prune_by_score(command.reshape(-1), patches - first, 0).anchor
    places = jnp.concatenate([top, patches + plan.anchor])
    if arm == "ranked":
        top = top[jnp.argsort(-command.reshape(-1)[top])]
    return Chosen(jnp.concatenate([top, patches + plan.anchor]), places)


def kept_objects(scenery: Scenery, chosen: Chosen) -> float:
    """The share of all patches of crops that show an object that is kept."""
    shows = np.asarray(scenery.pictures.owner).reshape(len(chosen.take), -1) >= 0
    thumbnail = scenery.visual.shape[1] - shows.shape[1]
    kept = np.asarray(chosen.take) - thumbnail
    return round(float(((kept >= 0) & np.take_along_axis(shows, np.maximum(kept, 0), axis=1)).sum() / shows.sum()), 4)


@partial(jax.jit, static_argnums=0)
def accuracy(subject: CropSubject, params: Params, scenery: Scenery, chosen: Chosen) -> Array:
    """Over all questions, of the tokens that are left."""
    visual = jnp.take_along_axis(scenery.visual, chosen.take[..., None], axis=1)
    logits = logits_of(subject, params, pose(subject, params, visual, scenery.questions, chosen.places))
    return jnp.mean(jnp.argmax(logits, axis=-1) == scenery.questions.answer)


def every_token(scenery: Scenery) -> Chosen:
    every = jnp.broadcast_to(jnp.arange(scenery.visual.shape[1], dtype=jnp.int32)[None], scenery.visual.shape[:2])
    return Chosen(every, every)


def slot_correlations(
    subject: CropSubject, guidance: Guidance, ratio: float, params: Params, scenery: Scenery
) -> dict[str, float]:
    """Spearman's correlation of how many tokens a crop keeps with its slot, as crops are read and with their order reversed.

    FastV keeps the tokens of crops that the last word of a question attends to most in layer `TEXT_LAYER`, every question its own.
    """
    own, crops, patches = subject.scenes, subject.crops, subject.scenes.data.patches
    places, total, found = np.arange(subject.visual, dtype=np.int32), round(ratio * crops * patches), {}
    taken = np.asarray(choose_tokens(guidance, "both", ratio, scenery.views).take)[:, -total:] // patches - 1
    for name, order in (("forward", np.arange(crops)), ("reversed", np.arange(crops)[::-1])):
        take = np.concatenate([places[:patches], places[patches:].reshape(crops, patches)[order].ravel()])
        asked = pose(subject, params, scenery.visual[:, take], scenery.questions, every_token(scenery).places)
        asked = run_layers(own, params, asked, 0, TEXT_LAYER - 1)
        received = layer_attention(own, params, asked, TEXT_LAYER - 1).mean(axis=1)[:, asked.words[:, -1]]
        received = np.asarray(received)[..., own.system + patches : own.system + subject.visual]
        most = np.argpartition(-received, total - 1, axis=-1)[..., :total] // patches
        for method, slots in (("FastV", most), ("GlobalCom2", np.argsort(order)[taken])):
            counts = (slots[..., None] == np.arange(crops)).sum(axis=-2).reshape(-1, crops)
            rank = np.asarray(spearmanr(np.tile(np.arange(crops), len(counts)), counts.ravel()))[0]
            found[f"{method}, {name}"] = round(float(np.nan_to_num(rank)), 4)
    return found
