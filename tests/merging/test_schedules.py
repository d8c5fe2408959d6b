"""Counts by layer, and their costs, against the method cards' tables."""

import numpy as np
import pytest

from lexinv.merging.costs import block_flops, model_flops, nearest_schedule, relative_flops
from lexinv.merging.schedules import (
    even_schedules,
    linear_schedule,
    ratio_schedule,
    ratio_schedules,
    staged_schedules,
    token_counts,
)

WIDTHS = {"Ti": 192, "S": 384, "B": 768}
TABLE = {
    0.975: (150, (0.875, 0.881, 0.885)),
    0.95: (110, (0.756, 0.767, 0.773)),
    0.925: (81, (0.664, 0.676, 0.683)),
    0.90: (59, (0.581, 0.594, 0.602)),
}


@pytest.mark.parametrize("ratio", TABLE)
def test_ratio_schedule_and_flops_of_the_card(ratio):
    """DeiT, 196 patches and CLS, 12 layers; the table counts a block at its tokens before merging."""
    counts = token_counts(197, ratio_schedule(197, 12, ratio))
    assert counts[-1] - 1 == TABLE[ratio][0]
    for width, expected in zip(WIDTHS.values(), TABLE[ratio][1], strict=True):
        full = 12 * block_flops(197, 197, width, 4 * width)
        found = sum(block_flops(n, n, width, 4 * width) for n in counts[:-1]) / full
        assert found == pytest.approx(expected, abs=6e-4)


def test_ratio_schedule_step_by_step():
    counts = token_counts(197, ratio_schedule(197, 12, 0.9))
    assert [n - 1 for n in counts] == [196, 177, 160, 144, 130, 117, 106, 96, 87, 79, 72, 65, 59]
    assert ratio_schedule(11, 3, 1.0) == (0, 0, 0)
    assert ratio_schedule(11, 2, 0.01) == (5, 2)  # half at most
    assert ratio_schedule(1, 2, 0.5) == (0, 0)
    assert ratio_schedule(10, 1, 0.7, protect=0) == (3,)  # 10 - 7.000000000000001 rounds up to 3 all the same


def test_constant_schedule_of_tome():
    counts = token_counts(197, linear_schedule(197, 12, 13))
    assert counts[-1] == 41
    assert linear_schedule(10, 4, 3) == (3, 3, 1, 1)  # 9 patches, 6, 3, 2: clipped at half
    assert linear_schedule(197, 1, 13, 0.5) == (13,)


def test_linear_schedule_of_the_card():
    assert linear_schedule(1000, 12, 8, -1.0) == (16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0)
    rising = linear_schedule(1000, 12, 8, 1.0)
    assert rising[0] == 0 and rising[-1] == 16 and sorted(rising) == list(rising)
    assert sum(linear_schedule(1000, 5, 8, 0.5)) == pytest.approx(40, abs=5)


def test_flops_of_a_block_by_hand():
    """Every matrix product of a block written out: 10 tokens before, 7 after, width 4, MLP 16."""
    n, m, c, h = 10, 7, 4, 16
    products = 3 * n * c * c + n * n * c + n * n * c + n * c * c + m * c * h + m * h * c
    assert block_flops(n, m, c, h) == products
    assert block_flops(n, n, c, 4 * c) == 12 * n * c * c + 2 * n * n * c
    assert model_flops((10, 7, 7), c, h) == products + block_flops(7, 7, c, h)


def test_deit_and_mae_flops_of_the_paper():
    """GFLOPs of the unmerged backbones, to which patches and head add little: 1.2, 4.6 and 61.6."""
    for width, depth, published in ((192, 12, 1.2), (384, 12, 4.6), (1024, 24, 61.6)):
        assert depth * block_flops(197, 197, width, 4 * width) / 1e9 == pytest.approx(published, rel=0.05)


def test_prefill_of_divprune():
    """LLaVA-1.5 7B, 576 visual tokens and the text lengths of 11 tasks; 56 kept of them."""
    texts = np.array([15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57])

    def tera(visual: int) -> float:
        return float(np.mean([32 * block_flops(int(n) + visual, int(n) + visual, 4096, 11008) for n in texts])) / 1e12

    assert round(0.098 * 576) == 56
    assert tera(576) == pytest.approx(3.228, abs=6e-4)
    assert tera(56) == pytest.approx(0.512, abs=6e-4)
    assert tera(144) == pytest.approx(0.962, abs=6e-4)


SIZES = 65, 48, 192
"""Tokens, width, width of the MLP."""


def cost(schedule):
    return relative_flops(token_counts(SIZES[0], schedule), *SIZES[1:])


def test_schedules_of_equal_flops_are_found():
    goal = ratio_schedule(65, 6, 0.8)
    assert nearest_schedule(ratio_schedules(65, 6), cost(goal), *SIZES) == goal
    even = nearest_schedule(even_schedules(65, 6), cost(goal), *SIZES)
    assert token_counts(65, even) == (65, 56, 47, 38, 29, 19, 10)
    assert cost(even) == pytest.approx(cost(goal), rel=0.01)
    assert nearest_schedule(even_schedules(65, 6), 1.0, *SIZES) == (0,) * 6


@pytest.mark.parametrize("flops", [0.9, 0.7, 0.5])
def test_staged_schedules_prune_where_they_are_told(flops):
    """The second layer keeps the square of the share that the first one keeps."""
    schedule = nearest_schedule(staged_schedules(65, 6, {1: 1.0, 3: 2.0}), flops, *SIZES)
    assert [i for i, removed in enumerate(schedule) if removed] == [1, 3]
    assert cost(schedule) == pytest.approx(flops, abs=0.01)
    rho = (64 - schedule[1]) / 64
    assert (64 - schedule[1] - schedule[3]) / (64 - schedule[1]) == pytest.approx(rho**2, abs=0.03)
