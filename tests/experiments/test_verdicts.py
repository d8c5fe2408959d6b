"""Intervals against tables, rules against enumerated cases, and claims whose parts disagree."""

import numpy as np
import pytest

from experiments.harness.intervals import (
    Interval,
    bootstrap_interval,
    interval,
    ratio_interval,
    share_difference,
    share_interval,
)
from experiments.harness.verdicts import OURS, Claim, above, below, between

BETTER, WORSE, WIDE = np.array([1.0, 1.1, 1.2]), np.array([-1.0, -1.1, -1.2]), np.array([-1.0, 0.1, 1.2])


def test_interval_is_student_t():
    # Two-sided 97.5 % quantile of Student's t with 2 degrees of freedom: 4.302653 (any table); deviation of 1, 2, 3 is 1.
    measured = interval([1.0, 2.0, 3.0])
    assert (measured.mean, measured.n) == (2.0, 3)
    assert measured.high - 2.0 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert 2.0 - measured.low == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert interval([1.0, 2.0, 3.0], 0.5).high - 2.0 == pytest.approx(0.816497 / np.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_interval_refuses_what_has_none(values):
    with pytest.raises(ValueError, match="finite"):
        interval(values)


def test_a_ratio_has_the_interval_of_its_logarithm():
    found = ratio_interval([1.0, 4.0])
    assert found.mean == pytest.approx(2.0)
    assert found.low == pytest.approx(4.0 / found.high)
    assert interval([1.0, 4.0]).low < 0 < found.low


def test_a_share_of_few_cases_has_wilsons_interval():
    # Wilson 1927: (p + z^2 / 2n -+ z sqrt(p q / n + z^2 / 4n^2)) / (1 + z^2 / n) with z = 1.959964, p = 1, n = 10.
    found = share_interval(10, 10)
    assert (found.mean, found.high) == (1.0, pytest.approx(1.0))
    assert found.low == pytest.approx(1 / (1 + 1.959964**2 / 10), rel=1e-5)


def test_a_difference_of_shares_has_newcombes_interval():
    # Newcombe 1998, table II, method 10, of 56/70 less 48/80: 0.2 (0.0524 to 0.3339).
    found = share_difference(share_interval(56, 70), share_interval(48, 80))
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    with pytest.raises(ValueError, match="intervals"):
        share_difference(share_interval(1, 2), Interval(0.5, None, None, 1))


def test_resampled_cases_have_the_interval_of_their_mean_and_stay_paired():
    cases = np.random.default_rng(1).normal(size=(400, 2)) + 5
    found, expected = bootstrap_interval(cases[:, 0]), interval(cases[:, 0])
    assert (found.mean, found.n) == (pytest.approx(expected.mean), 400)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    # Twice the same column in a row, and a quarter more: their ratio is known exactly.
    pairs = np.stack([cases[:, 0], 1.25 * cases[:, 0]], axis=1)
    ratio = bootstrap_interval(pairs, lambda means: means[:, 1] / means[:, 0])
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((1.25, 1.25, 1.25))


@pytest.mark.parametrize(
    "rule, values, verdict",
    [
        (above(0), BETTER, "holds"),
        (above(0), WORSE, "refuted"),
        (above(0), WIDE, "open"),
        (above(0), BETTER[:1], "open"),
        (above(0), np.array([1.0, None, 2.0]), "open"),  # null in a record: it was not finite
        (above(0).mean, WIDE, "holds"),
        (above(0).every_seed, np.array([0.1, 5.0, 0.1]), "holds"),
        (above(0), np.array([0.1, 5.0, 0.1]), "open"),
        (above(0).every_seed, WIDE, "open"),
        (below(0), WORSE, "holds"),
        (between(0, 2), BETTER, "holds"),
        (between(5, 6), BETTER, "refuted"),
        (between(0, 1.1), BETTER, "open"),
        (above(1.0), 1.0, "refuted"),  # strictly
        (above(1.0), 1.1, "holds"),
        (below(1.0), Interval(0.5, 0.2, 0.9, 4), "holds"),
        (below(1.0), Interval(0.5, None, None, 1), "open"),
        (above(0.5, matters=0.05), np.array([0.1, 0.2, 0.3]), "open"),
        (above(0.5, matters=0.05), np.array([0.01, 0.02, 0.03]), "refuted"),
        (above(0, matters=0.05), np.array([-0.01, 0.0, 0.01]), "refuted"),  # precisely known to be too small to matter
        (above(0, matters=0.05), np.array([0.01, 0.011, 0.012]), "holds"),
        (below(0.2, matters=1.0), np.array([0.3, 0.4, 0.5]), "open"),
        (below(0.2, matters=1.0), np.array([2.0, 2.1, 2.2]), "refuted"),
    ],
)
def test_a_rule_gives_one_of_three_words(rule, values, verdict):
    assert rule(values) == verdict


@pytest.mark.parametrize(
    "rule, text",
    [
        (above(0.5), "whole interval above 0.5"),
        (below(2).mean, "mean below 2"),
        (between(0, 1).every_seed.but(1), "every seed between 0 and 1, for all but 1"),
        (above(0.15, matters=0.05), "whole interval above 0.15, refuted below 0.05"),
    ],
)
def test_the_threshold_is_the_rule(rule, text):
    assert str(rule) == text
    assert claim({"a": BETTER}, rule).threshold == text


def claim(measured, rule):
    return Claim("name", "statement", OURS, measured, rule)


@pytest.mark.parametrize(
    "measured, rule, verdict",
    [
        ({"a": BETTER, "b": BETTER}, above(0), "holds"),
        ({"a": BETTER, "b": WIDE}, above(0), "open"),
        ({"a": WORSE, "b": WIDE}, above(0), "refuted"),  # what has failed for sure is not hidden by what cannot tell
        ({"a": WORSE, "b": BETTER[:1]}, above(0), "refuted"),
        ({"a": WORSE, "b": BETTER}, above(0).but(1), "holds"),
        ({"a": WORSE, "b": WIDE}, above(0).but(1), "open"),
        ({"a": WORSE, "b": BETTER}, {"b": above(0)}, "holds"),  # `a` is shown, not judged
    ],
)
def test_a_claim_weighs_its_parts(measured, rule, verdict):
    assert claim(measured, rule).verdict == verdict


def test_a_claim_is_json():
    assert claim({"a": np.array([1.0, 3.0]), "b": 2}, {"b": above(1)}).judged() == {
        "name": "name",
        "statement": "statement",
        "source": "ours",
        "unit": "",
        "over": "seeds",
        "published": None,
        "measured": {"a": vars(interval([1.0, 3.0])), "b": 2.0},
        "threshold": "b: whole interval above 1",
        "parts": {"b": "holds"},
        "verdict": "holds",
    }


@pytest.mark.parametrize("name, rule", [("two words", above(0)), ("name", {"c": above(0)}), ("name", {})])
def test_a_claim_without_a_judgement_is_refused(name, rule):
    with pytest.raises(ValueError, match="identifier|judges"):
        Claim(name, "statement", OURS, {"a": BETTER}, rule)
