"""Claim C12 on made-up mIoU; labels by the picture; a head that can be learned; features of pruned, merged and kept patches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.merging.dense_prediction import (
    ARMS,
    JUDGED,
    DenseConfig,
    confusion_of,
    draw,
    fit_head,
    judge,
    labelled,
    patch_features,
)
from lexinv.merging.agreement import mean_iou
from lexinv.nn.vision_transformer import initialize
from lexinv.validation import InvalidConfig

SPREAD = np.array([0.0, 0.01, -0.01])
MIOU = {"random": 0.4, "prune": 0.45, "merge": 0.7}
CONFIG = DenseConfig()
MODEL = replace(
    CONFIG.subject.model, layers=replace(CONFIG.subject.model.layers, depth=2, width=8, heads=2, mlp_width=8)
)


def made_up() -> dict:
    arms = {name: [(value + SPREAD).tolist()] * 2 for name, value in MIOU.items()}
    full, guessed = (0.9 + SPREAD).tolist(), (0.3 + SPREAD).tolist()
    return {"shares": [0.5, JUDGED], "left": [32, 16], "full": full, "background": guessed, "arms": arms}


def test_the_claim_holds_on_results_that_satisfy_it():
    assert judge(made_up())[0].holds is True


@pytest.mark.parametrize("arm, value", [("merge", 0.9), ("merge", 0.45), ("prune", 0.7), ("random", 0.75)])
def test_one_arm_is_enough_to_break_it(arm, value):
    measured = made_up()
    measured["arms"][arm][1] = (value + SPREAD).tolist()
    assert judge(measured)[0].holds is False


def test_noise_cannot_tell():
    measured = made_up()
    measured["arms"]["prune"][1] = [0.2, 0.8, 0.3]
    assert judge(measured)[0].holds is None


def test_panel_names_all_arms():
    axes = Figure().subplots()
    draw(made_up(), axes)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [*(label for label, _ in ARMS.values()), "all tokens", "background only"]


def test_labels_are_those_of_the_pixels():
    """Red has no blue in it, and the other way round, but for noise; glyphs are off the grid, so that some patches are mixed."""
    pixels, labels = labelled(CONFIG, 8, jax.random.key(0))
    assert labels.shape == (8, 64, 16)
    parts = np.asarray(pixels).reshape(8, 8, 4, 8, 4, 3).swapaxes(2, 3).reshape(8, 64, 16, 3)
    labels = np.asarray(labels)
    assert parts[labels == 1][:, 0].mean() == pytest.approx(1, abs=0.02) and abs(parts[labels == 1][:, 2].mean()) < 0.02
    assert parts[labels == 2][:, 2].mean() == pytest.approx(1, abs=0.02) and abs(parts[labels == 2][:, 0].mean()) < 0.02
    assert 0.2 < parts[labels == 0].mean() < 0.6
    assert any(len(np.unique(patch)) > 1 for patch in labels.reshape(-1, 16))


def test_a_head_learns_what_is_linear():
    config = replace(CONFIG, patches=500)
    x = jax.random.normal(jax.random.key(1), (10, 60, 4))
    best = jnp.einsum("nkd,dpc->nkpc", x, jax.random.normal(jax.random.key(2), (4, 5, 3)))
    labels = jnp.argmax(best, axis=-1).astype(jnp.int32)
    head = fit_head(config, x.reshape(-1, 4), labels.reshape(-1, 5), jax.random.key(0))
    assert mean_iou(confusion_of(head, x, labels)) > 0.9
    assert mean_iou(confusion_of(head, jnp.zeros_like(x), labels)) < 0.4


@pytest.mark.parametrize("arm", ARMS)
def test_features_of_reduced_patches(arm):
    """Of 64 patches 20 are left: pruned ones are zero, merged ones share vectors; without reduction all are different."""
    key = jax.random.key(0)
    pixels = jax.random.uniform(key, (2, 32, 32, 3))
    params = initialize(MODEL, key)
    features = np.asarray(patch_features(MODEL, arm, (30, 14), params, pixels, key))
    zero = (features == 0).all(axis=-1)
    different = [len(np.unique(image.round(5), axis=0)) for image in features]
    assert features.shape == (2, 64, 8)
    if arm == "merge":
        assert not zero.any() and different == [20, 20]
    else:
        assert zero.sum(axis=1).tolist() == [44, 44] and different == [21, 21]


def test_schedules_leave_about_the_share():
    for share in CONFIG.shares:
        left = CONFIG.subject.model.patches - sum(CONFIG.schedule(share))
        assert share * 64 <= left <= share * 64 + 6


@pytest.mark.parametrize(
    "change, field",
    [
        ({"shares": (0.5,)}, "shares"),
        ({"shares": (JUDGED, 1.0)}, "shares"),
        ({"images": (0, 5)}, "images"),
        ({"patches": 10**6}, "patches"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(CONFIG, **change)
    assert error.value.field == f"dense_prediction.{field}"
