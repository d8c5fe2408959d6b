"""Intersection over union and mutual information against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from lexinv.merging.agreement import confusion, mean_iou, mutual_information


def test_mean_iou_by_hand():
    """Class 0: 2 of 4 in the union; class 1: 1 of 3; class 2: 1 of 1; class 3 never occurs and does not count."""
    truth, found = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 2])
    counts = confusion(truth, found, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert mean_iou(counts) == pytest.approx((2 / 4 + 1 / 3 + 1 / 1) / 3)
    assert mean_iou(confusion(truth, truth, 4)) == 1
    assert mean_iou(confusion(np.zeros(5, int), np.ones(5, int), 2)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_like_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 50)
    found = np.where(rng.random(50) < 0.6, truth, rng.integers(0, 4, 50))
    assert mutual_information(truth, 7 - 3 * found) == pytest.approx(metrics.mutual_info_score(truth, found))
    assert mean_iou(confusion(truth, found, 4)) == pytest.approx(metrics.jaccard_score(truth, found, average="macro"))
    np.testing.assert_array_equal(confusion(truth, found, 4), metrics.confusion_matrix(truth, found))
