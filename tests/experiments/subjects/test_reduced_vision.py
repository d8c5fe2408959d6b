"""The loss of learned rates: what its gradient reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.subjects.font_characters import tiny
from experiments.subjects.reduced_vision import make_rate_loss
from lexinv.nn.vision_transformer import initialize

MODEL = tiny(depth=3).model


@pytest.mark.long
def test_gradients_reach_what_is_learned_and_nothing_else():
    """The cross-entropy has a gradient in the layer whose tokens the next attention sees, and none in the last; FLOPs in both."""
    leaves, tree = jax.tree.flatten(jax.jit(initialize, static_argnums=0)(MODEL, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    # With a head that reads, biases, and attention that is far from even.
    noisy = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    params = {"learned": jnp.zeros((2, MODEL.patches)), "frozen": jax.tree.unflatten(tree, noisy)}
    pixels = jax.random.randint(jax.random.key(2), (8, 48, 48, 1), 0, 256).astype(jnp.uint8)
    batch = {"pixels": pixels, "labels": jnp.arange(8, dtype=jnp.int32)}
    loss, key = make_rate_loss(MODEL, 0.9, 1.0), jax.random.key(0)

    @jax.jit
    def gradients(tree):
        whole = jax.grad(lambda tree: loss(tree, batch, key)[0])(tree)
        return whole, jax.grad(lambda tree: loss(tree, batch, key)[1]["cross_entropy"])(tree)

    whole, task = gradients(params)
    assert np.isfinite(whole["learned"]).all()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(whole["frozen"]))
    total, alone = (np.abs(found["learned"]).max(1) for found in (whole, task))
    assert (total > 1e-6).all() and alone[0] > 1e-6 and alone[1] < 1e-9
