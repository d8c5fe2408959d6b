"""Histograms by hand and Zipf laws that are found again."""

import numpy as np
import pytest

from lexinv.sae.densities import compare_laws, density_histogram, fit_middle_zipf, fit_shifted_zipf, ranks_shown
from lexinv.validation import InvalidConfig


def test_a_histogram_by_hand():
    found = density_histogram(np.array([0.0, 0.0, 1.0, 0.5, 0.1, 0.02, 0.001, 1e-9]), lowest=-3, per_decade=1)
    np.testing.assert_array_equal(found.edges, [-3, -2, -1, 0])
    np.testing.assert_array_equal(found.counts, [2, 1, 3])  # 1e-9 with 0.001; 0.02; 0.1 and above
    assert found.never == 2


def test_nothing_is_lost():
    densities = np.random.default_rng(0).random(1000) ** 8 * (np.arange(1000) % 3 > 0)
    found = density_histogram(densities)
    assert found.counts.sum() + found.never == 1000 and len(found.counts) == 24


@pytest.mark.parametrize("alpha, beta", [(0.9, 0.0), (1.4, 5.0), (2.0, 20.0)])
def test_a_shifted_law_is_found_again(alpha, beta):
    law = 0.3 * (1 + beta) ** alpha * (np.arange(1, 201) + beta) ** -alpha
    found = fit_shifted_zipf(np.random.default_rng(0).permutation(law))
    assert found.alpha == pytest.approx(alpha, rel=1e-2) and found.beta == pytest.approx(beta, rel=5e-2, abs=1e-2)
    assert found.r_squared == pytest.approx(1.0, abs=1e-5)
    assert found.scale == pytest.approx(0.3 * (1 + beta) ** alpha, rel=5e-2)


def test_r_squared_by_hand():
    """log densities 0, -1, -1 at ranks 1, 2, 3 (head 1, beta 0 best): against the least squares of numpy."""
    densities = np.exp([0.0, -1.0, -1.0])
    found = fit_shifted_zipf(densities, head=1.0)
    x, y = np.log([1, 2, 3]), np.array([0.0, -1.0, -1.0])
    slope, level = np.polyfit(x, y, 1)
    assert found.beta == 0.0 and found.alpha == pytest.approx(-slope, rel=1e-5)
    explained = 1 - np.square(y - slope * x - level).sum() / np.square(y - y.mean()).sum()
    assert found.r_squared == pytest.approx(explained, rel=1e-5)


def test_an_exponential_is_no_zipf_law():
    assert fit_shifted_zipf(0.5 * np.exp(-np.arange(100) / 3.0), head=1.0).r_squared < 0.999


@pytest.mark.parametrize("densities", [[0.5, -0.1], [2.0], [np.nan]])
def test_what_is_no_share_is_refused(densities):
    with pytest.raises(InvalidConfig, match="densities"):
        density_histogram(np.array(densities))


@pytest.mark.parametrize("densities, message", [([0.5, 0.1, 0, 0], "at least 3"), ([0.5] * 9, "all equal")])
def test_too_little_to_fit_is_refused(densities, message):
    with pytest.raises(InvalidConfig, match=message):
        fit_shifted_zipf(np.array(densities))


def test_a_zipf_law_is_found_and_a_bent_one_is_judged_worse():
    ranks = np.arange(1, 201)
    alpha, quality = fit_middle_zipf(0.3 * ranks**-0.7)
    assert (alpha, quality) == pytest.approx((0.7, 1.0))
    assert fit_middle_zipf(np.concatenate([0.3 * ranks**-0.7, np.zeros(50)])) == pytest.approx((0.7, 1.0))
    assert fit_middle_zipf(np.where(ranks < 50, 0.5, 0.001))[1] < 0.9
    assert fit_middle_zipf(np.zeros(10)) == (0.0, 0.0)


def test_two_laws_are_told_apart():
    ranks = ranks_shown(512) + 1
    zipf, exponential = compare_laws(0.3 * ranks**-0.7, 512, 512)
    assert zipf == pytest.approx(1.0) and exponential < 0.95
    zipf, exponential = compare_laws(0.3 * np.exp(-0.01 * ranks), 512, 512)
    assert exponential == pytest.approx(1.0) and zipf < 0.95
    assert compare_laws(np.full(len(ranks), 0.1), 512, 512) == compare_laws(0.3 * ranks**-0.7, 2, 512) == (0.0, 0.0)
