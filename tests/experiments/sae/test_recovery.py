"""Choosing a variant on the other seeds, by hand."""

import numpy as np

from experiments.harness.arms import Arms
from experiments.sae.recovery import chosen_on_others, recovery_beyond_reconstruction


def test_a_variant_is_chosen_on_the_other_seeds():
    assert chosen_on_others(np.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])) == [1, 0, 0]
    assert chosen_on_others(np.array([[0.0], [1.0]])) == [1]


def test_recovery_is_compared_seed_by_seed():
    """FVU chooses a, MCC chooses b, F1 chooses a."""
    arms = Arms(
        {
            "arms": {
                "spare/a": {"fvu": [0.1, 0.1], "mcc": [0.5, 0.6], "f1": [0.8, 0.8]},
                "spare/b": {"fvu": [0.2, 0.2], "mcc": [0.9, 0.8], "f1": [0.5, 0.4]},
            }
        }
    )
    found = recovery_beyond_reconstruction(arms, "spare", ["a", "b"])
    assert list(found) == ["spare, mcc: b over a", "spare, f1: a over a"]
    np.testing.assert_allclose(found["spare, mcc: b over a"], [0.4, 0.2])
    np.testing.assert_array_equal(found["spare, f1: a over a"], [0, 0])
