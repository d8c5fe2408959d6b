"""Intersection over union and mutual information by hand and against scikit-learn."""

import numpy as np
import pytest

from lexinv.merging.agreement import confusion, entropy, mean_iou, mutual_information
from lexinv.validation import InvalidConfig


def test_mean_iou_by_hand():
    """Class 0: 2 of 4 in the union; class 1: 1 of 3; class 2: 1 of 1; class 3 never occurs and does not count."""
    truth, found = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 2])
    counts = confusion(truth, found, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert mean_iou(counts) == pytest.approx((2 / 4 + 1 / 3 + 1 / 1) / 3)
    assert mean_iou(confusion(truth, truth, 4)) == 1
    assert mean_iou(confusion(np.zeros(5, int), np.ones(5, int), 2)) == 0


def test_mutual_information_by_hand():
    objects = np.array([0, 0, 1, 1])
    assert mutual_information(objects, np.array([7, 7, -3, -3])) == pytest.approx(np.log(2))  # names do not matter
    assert mutual_information(objects, np.array([0, 1, 0, 1])) == pytest.approx(0, abs=1e-12)
    assert (
        mutual_information(objects, np.arange(4))
        == pytest.approx(entropy(np.array([2, 2])))
        == pytest.approx(np.log(2))
    )
    assert mutual_information(objects, np.zeros(4, int)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_like_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 50)
    found = np.where(rng.random(50) < 0.6, truth, rng.integers(0, 4, 50))
    assert mutual_information(truth, found) == pytest.approx(metrics.mutual_info_score(truth, found))
    assert mean_iou(confusion(truth, found, 4)) == pytest.approx(metrics.jaccard_score(truth, found, average="macro"))
    np.testing.assert_array_equal(confusion(truth, found, 4), metrics.confusion_matrix(truth, found))


@pytest.mark.parametrize("truth, found, field", [([0, 3], [0, 0], "truth"), ([0, 0], [0, -1], "found")])
def test_unknown_labels_are_refused(truth, found, field):
    with pytest.raises(InvalidConfig) as error:
        confusion(np.array(truth), np.array(found), 3)
    assert error.value.field == field
