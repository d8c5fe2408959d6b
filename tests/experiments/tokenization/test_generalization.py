"""The loss of the best unigram model for a text, which is the entropy of its own tokens."""

import numpy as np
import pytest

from experiments.tokenization.generalization import best_loss
from lexinv.tokenization.tokenizers import dictionary


def test_best_loss_is_per_character_and_not_per_token():
    """Tokens 00 and 1 in turns: ln 2 for each, and one and a half characters in each."""
    assert best_loss(dictionary("pairs", "01", ("0", "1", "00")), "001" * 20) == pytest.approx(np.log(2) / 1.5)
