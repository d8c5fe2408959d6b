"""Random configurations."""

from experiments.merging.zero_tprune import draw_prunings
from experiments.subjects.pretrained_vision import dinov2_small
from experiments.subjects.reduced_vision import flops

MODEL = dinov2_small(224)


def test_drawn_configurations_cost_what_they_should():
    drawn = draw_prunings(MODEL, 0.6, 3, 0)
    assert len(set(drawn)) == 3
    assert all(abs(flops(MODEL, one.schedule) - 0.6) <= 0.01 and 0 <= one.similar <= 0.5 for one in drawn)
    assert drawn == draw_prunings(MODEL, 0.6, 3, 0) != draw_prunings(MODEL, 0.6, 3, 1)
