import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.harness.claims import Claim, Interval, above, below, every, interval


def test_interval_is_student_t():
    # Two-sided 97.5 % quantile of Student's t with 2 degrees of freedom: 4.302653 (any table); deviation of 1, 2, 3 is 1.
    measured = interval([1.0, 2.0, 3.0])
    assert measured.mean == 2.0
    assert measured.n == 3
    assert measured.high - 2.0 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert 2.0 - measured.low == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert interval([1.0, 2.0, 3.0], 0.5).high - 2.0 == pytest.approx(0.816497 / np.sqrt(3), rel=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_interval_holds_its_mean(values):
    measured = interval(values)
    assert measured.low <= measured.mean <= measured.high
    assert measured.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-9)


def test_one_run_cannot_tell():
    assert interval([3.0]) == Interval(3.0, None, None, 1)
    assert below(interval([3.0]), 100.0) is None
    assert above(interval([3.0]), -100.0) is None


def test_a_verdict_needs_the_whole_interval():
    measured = Interval(mean=1.0, low=0.5, high=1.5, n=3)
    assert below(measured, 1.6) is True
    assert below(measured, 1.5) is False
    assert below(measured, 1.2) is False
    assert above(measured, 0.4) is True
    assert above(measured, 0.5) is False
    assert above(measured, 0.8) is False


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_interval_refuses_what_has_none(values):
    with pytest.raises(ValueError, match="finite"):
        interval(values)


def test_claim_is_plain():
    claim = Claim("name", "statement", "source", None, 1.0, 2.0, np.bool_(True))
    assert claim.holds is True
    with pytest.raises(ValueError, match="two words"):
        Claim("two words", "statement", "source", None, 1.0, 2.0, None)


@pytest.mark.parametrize(
    "verdicts, expected", [([True, True], True), ([True, False], False), ([False, None], None), ([], None)]
)
def test_every_verdict(verdicts, expected):
    assert every(verdicts) is expected
