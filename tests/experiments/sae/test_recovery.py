"""Choosing a variant on the other seeds, by hand."""

import numpy as np

from experiments.sae.recovery import chosen_on_others


def test_a_variant_is_chosen_on_the_other_seeds():
    assert chosen_on_others(np.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])) == [1, 0, 0]
    assert chosen_on_others(np.array([[0.0], [1.0]])) == [1]
