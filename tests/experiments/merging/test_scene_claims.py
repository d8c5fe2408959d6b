"""Claims C6 to C9 on made-up results, each effect broken alone; what is measured, on small models that nobody has trained."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from experiments.merging import attention_bias, migration, visual_alignment, visual_noise
from experiments.merging.attention_bias import (
    AttentionBiasConfig,
    attention_of_slots,
    in_random_order,
    rank_correlation,
)
from experiments.merging.migration import TYPES, MigrationConfig
from experiments.merging.visual_alignment import AlignmentConfig, group, object_vectors, probe_accuracy
from experiments.merging.visual_noise import VisualNoiseConfig, chosen, f1, presence_questions, score
from experiments.subjects.scene_answerers import SceneSubject, held_out
from experiments.subjects.scene_pruning import encode_images
from lexinv.data.scenes import KINDS
from lexinv.nn.vision_language import initialize
from lexinv.validation import InvalidConfig

SUBJECT = SceneSubject(vision_depth=1, vision_width=8, depth=2, width=8, heads=2)
SPREAD = np.array([0.0, 0.004, -0.004])


def around(*values: float) -> list:
    """[values][models]."""
    return [(value + SPREAD).tolist() for value in values]


def made_up(name: str) -> dict:
    """Results on which the topic's claim holds."""
    if name == "attention_bias":
        layers = np.array(around(0.1, 0.2, 0.4)).T.tolist()
        return {"layer": 3, "attention": layers, "similarity": around(0.0)[0]}
    if name == "migration":
        rows = np.array(around(0.3, 0.5, 0.9, 0.905, 0.905)).T.tolist()
        return {"accuracy": dict.fromkeys(("all", *TYPES), rows)}
    if name == "visual_noise":
        values = {"random": (0.8, 0.6), "divprune": (0.85, 0.7), "text": (0.95, 0.97)}
        arms = {arm: {"f1": around(*rows), "bias": around(0.0, 0.1)} for arm, rows in values.items()}
        half = {"full": {"f1": around(0.9)[0], "bias": around(0.0)[0]}, "arms": arms}
        return {"shares": [0.5, 0.25], "choose": half, "judge": jax.tree.map(lambda leaf: leaf, half)}
    arms = {
        arm: {"information": around(value, value / 2), "probe": around(value, value)}
        for arm, value in (("random", 0.2), ("grid", 0.5), ("cluster", 0.8))
    }
    return {"counts": [16, 4], "full": {"information": around(0.9)[0], "probe": around(0.9)[0]}, "arms": arms}


TOPICS = {
    "attention_bias": attention_bias,
    "migration": migration,
    "visual_noise": visual_noise,
    "visual_alignment": visual_alignment,
}


def change(measured: dict, path: tuple, value: float) -> None:
    *way, last = path
    for part in way:
        measured = measured[part]
    measured[last] = (value + SPREAD).tolist()


@pytest.mark.parametrize("name", TOPICS)
def test_claims_hold_on_results_that_satisfy_them_and_are_drawn(name):
    measured = made_up(name)
    assert [claim.holds for claim in TOPICS[name].judge(measured)] == [True]
    axes = Figure().subplots()
    TOPICS[name].draw(measured, axes)
    assert axes.get_title().startswith("C") and axes.get_legend() is not None


@pytest.mark.parametrize(
    "name, path, value",
    [
        ("attention_bias", ("similarity",), 0.4),  # just as biased
        ("visual_noise", ("judge", "full", "f1"), 0.98),
        ("visual_noise", ("judge", "arms", "random", "f1", 1), 0.97),
        ("visual_noise", ("judge", "arms", "text", "f1", 1), 0.8),  # what was best elsewhere is not here
        ("visual_alignment", ("arms", "grid", "information", 0), 0.8),
        ("visual_alignment", ("arms", "grid", "probe", 0), 0.85),
        ("visual_alignment", ("arms", "random", "information", 0), 0.8),
        ("visual_alignment", ("arms", "random", "probe", 0), 0.85),
    ],
)
def test_one_effect_is_enough_to_break_a_claim(name, path, value):
    measured = made_up(name)
    change(measured, path, value)
    assert [claim.holds for claim in TOPICS[name].judge(measured)] == [False]


@pytest.mark.parametrize(
    "name, key, row, value",
    [
        ("attention_bias", "attention", 2, -0.01),  # no bias in the judged layer
        ("migration", "accuracy", 2, 0.8),  # later layers need the image
        ("migration", "accuracy", 0, 0.9),  # nothing needs it
    ],
)
def test_one_layer_is_enough_to_break_a_claim(name, key, row, value):
    measured = made_up(name)
    rows = np.array(measured[key]["all"] if key == "accuracy" else measured[key])
    rows[:, row] = value + SPREAD
    measured[key] = {"all": rows.tolist()} if key == "accuracy" else rows.tolist()
    assert [claim.holds for claim in TOPICS[name].judge(measured)] == [False]


def test_layers_that_are_not_judged_do_not_matter():
    measured = made_up("attention_bias")
    measured["attention"] = [[-0.9, 0.0, row[2]] for row in measured["attention"]]
    assert attention_bias.judge(measured)[0].holds is True


def test_the_best_share_is_chosen_on_other_scenes():
    measured = made_up("visual_noise")
    assert chosen(measured) == ("text", 1)
    change(measured, ("judge", "arms", "text", "f1", 1), 0.1)
    assert chosen(measured) == ("text", 1)
    change(measured, ("choose", "arms", "random", "f1", 0), 0.99)  # random is no candidate
    change(measured, ("choose", "arms", "divprune", "f1", 0), 0.98)
    assert chosen(measured) == ("divprune", 0)


def test_rank_correlation_is_spearmans():
    scores = np.random.default_rng(0).integers(0, 5, (6, 9)).astype(float)
    expected = [spearmanr(row, np.arange(9)).statistic for row in scores]
    np.testing.assert_allclose(rank_correlation(scores), expected)
    assert rank_correlation(np.ones((1, 4))) == 0
    np.testing.assert_allclose(rank_correlation(np.array([[1.0, 2, 5], [3.0, 2, 1]])), [1, -1])


def test_f1_by_hand():
    yes, truth = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    assert f1(yes, truth) == pytest.approx(4 / 6)
    assert f1(truth, truth) == 1 and f1(np.zeros(5, bool), truth) == 0


@pytest.fixture(scope="module")
def small():
    """(parameters, scenes and questions, visual tokens)."""
    params = jax.jit(partial(initialize, SUBJECT.model))(jax.random.key(0))
    drawn = held_out(SUBJECT, 0, 5)
    return params, drawn, encode_images(SUBJECT.model, params, drawn.scenes.pixels).visual


def test_every_shape_is_asked_about_once_and_half_of_them_are_there():
    config = VisualNoiseConfig(SUBJECT, scenes=3)
    scenes, questions = presence_questions(config, jax.random.key(1))
    assert (np.asarray(questions.kind) == KINDS.index("presence")).all()
    assert np.sort(questions.words[..., 1] - len(KINDS), axis=1).tolist() == [list(range(8))] * 3
    yes = np.asarray(questions.answer) == SUBJECT.data.no + 1
    assert yes.sum(axis=1).tolist() == [4, 4, 4]
    there = [set(row) for row in np.asarray(scenes.shape).tolist()]
    asked = np.asarray(questions.words[..., 1]) - len(KINDS)
    assert [set(row[truth].tolist()) for row, truth in zip(asked, yes, strict=True)] == there


def test_a_wrong_no_is_a_yes():
    truth, right = np.array([[True, True, False, False]]), np.array([[True, False, False, True]])
    assert score(right, truth) == {"f1": 0.5, "bias": 0.0}
    assert score(np.array([[True, True, False, False]]), truth) == {"f1": round(4 / 6, 4), "bias": 0.5}


def test_random_orders(small):
    """The same tokens for every scene, with their similarities; attention to slots is a share of 1 and does not follow the tokens alone."""
    params, drawn, visual = small
    orders = [in_random_order(visual, jax.random.key(seed)) for seed in (0, 1)]
    for shuffled, similarity in orders:
        mean = np.asarray(visual).mean(axis=1)
        cosine = np.einsum("sd,snd->sn", mean, shuffled) / np.linalg.norm(mean, axis=1)[:, None]
        np.testing.assert_allclose(similarity, cosine / np.linalg.norm(shuffled, axis=2), atol=1e-4)
        np.testing.assert_allclose(np.sort(shuffled, axis=1), np.sort(visual, axis=1), atol=1e-6)
    assert np.abs(np.asarray(orders[0][0] - orders[1][0])).max() > 0.01
    attention = attention_of_slots(SUBJECT, params, orders[0][0], drawn.questions)
    assert [layer.shape for layer in attention] == [(5, 10, 64)] * 2
    total = np.stack(attention).sum(axis=-1)
    assert ((total > 0) & (total < 1)).all()
    alone = attention_of_slots(
        SUBJECT, params, orders[0][0], type(drawn.questions)(*(part[:, 3:4] for part in drawn.questions))
    )
    np.testing.assert_allclose(alone[1][:, 0], attention[1][:, 3], atol=1e-5)  # questions do not see each other


@pytest.mark.parametrize("arm", visual_alignment.ARMS)
def test_groups(small, arm):
    """As many tokens as cells, each the mean of its patches; cells and random groups of 4 patches each, cells being squares."""
    visual = small[2]
    assign, tokens = (np.asarray(part) for part in group(AlignmentConfig(SUBJECT), arm, 2, visual, jax.random.key(0)))
    sizes = np.stack([np.bincount(row, minlength=16) for row in assign])
    assert tokens.shape == (5, 16, 8) and (sizes > 0).all()
    assert arm == "cluster" or (sizes == 4).all()
    mean = np.asarray(visual)[2][assign[2] == 7].mean(axis=0)
    np.testing.assert_allclose(tokens[2, 7], mean, atol=1e-5)
    square = np.flatnonzero(assign[0] == 5).tolist() == [18, 19, 26, 27]
    assert square == (arm == "grid")


def test_the_token_that_has_most_of_an_object():
    assign = np.array([[0, 0, 1, 1, 1, 2]])
    owner = np.array([[0, -1, 0, 0, 1, 1]])
    tokens = np.array([[[10.0], [20.0], [30.0]]])
    np.testing.assert_array_equal(object_vectors(assign, tokens, owner, 2), [[[20.0], [20.0]]])


def test_probe_on_classes_that_are_linear():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (40, 2))
    x = np.eye(3, 5)[labels] + 0.01 * rng.normal(size=(40, 2, 5))
    assert probe_accuracy(x[:20], labels[:20], x[20:], labels[20:], 3) == 1
    assert probe_accuracy(0 * x[:20], labels[:20], 0 * x[20:], labels[20:], 3) < 0.6


@pytest.mark.parametrize(
    "config, values, field",
    [
        (AttentionBiasConfig, {"scenes": 1}, "attention_bias.scenes"),
        (AttentionBiasConfig, {"subject": replace(SUBJECT, depth=1)}, "attention_bias.subject.depth"),
        (MigrationConfig, {"scenes": 0}, "migration.scenes"),
        (VisualNoiseConfig, {"shares": (0.25, 0.5)}, "visual_noise.shares"),
        (VisualNoiseConfig, {"shares": (1.0,)}, "visual_noise.shares"),
        (VisualNoiseConfig, {"scenes": 1}, "visual_noise.scenes"),
        (MigrationConfig, {"subject": replace(SUBJECT, depth=1)}, "migration.subject.depth"),
        (AlignmentConfig, {"cells": (3,)}, "visual_alignment.cells"),
        (AlignmentConfig, {"cells": ()}, "visual_alignment.cells"),
        (AlignmentConfig, {"scenes": (0, 4)}, "visual_alignment.scenes"),
        (AlignmentConfig, {"neighbours": 64}, "visual_alignment.neighbours"),
    ],
)
def test_impossible_configurations_are_refused(config, values, field):
    with pytest.raises(InvalidConfig) as error:
        replace(config(), **values)
    assert error.value.field == field
