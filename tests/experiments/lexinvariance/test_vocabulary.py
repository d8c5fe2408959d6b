"""Bits of a window are weighed by its bytes, and the gap of its last quarter by that of its first."""

import pytest

from experiments.lexinvariance.vocabulary import gap_left, per_byte

MADE = {
    "bytes": [[1.0, 3.0, 1.0, 2.0]],
    "standard, trained": [[2.0, 2.0, 1.0, 2.0]],
    "lexinvariant, trained": [[6.0, 5.0, 1.0, 4.0]],
}


def test_bits_are_per_byte_and_weigh_bytes():
    assert per_byte(MADE, "lexinvariant, trained", slice(0, 2)) == pytest.approx([(6 + 5) / (1 + 3)])
    assert per_byte(MADE, "standard, trained", slice(3, 4)) == pytest.approx([1.0])


def test_the_gap_that_is_left_is_the_last_quarter_over_the_first():
    assert gap_left(MADE) == pytest.approx([((4 - 2) / 2) / ((6 - 2) / 1)])
