"""Top passages and the choice of features, against small cases worked by hand."""

import numpy as np
import pytest

from lexinv.sae.feature_survey import Survey, choose_features, foretold, specificity, survey, top_windows

WINDOWS = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [9, 2, 9, 9]], np.int32)
FOUND = Survey(
    peaks=np.array([[3.0, 0.0], [1.0, 2.0], [2.0, 0.0], [0.0, 0.0]]),
    positions=np.array([[1, 0], [2, 1], [1, 0], [0, 0]]),
    density=np.array([0.25, 0.1]),
    mean=np.array([1.0, 5.0]),
)


def test_top_windows_fall_and_leave_out_repeats_and_silence():
    assert top_windows(FOUND, 0, WINDOWS, 4) == [(0, 1), (1, 2)]
    assert top_windows(FOUND, 0, WINDOWS, 1) == [(0, 1)]
    assert top_windows(FOUND, 1, WINDOWS, 4) == [(1, 1)]


def test_survey_takes_each_windows_peak():
    activations = np.zeros((4, 3, 2), np.float32)
    activations[0, 1], activations[2, 2, 1] = (2.0, 1.0), 4.0
    rows = {len(WINDOWS): activations.reshape(-1, 2)}
    found = survey(lambda x: np.maximum(x, 0), lambda windows: rows[len(windows)], WINDOWS)
    np.testing.assert_array_equal(found.peaks, [[2, 1], [0, 0], [0, 4], [0, 0]])
    assert found.positions[0].tolist() == [1, 1] and found.positions[2, 1] == 2
    np.testing.assert_allclose(found.density, [1 / 12, 2 / 12])
    np.testing.assert_allclose(found.mean, [2 / 12, 5 / 12])


def test_features_are_chosen_for_what_their_group_says():
    found = Survey(
        np.ones((4, 4)), np.ones((4, 4), int), np.array([0.3, 0.2, 0.1, 0.0]), np.array([1.0, 3.0, 2.0, 0.0])
    )
    texts = [str(i) for i in range(10)]
    top = [[(0, 1), (1, 1)], [(0, 1), (3, 1)], [(1, 1)], []]
    chosen = choose_features(found, top, texts, WINDOWS, 1, ("2", "99"), 0)
    groups = {name: feature for feature, names in chosen.items() for name in names}
    assert groups["most active"] == 1 and groups["densest"] == 0
    assert groups["sparsest"] == 1  # of those with two passages
    assert groups["“2”"] == 1  # both of its top tokens
    assert groups["random"] in (0, 1, 2)
    assert "“99”" not in groups


def test_specificity_is_the_share_of_the_most_frequent_top_token():
    top = [[(0, 1), (3, 1), (1, 1)], [(0, 0)]]  # tokens 2, 2, 6; the second has too few passages
    np.testing.assert_allclose(specificity(top, WINDOWS, 3), [2 / 3])


def test_what_is_foretold_is_counted_for_the_own_and_for_another_feature():
    promoted = np.zeros((3, 10), bool)
    promoted[0, 3] = True  # follows both of its peaks
    promoted[2, 7] = True
    own, others = foretold([[(0, 1), (2, 1)], [], [(1, 1), (3, 0)]], WINDOWS, promoted)
    assert own == pytest.approx((1 + 0.5) / 2)
    assert others == 0
