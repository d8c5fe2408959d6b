"""Definitions by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.metrics import (
    add,
    calibrate_feature_thresholds,
    calibrate_threshold,
    collapse,
    gini,
    matching_pursuit,
    principal_components,
    recovery,
    start_sums,
    summarise,
)
from lexinv.validation import InvalidConfig


def summary(x, reconstruction, codes, cut: int = 1) -> dict[str, float]:
    """In two batches, cut anywhere."""
    arrays = [np.asarray(a, np.float32) for a in (x, reconstruction, codes)]
    sums = start_sums(arrays[0].shape[1], arrays[2].shape[1])
    for part in (slice(0, cut), slice(cut, None)):
        sums = add(sums, *(a[part] for a in arrays))
    return summarise(sums)


def test_explained_variance_by_hand():
    """The card's example: variance about the mean (1, 2) is 2 + 8 = 10, the error 2."""
    found = summary([[2, 0], [0, 4]], [[2, 1], [0, 3]], [[1, 0], [1, -1]])
    assert found["fvu"] == pytest.approx(0.2)
    assert found["l0"] == 1.5 and found["l0_deviation"] == 0.5 and found["dead"] == 0.0
    assert found["shrinkage"] == pytest.approx((4 + 1 + 9) / (4 + 12))


def test_predicting_the_mean_explains_nothing():
    x = np.random.default_rng(0).normal(size=(50, 3)) + 5
    assert summary(x, np.tile(x.mean(axis=0), (50, 1)), np.zeros((50, 4)))["fvu"] == pytest.approx(1.0, rel=1e-5)


def test_batches_do_not_matter():
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(30, 4)) for _ in range(3)]
    assert summary(*arrays, cut=3) == pytest.approx(summary(*arrays, cut=29))


def test_gini_by_hand():
    assert gini(np.array([0.5, 0.5, 0.5])) == pytest.approx(0.0)
    assert gini(np.array([0.0, 0.0, 0.0, 1.0])) == pytest.approx(0.75)
    assert gini(np.zeros(3)) == 0.0


def test_a_permuted_dictionary_is_recovered():
    rng = np.random.default_rng(2)
    dictionary, truth = rng.normal(size=(6, 10)), (rng.random((200, 6)) < 0.3).astype(float)
    order = rng.permutation(6)
    found = recovery(2.0 * dictionary[order], dictionary, truth[:, order], truth)
    assert found == pytest.approx((1.0, 1.0, 1.0, 1.0))


def test_copies_are_not_unique_and_unrelated_firing_scores_low():
    rng = np.random.default_rng(3)
    dictionary, truth = np.eye(4), (rng.random((1000, 4)) < 0.25).astype(float)
    copied = recovery(dictionary[[0, 0, 0, 0]], dictionary, truth[:, [0, 0, 0, 0]], truth)
    assert copied.uniqueness == 0.25 and copied.mmcs == 0.25 and copied.f1 == 1.0
    unrelated = recovery(dictionary, dictionary, (rng.random((1000, 4)) < 0.25).astype(float), truth)
    assert unrelated.mcc == 1.0 and unrelated.f1 < 0.4


def test_random_directions_are_as_close_as_extreme_values_say():
    """MMCS of n random unit vectors in D dimensions is near sqrt(2 ln n / D) for large D."""
    rng = np.random.default_rng(4)
    found = recovery(rng.normal(size=(500, 400)), rng.normal(size=(50, 400)), np.ones((1, 500)), np.ones((1, 50)))
    assert found.mmcs == pytest.approx(np.sqrt(2 * np.log(500) / 400), rel=0.15)


def test_collapse_is_the_largest_cosine_of_different_rows():
    assert collapse(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])) == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("k", [0.5, 1.0, 2.25])
def test_calibration_meets_its_budget_exactly(k):
    affinities = np.abs(np.random.default_rng(5).normal(size=(40, 10))).astype(np.float32)
    threshold = calibrate_threshold(affinities, k)
    assert (affinities > threshold).sum() == round(40 * k)


def test_features_are_calibrated_to_their_shares():
    affinities = np.abs(np.random.default_rng(8).normal(size=(40, 3))).astype(np.float32)
    thresholds = calibrate_feature_thresholds(affinities, np.array([0.1, 0.5, 0.0]))
    np.testing.assert_array_equal((affinities > thresholds).sum(axis=0), [4, 20, 0])


def test_principal_components_explain_a_plane():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8)) + 3
    one, two, three = principal_components(x[:200], x[200:], [1, 2, 3])
    assert 0 < one < 1 and two == pytest.approx(0.0, abs=1e-6) and three == pytest.approx(0.0, abs=1e-6)


def test_matching_pursuit_finds_orthogonal_codes():
    codes = np.zeros((3, 5), np.float32)
    codes[0, 1], codes[1, [0, 4]], codes[2, 2] = 2.0, (1.0, 3.0), 0.5
    dictionary = np.linalg.qr(np.random.default_rng(7).normal(size=(5, 5)))[0].astype(np.float32)
    found = matching_pursuit(jnp.asarray(codes @ dictionary), jnp.asarray(dictionary), 2)
    np.testing.assert_allclose(found, codes, atol=1e-5)


def test_bad_activations_are_named():
    x = np.ones((3, 2), np.float32)
    x[1, 0] = np.nan
    with pytest.raises(InvalidConfig, match="row 1 is not"):
        add(start_sums(2, 2), x, x, np.zeros((3, 2), np.float32))
    with pytest.raises(InvalidConfig, match="nothing to explain"):
        summary(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 2)))
