"""Features used against difficulty, by hand."""

import numpy as np
import pytest

from lexinv.sae.difficulty import difficulty_use


def test_two_difficulties_are_two_bins():
    found = difficulty_use(np.array([1, 3, 5, 9, 7]), np.array([0.35, 0.35, 1.65, 1.65, 1.65]))
    np.testing.assert_allclose(found.l0, [2, 7])
    # ranks 1 2 3 5 4 against 1.5 1.5 4 4 4: 7.5 over sqrt(10 * 7.5)
    assert found.spearman == pytest.approx(7.5 / np.sqrt(75))


def test_bins_of_equally_many_tokens_and_any_rising_relation():
    difficulty = np.random.default_rng(0).permutation(100.0 + np.arange(1000))
    assert difficulty_use(np.exp(difficulty / 100), difficulty).spearman == pytest.approx(1.0)
    found = difficulty_use(-difficulty, difficulty, bins=4)
    assert found.spearman == pytest.approx(-1)
    np.testing.assert_allclose(found.l0, [-224.5, -474.5, -724.5, -974.5])
