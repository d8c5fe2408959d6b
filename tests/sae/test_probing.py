"""Probes against scikit-learn, and latents that are known to be the class."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lexinv.sae.probing import area_under_curve, class_difference, fit_logistic, halves, probe, sparse_probing

KEY = jax.random.key(0)


def test_logistic_regression_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)) * [1, 10, 0.1, 1] + [0, 5, 0, -3]
    labels = x[:, 0] + x[:, 1] / 10 + 0.5 * rng.normal(size=300) > 0.3
    found = fit_logistic(x, labels)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(z, labels)
    np.testing.assert_allclose(found.logits(x), oracle.decision_function(z), rtol=1e-4, atol=1e-4)


def test_differences_of_means_by_hand():
    x = np.array([[1, 0, 7.0], [3, 1, 7], [5, 0, 7], [7, 1, 7]])
    found = class_difference(x, np.array([False, False, True, True]))
    np.testing.assert_allclose(found, [4 / np.sqrt(5), 0, 0])


def test_area_under_curve():
    assert area_under_curve(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])) == 3.5 / 4
    rng = np.random.default_rng(1)
    scores, labels = np.round(rng.normal(size=200), 1), rng.random(200) < 0.3
    assert area_under_curve(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_halves_hold_half_of_each_class():
    labels = np.arange(100) < 9
    train, held = halves(labels, KEY)
    assert sorted([*train, *held]) == list(range(100))
    assert labels[train].sum() == 4 and labels[held].sum() == 5 and len(train) == 49


def test_a_latent_that_is_the_class_is_found():
    rng = np.random.default_rng(2)
    labels = rng.random(400) < 0.3
    codes = np.abs(rng.normal(size=(400, 20))) * (rng.random((400, 20)) < 0.2)
    codes[:, 7] = np.where(labels, 1 + rng.random(400), 0.0)
    found = probe(codes, labels, KEY, 1)
    assert found.latents == (7,) and found.accuracy == found.balanced_accuracy == found.auc == 1.0


def test_a_class_of_two_latents_needs_two():
    """The label is whether either of two exclusive latents fires: one alone misses half of the class."""
    rng = np.random.default_rng(3)
    which = rng.integers(0, 4, 2000)
    codes = np.stack([which == 0, which == 1, rng.random(2000) < 0.5], axis=1).astype(np.float32)
    mixed = codes @ np.array([[1.0, 1, 0], [1, -1, 0], [0, 0, 5]], np.float32)
    found = sparse_probing(codes, mixed, which < 2, KEY, ks=(1, 2))
    assert found["1"].balanced_accuracy == pytest.approx(0.75, abs=0.03) and found["1"].auc < 0.8
    assert found["2"].accuracy == 1.0 and set(found["2"].latents) == {0, 1}
    assert found["activations"].accuracy == 1.0 and found["activations"].latents == ()
