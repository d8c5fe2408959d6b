"""Topics of the position paper on images, and on time: correlations, F1, groups, probes, errors, by hand or on tiny models."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from experiments.harness.arms import Arms
from experiments.merging import dense_prediction, package_token, visual_alignment, visual_noise
from experiments.merging.attention_bias import attention_of_slots, in_random_order, rank_correlation
from experiments.merging.dense_prediction import confusion_of, fit_head, labelled, patch_features
from experiments.merging.package_token import reconstruction_error, reduced
from experiments.merging.visual_alignment import group, object_vectors, probe_accuracy
from experiments.merging.visual_noise import chosen, f1, presence_questions, score
from experiments.subjects.scene_answerers import SceneSubject, held_out
from experiments.subjects.scene_pruning import encode_images
from lexinv.data.scenes import KINDS
from lexinv.merging.agreement import mean_iou
from lexinv.merging.plan import identity
from lexinv.merging.ranking import prune_by_score
from lexinv.merging.strategies import package
from lexinv.nn import vision_language, vision_transformer

SUBJECT = SceneSubject(vision_depth=1, vision_width=8, depth=2, width=8, heads=2)
KEY = jax.random.key(0)
DENSE = dense_prediction.Config()
LAYERS = replace(DENSE.subject.model.layers, depth=2, width=8, heads=2, mlp_width=8)
MODEL = replace(DENSE.subject.model, layers=LAYERS)
SHALLOW = replace(MODEL, layers=replace(LAYERS, depth=1))
PIXELS = jax.random.uniform(KEY, (3, 32, 32, 3))


@pytest.fixture(scope="module")
def params():
    found = jax.jit(partial(vision_transformer.initialize, MODEL))(KEY)
    return found | {"head": jax.random.normal(KEY, found["head"].shape)}


@pytest.fixture(scope="module")
def shallow(params):
    """Parameters of the first layer alone, and the logits that it gives."""
    first = params | {"layers": jax.tree.map(lambda leaf: leaf[:1], params["layers"])}
    return first, jax.jit(vision_transformer.classify, static_argnums=0)(SHALLOW, first, PIXELS)[0]


@pytest.fixture(scope="module")
def small():
    """(parameters, scenes and questions, visual tokens)."""
    params = jax.jit(partial(vision_language.initialize, SUBJECT.model))(KEY)
    drawn = jax.jit(held_out, static_argnums=(0, 1, 2))(SUBJECT, 0, 5)
    return params, drawn, encode_images(SUBJECT.model, params, drawn.scenes.pixels).visual


def test_rank_correlation_is_spearmans():
    scores = np.random.default_rng(0).integers(0, 5, (6, 9)).astype(float)
    np.testing.assert_allclose(rank_correlation(scores), [spearmanr(row, np.arange(9)).statistic for row in scores])
    assert rank_correlation(np.ones((1, 4))) == 0


def test_random_orders(small):
    """The same tokens with their similarities; attention to slots is a share of 1, and questions do not see each other."""
    params, drawn, visual = small
    shuffled, similarity = in_random_order(visual, KEY)
    mean = np.asarray(visual).mean(axis=1)
    cosine = np.einsum("sd,snd->sn", mean, shuffled) / np.linalg.norm(mean, axis=1)[:, None]
    np.testing.assert_allclose(similarity, cosine / np.linalg.norm(shuffled, axis=2), atol=1e-4)
    np.testing.assert_allclose(np.sort(shuffled, axis=1), np.sort(visual, axis=1), atol=1e-6)
    assert np.abs(np.asarray(shuffled - visual)).max() > 0.01
    np.testing.assert_array_equal(in_random_order(visual, jax.random.key(0, impl="rbg"))[0], shuffled)
    attention = np.stack(attention_of_slots(SUBJECT, params, shuffled, drawn.questions))
    total = attention.sum(axis=-1)
    assert total.shape == (2, 5, 10) and ((total > 0) & (total < 1)).all()
    alone = attention_of_slots(SUBJECT, params, shuffled, jax.tree.map(lambda part: part[:, 3:4], drawn.questions))
    np.testing.assert_allclose(np.stack(alone)[1, :, 0], attention[1, :, 3], atol=1e-5)


def test_every_shape_is_asked_about_once_and_half_of_them_are_there():
    scenes, questions = presence_questions(visual_noise.Config(SUBJECT, scenes=3), jax.random.key(1))
    assert (np.asarray(questions.kind) == KINDS.index("presence")).all()
    asked = np.asarray(questions.words[..., 1]) - len(KINDS)
    assert np.sort(asked, axis=1).tolist() == [list(range(8))] * 3
    yes = np.asarray(questions.answer) == SUBJECT.data.no + 1
    there = [set(row) for row in np.asarray(scenes.shape).tolist()]
    assert [set(row[truth].tolist()) for row, truth in zip(asked, yes, strict=True)] == there
    assert yes.sum(axis=1).tolist() == [4, 4, 4]


def test_f1_by_hand_and_a_wrong_no_is_a_yes():
    yes, truth = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    assert f1(yes, truth) == pytest.approx(4 / 6)
    assert f1(truth, truth) == 1 and f1(np.zeros(5, bool), truth) == 0
    truth = np.array([[True, True, False, False]])
    assert score(np.array([[True, False, False, True]]), truth) == {"f1": 0.5, "bias": 0.0}
    assert score(truth, truth) == {"f1": round(4 / 6, 4), "bias": 0.5}


def test_the_best_share_is_chosen_on_other_scenes():
    values = {"random": [[0.99, 0.6]], "divprune": [[0.85, 0.7]], "text": [[0.95, 0.97]]}
    arms = Arms({"arms": {arm: {"choose f1": rows, "judge f1": [[0, 0]]} for arm, rows in values.items()}})
    assert chosen(arms) == ("text", 1)


@pytest.mark.parametrize("arm", visual_alignment.ARMS)
def test_groups(small, arm):
    """As many tokens as cells, each the mean of its patches; cells and random groups of 4 patches each, cells being squares."""
    visual = small[2]
    assign, tokens = map(np.asarray, group(visual_alignment.Config(SUBJECT), arm, 2, visual, KEY))
    sizes = np.stack([np.bincount(row, minlength=16) for row in assign])
    assert tokens.shape == (5, 16, 8) and (sizes > 0).all() and (arm == "cluster" or (sizes == 4).all())
    np.testing.assert_allclose(tokens[2, 7], np.asarray(visual)[2][assign[2] == 7].mean(axis=0), atol=1e-5)
    assert (np.flatnonzero(assign[0] == 5).tolist() == [18, 19, 26, 27]) == (arm == "grid")


def test_the_token_that_has_most_of_an_object_and_a_probe_on_classes_that_are_linear():
    tokens = np.array([[[10.0], [20.0], [30.0]]])
    found = object_vectors(np.array([[0, 0, 1, 1, 1, 2]]), tokens, np.array([[0, -1, 0, 0, 1, 1]]), 2)
    np.testing.assert_array_equal(found, [[[20.0], [20.0]]])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (40, 2))
    x = np.eye(3, 5)[labels] + 0.01 * rng.normal(size=(40, 2, 5))
    assert probe_accuracy(x[:20], labels[:20], x[20:], labels[20:], 3) == 1
    assert probe_accuracy(0 * x[:20], labels[:20], 0 * x[20:], labels[20:], 3) < 0.6


def test_reconstruction_by_hand():
    """Two images of 3 patches with opposite deviations 6, 2, 4 from the mean image. Kept: the first patch.

    Pruned, the others are taken to deviate by 6: squared errors 16 + 4 of 36 + 4 + 16. In a package, by their mean 3: 1 + 1.
    """
    mean, deviation = jnp.array([[5.0], [1.0], [-2.0]]), jnp.array([[6.0], [2.0], [4.0]])
    x, scores = jnp.stack([mean + deviation, mean - deviation]), jnp.array([0.0, 3.0, 1.0, 2.0])  # token 0 is CLS
    for plan, error in ((prune_by_score(scores, 2), 20 / 56), (package(scores, 3), 2 / 56), (identity(4), 0.0)):
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), plan)
        assert float(jax.jit(reconstruction_error, static_argnums=2)(both, x, 1)) == pytest.approx(error)


@pytest.mark.parametrize("arm", package_token.ARMS)
def test_arms_on_a_model(shallow, arm):
    """A budget of all tokens is the whole model, without error; a smaller one is not."""
    params, logits = shallow
    whole, nothing = reduced(SHALLOW, 0, arm, MODEL.tokens, params, PIXELS, KEY)
    _, error = reduced(SHALLOW, 0, arm, 10, params, PIXELS, KEY)
    np.testing.assert_allclose(nothing, 0, atol=1e-6)
    assert 0 < float(error) < 2
    np.testing.assert_allclose(whole, logits, rtol=1e-4, atol=1e-4)


def test_labels_are_those_of_the_pixels():
    """Red has no blue in it, and the other way round, but for noise; glyphs are off the grid, so that some patches are mixed."""
    pixels, labels = map(np.asarray, labelled(DENSE, 8, KEY))
    parts = pixels.reshape(8, 8, 4, 8, 4, 3).swapaxes(2, 3).reshape(8, 64, 16, 3)
    for label, on, off in ((1, 0, 2), (2, 2, 0)):
        assert parts[labels == label].mean(axis=0)[[on, off]] == pytest.approx([1, 0], abs=0.02)
    assert 0.2 < parts[labels == 0].mean() < 0.6
    assert any(len(np.unique(patch)) > 1 for patch in labels.reshape(-1, 16))


def test_a_head_learns_what_is_linear():
    x = jax.random.normal(jax.random.key(1), (10, 60, 4))
    best = jnp.einsum("nkd,dpc->nkpc", x, jax.random.normal(jax.random.key(2), (4, 5, 3)))
    labels = jnp.argmax(best, axis=-1).astype(jnp.int32)
    head = fit_head(replace(DENSE, patches=500), x.reshape(-1, 4), labels.reshape(-1, 5), KEY)
    assert mean_iou(confusion_of(head, x, labels)) > 0.9
    assert mean_iou(confusion_of(head, jnp.zeros_like(x), labels)) < 0.4


@pytest.mark.parametrize("arm", dense_prediction.ARMS)
def test_features_of_reduced_patches(params, arm):
    """Of 64 patches 20 are left: pruned ones are zero, merged ones share vectors; without reduction all are different."""
    features = np.asarray(patch_features(MODEL, arm, (30, 14), params, PIXELS, KEY))
    zero = (features == 0).all(axis=-1).sum(axis=1).tolist()
    different = [len(np.unique(image.round(5), axis=0)) for image in features]
    assert (zero, different) == (([0] * 3, [20] * 3) if arm == "merge" else ([44] * 3, [21] * 3))
