"""The loss of learned rates and thresholds: what its gradient reaches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.merging.learned_rates import PRESETS, make_loss
from lexinv.nn.vision_transformer import initialize

SMALL = PRESETS["smoke"].glyphs
SHARP = replace(SMALL.model, layers=replace(SMALL.model.layers, depth=3))


@pytest.fixture(scope="module")
def params():
    """With a head that reads, biases, and attention that is far from even."""
    found = jax.jit(initialize, static_argnums=0)(SHARP, jax.random.key(0))
    leaves, tree = jax.tree.flatten(found)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


@pytest.mark.long
@pytest.mark.parametrize("start", [jnp.zeros((2, 64)), jnp.full(2, -0.1)], ids=["rates", "thresholds"])
def test_gradients_reach_what_is_learned_and_nothing_else(params, start):
    """The cross-entropy has a gradient in the layer whose tokens the next attention sees, and none in the last; FLOPs in both."""
    config = replace(PRESETS["smoke"], glyphs=replace(SMALL, model=SHARP), targets=(0.9,), penalty=1.0)
    loss, key = make_loss(config, 0.9), jax.random.key(0)

    @jax.jit
    def gradients(tree):
        whole, back, _metrics = jax.vjp(lambda tree: loss(tree, key), tree, has_aux=True)
        task = jax.grad(lambda tree: loss(tree, key)[1]["cross_entropy"])(tree)
        return back(jnp.ones_like(whole))[0], task

    whole, task = gradients({"learned": start, "frozen": params})
    assert np.isfinite(whole["learned"]).all()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(whole["frozen"]))
    total, alone = (np.abs(found["learned"]).reshape(2, -1).max(1) for found in (whole, task))
    assert (total > 1e-6).all() and alone[0] > 1e-6 and alone[1] < 1e-9
