"""Probes against scikit-learn, and latents that are known to be the class."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score

from lexinv.sae.probe_perturbation import perturbed_accuracies, selectivity
from lexinv.sae.probing import Probe, difference_of_means, fit_logistic, most_different, scores, sparse_probing


def test_logistic_regressions_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)) * [1, 10, 0.1, 1] + [0, 5, 0, -3]
    noise = 0.5 * rng.normal(size=(300, 2))
    labels = np.stack([x[:, 0] + x[:, 1] / 10, x[:, 3] + 3], axis=1) + noise > 0.3
    found = fit_logistic(x, labels, penalty=2.0)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    for c in range(2):
        oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000, class_weight="balanced").fit(z, labels[:, c])
        np.testing.assert_allclose(found.logits(x)[:, c], oracle.decision_function(z), rtol=1e-3, atol=1e-3)


def test_differences_of_means_by_hand():
    x = np.array([[1, 0, 7.0], [3, 1, 7], [5, 0, 7], [9, 1, 7]])
    labels = np.array([[False, True], [False, False], [True, False], [True, False]])
    np.testing.assert_allclose(difference_of_means(x, labels), [[5, -14 / 3], [0, -2 / 3], [0, 0]])
    assert most_different(x, labels, 2).tolist() == [[0, 1], [0, 1]]
    assert most_different(x, labels, 1, either=False).tolist() == [[0], [2]]


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    logits, labels = np.round(rng.normal(size=(200, 2)), 1), rng.random((200, 2)) < [0.3, 0.6]
    found = scores(logits, labels)
    for c in range(2):
        truth, said = labels[:, c], logits[:, c] > 0
        assert found.f1[c] == pytest.approx(f1_score(truth, said))
        assert found.balanced_accuracy[c] == pytest.approx(balanced_accuracy_score(truth, said))


def test_a_class_of_two_latents_needs_two():
    """The first label is whether either of two exclusive latents fires: one alone misses half of the class."""
    rng = np.random.default_rng(3)
    which = rng.integers(0, 4, 2000)
    codes = np.stack([which == 0, which == 1, rng.random(2000) < 0.5], axis=1).astype(np.float32)
    labels = np.stack([which < 2, which == 1], axis=1)
    parts = [(codes[part], labels[part]) for part in (slice(1000), slice(1000, None))]
    latents = most_different(*parts[0], 1)
    found = sparse_probing(*parts, latents)
    assert latents[1] == 1 and found.f1[1] == found.balanced_accuracy[1] == 1.0
    assert found.balanced_accuracy[0] == pytest.approx(0.75, abs=0.03)
    latents = most_different(*parts[0], 2)
    found = sparse_probing(*parts, latents)
    assert set(latents[0].tolist()) == {0, 1} and found.balanced_accuracy[0] == 1.0


def test_perturbing_the_latent_of_a_class_blinds_its_probe_alone():
    """Latents are the classes, along axes, and probes read the axes: one that is set to 0 is never found again."""
    labels = np.eye(4, dtype=bool)[np.arange(40) % 4][:, :3]
    codes, probe = labels * 2.0, Probe(np.eye(3), np.full(3, -1.0))
    falls = perturbed_accuracies(probe, np.eye(3), (codes, labels), (codes, codes, labels), 2)
    np.testing.assert_allclose(falls, np.eye(3) / 2)
    assert selectivity(falls) == 0.5
    # one latent that is all of them: each probe is as blind as the one that is aimed at
    joined = codes.sum(axis=1, keepdims=True)
    falls = perturbed_accuracies(probe, np.ones((1, 3)), (joined, labels), (joined, codes, labels), 1)
    np.testing.assert_allclose(falls, np.full((3, 3), 0.5))
    assert selectivity(falls) == 0.0
