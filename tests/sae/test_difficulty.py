"""Features used against difficulty, by hand."""

import numpy as np
import pytest

from lexinv.sae.difficulty import difficulty_use


def test_two_difficulties_are_two_bins():
    l0, difficulty = np.array([1, 3, 5, 9, 7]), np.array([0.35, 0.35, 1.65, 1.65, 1.65])
    found = difficulty_use(l0, difficulty)
    np.testing.assert_allclose(found.difficulty, [0.35, 1.65])
    np.testing.assert_allclose(found.l0, [2, 7])
    np.testing.assert_allclose(found.error, [1.0, 2 / np.sqrt(3)])  # deviations sqrt 2 and 2
    np.testing.assert_array_equal(found.tokens, [2, 3])
    # ranks 1 2 3 5 4 against 1.5 1.5 4 4 4: 7.5 over sqrt(10 * 7.5)
    assert found.spearman == pytest.approx(7.5 / np.sqrt(75))


def test_any_rising_relation_correlates_perfectly():
    difficulty = np.random.default_rng(0).permutation(100.0 + np.arange(1000))
    found = difficulty_use(np.exp(difficulty / 100), difficulty, bins=4)
    assert found.spearman == pytest.approx(1.0) and difficulty_use(-difficulty, difficulty).spearman == pytest.approx(
        -1
    )
    np.testing.assert_array_equal(found.tokens, [250] * 4)
    np.testing.assert_allclose(found.difficulty, [224.5, 474.5, 724.5, 974.5])


def test_topk_does_not_follow():
    assert difficulty_use(np.full(10, 4), np.arange(10.0)).spearman == 0.0


def test_ties_stay_together():
    difficulty = np.concatenate([np.zeros(500), np.arange(1, 501)])
    found = difficulty_use(difficulty, difficulty, bins=10)
    assert found.tokens[0] == 500 and found.l0[0] == 0.0 and found.tokens.sum() == 1000
