"""Losses are averaged over the right steps and positions."""

import numpy as np

from experiments.harness.curves import bins, by_position, by_tens, crossing, reached, significant


def test_losses_are_averaged_by_tens_and_crossings_counted_in_steps():
    assert by_tens(np.arange(40.0).reshape(2, 20)) == [[4.5, 14.5], [24.5, 34.5]]
    assert by_tens(np.arange(4.0)[None]) == [[1.5]]
    assert crossing([3.0, 2.0, 1.0], 1.5) == 30
    assert crossing([3.0, 2.0], 1.5) is None


def test_positions_are_averaged_over_windows_and_bins():
    assert by_position([np.array([[1.0, 2.0], [3.0, 4.00004]])]) == [[2.0, 3.0]]
    centres, average = bins(9, 4)  # the ninth position fills no bin
    np.testing.assert_array_equal(centres, [2, 6])
    np.testing.assert_array_equal(average([[0, 1, 2, 3, 5, 5, 5, 5, 99]]), [[1.5, 5]])


def test_significant_digits_are_kept_whatever_the_size():
    assert significant(np.array([[1.2345678e-9, 123456.0]])) == [[1.2346e-9, 123460.0]]


def test_a_level_is_reached_between_two_evaluations_at_once_or_never():
    courses = np.array([[3.0, 2.0, 1.0], [0.5, 0.4, 0.3], [3.0, 2.9, 2.8]])
    found = reached([1.25, 1.0, 1.0], np.array([0, 100, 300]), courses)
    np.testing.assert_allclose(found, [250, 0, np.inf])
