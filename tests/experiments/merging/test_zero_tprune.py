"""Random configurations, and what counts as kept of an object."""

import jax
import jax.numpy as jnp
import pytest

from experiments.merging.zero_tprune import Pruning, draw_prunings, judged
from experiments.subjects.glyph_classifiers import GLYPHS, held_out, tiny
from experiments.subjects.reduced_vision import flops
from lexinv.nn.vision_transformer import initialize

SMALL = tiny(GLYPHS)


def test_drawn_configurations_cost_what_they_should():
    drawn = draw_prunings(GLYPHS.model, 0.6, 3, 0)
    assert len(set(drawn)) == 3
    assert all(abs(flops(GLYPHS.model, one.schedule) - 0.6) <= 0.01 and 0 <= one.similar <= 0.5 for one in drawn)
    assert drawn == draw_prunings(GLYPHS.model, 0.6, 3, 0) != draw_prunings(GLYPHS.model, 0.6, 3, 1)


@pytest.mark.parametrize("removed, kept", [((0, 0), 1.0), ((60, 0), 4 / 64)])
def test_random_pruning_keeps_its_share_of_the_object(removed, kept):
    params = jax.jit(lambda key: initialize(SMALL.model, key))(jax.random.key(0))
    images = jax.tree.map(lambda leaf: jnp.tile(leaf, (4, *[1] * (leaf.ndim - 1))), held_out(SMALL, 0, 16))
    _, share = judged(params, images, jax.random.key(1), SMALL.model, "prune_random", Pruning(removed, 0.0))
    assert share == pytest.approx(kept, abs=0.03)
