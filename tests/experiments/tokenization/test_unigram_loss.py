"""The floor of every tokenizer's loss, and the exact values beside the measured ones."""

import numpy as np

from experiments.subjects.markov_sources import SourceConfig
from experiments.subjects.tokenizer_losses import facts, tokenizer_losses


def test_losses_lie_above_the_source_and_blocks_at_their_exact_value():
    source, sizes = SourceConfig(1, 0.9, 0.9), (4, 8)
    found = tokenizer_losses(source.kernel, 0, sizes, 20_000, ((8,), 1000))
    own, exact = found.pop("own_loss"), facts(source, sizes)["block_formula"]
    losses = {name: value for name, value in found.items() if name.endswith("_loss")}
    assert len(losses["unigram_loss"]) == 1 and len(losses) == 5
    assert all(min(values) > own for values in losses.values())
    np.testing.assert_allclose(found["blocks_exact"], exact, rtol=1e-9)
    np.testing.assert_allclose(found["blocks_loss"], exact, rtol=0.03)
    np.testing.assert_allclose(found["blocks_characters_per_token"], [2, 3], rtol=1e-3)
