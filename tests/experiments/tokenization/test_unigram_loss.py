"""Which points the bounds are judged on; the floor of every tokenizer's loss, and the exact values beside the measured ones."""

import math

import numpy as np
import pytest

from experiments.subjects.markov_sources import SourceConfig
from experiments.subjects.tokenizer_losses import block_length, facts, tokenizer_losses
from experiments.tokenization.unigram_loss import bound_ratios

POINT = {"entropy_rate": 0.3, "stationary_entropy": 0.69, "lzw": 0.4, "lzw_bound": 0.5, "sequential_bpe": 0.45}


def points(**changes) -> dict:
    return {"sources": {}, "arms": {}, "first_order": {name: [[value]] for name, value in (POINT | changes).items()}}


def test_ratios_are_those_of_losses_to_bounds():
    lzw, bpe = bound_ratios(points())
    assert lzw["first order (1 points)"] == pytest.approx(0.8)
    assert bpe["first order (1 points)"] == pytest.approx(1.5)


@pytest.mark.parametrize("bound", [0.7, None])
def test_bounds_above_the_entropy_of_characters_prove_nothing(bound):
    lzw, bpe = bound_ratios(points(lzw_bound=bound, entropy_rate=0.35))
    assert math.isnan(lzw["first order (0 points)"]) and math.isnan(bpe["first order (0 points)"])


def test_blocks_fill_the_dictionary_and_no_more():
    assert [block_length(size, 2) for size in (2, 7, 8, 1024)] == [1, 2, 3, 10]
    assert block_length(3**5, 3) == 5


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
