"""Definitions by hand, and the baselines of matching pursuit and principal components."""

import jax
import numpy as np
import pytest

from lexinv.sae import metrics
from lexinv.sae.pursuit import pursue
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens


def test_pursuit_meets_the_wanted_sparsity_and_finds_orthogonal_features():
    data = SyntheticConfig(width=8, features=8, l0=2.0, orthogonal=True)
    dictionary = make_dictionary(data, jax.random.key(0))
    tokens = sample_tokens(data, dictionary, 512, jax.random.key(1))
    x, truth = tokens.activations, np.asarray(tokens.codes)
    codes = np.asarray(pursue(x, x, dictionary, float((truth != 0).sum(axis=1).mean()), 8))
    np.testing.assert_allclose(codes, truth, atol=1e-5)
    half = np.asarray(pursue(x, x, dictionary, 0.5, 8))
    assert (half != 0).sum(axis=1).mean() == pytest.approx(0.5, abs=0.01)


def summary(x, reconstruction, codes, cut: int = 1) -> dict[str, float]:
    """In two batches, cut anywhere."""
    arrays = [np.asarray(a, np.float32) for a in (x, reconstruction, codes)]
    sums = metrics.start_sums(arrays[0].shape[1], arrays[2].shape[1])
    for part in (slice(0, cut), slice(cut, None)):
        sums = metrics.add(sums, *(a[part] for a in arrays))
    return metrics.summarise(sums)


def test_explained_variance_by_hand():
    """The card's example: variance about the mean (1, 2) is 2 + 8 = 10, the error 2."""
    found = summary([[2, 0], [0, 4]], [[2, 1], [0, 3]], [[1, 0], [1, -1]])
    assert found["fvu"] == pytest.approx(0.2)
    assert found["l0"] == 1.5 and found["l0_deviation"] == 0.5 and found["dead"] == 0.0
    assert found["shrinkage"] == pytest.approx((4 + 1 + 9) / (4 + 12))


def test_cross_entropy_recovered_by_hand():
    assert metrics.cross_entropy_recovered(2.0, 2.5, 4.0) == 0.75
    assert metrics.cross_entropy_recovered(1.0, 1.0, 1.0) is None


def test_gini_by_hand():
    assert metrics.gini(np.array([0.5, 0.5, 0.5])) == pytest.approx(0.0)
    assert metrics.gini(np.array([0.0, 0.0, 0.0, 1.0])) == pytest.approx(0.75)
    assert metrics.gini(np.zeros(3)) == 0.0


def test_a_permuted_dictionary_is_recovered():
    rng = np.random.default_rng(2)
    dictionary, truth = rng.normal(size=(6, 10)), (rng.random((200, 6)) < 0.3).astype(float)
    order = rng.permutation(6)
    found = metrics.recovery(2.0 * dictionary[order], dictionary, truth[:, order], truth)
    assert found == pytest.approx((1.0, 1.0, 1.0, 1.0))


def test_copies_are_not_unique_and_unrelated_firing_scores_low():
    rng = np.random.default_rng(3)
    dictionary, truth = np.eye(4), (rng.random((1000, 4)) < 0.25).astype(float)
    copied = metrics.recovery(dictionary[[0, 0, 0, 0]], dictionary, truth[:, [0, 0, 0, 0]], truth)
    assert copied.uniqueness == 0.25 and copied.mmcs == 0.25 and copied.f1 == 1.0
    unrelated = metrics.recovery(dictionary, dictionary, (rng.random((1000, 4)) < 0.25).astype(float), truth)
    assert unrelated.mcc == 1.0 and unrelated.f1 < 0.4


def test_collapse_is_the_largest_cosine_of_different_rows():
    assert metrics.collapse(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])) == pytest.approx(np.sqrt(0.5))


def test_principal_components_explain_a_plane():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8)) + 3
    one, two, three = metrics.principal_components(x[:200], x[200:], [1, 2, 3])
    assert 0 < one < 1 and two == pytest.approx(0.0, abs=1e-6) and three == pytest.approx(0.0, abs=1e-6)
