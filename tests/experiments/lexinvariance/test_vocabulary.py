"""The gap of a window is weighed by its bytes."""

import pytest

from experiments.lexinvariance.vocabulary import gap


def test_gap_is_in_bits_per_byte_and_weighs_bytes():
    made = {"bytes": [[1.0, 3.0]], "standard": [[2.0, 2.0]], "lexinvariant": [[3.0, 5.0]]}
    assert gap(made, slice(0, 2)) == pytest.approx([(1 + 3) / (1 + 3)])
    assert gap(made, slice(1, 2)) == pytest.approx([1.0])
