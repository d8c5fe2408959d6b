"""Rates that are learned: discrete proxies, and masks in a Vision Transformer against real removal."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from lexinv.merging import rates
from lexinv.merging.costs import relative_flops
from lexinv.merging.methods import reductions
from lexinv.nn.vision_transformer import LAYERS, VisionConfig, classify, initialize

kept_count, survival = jax.jit(rates.kept_count), jax.jit(rates.survival, static_argnums=2)

COUNTS = rates.candidates(9, 2)


def test_proxies_of_an_even_choice():
    """The mean of 9 7 5 3 1 is 5; rank i survives with the share of candidates above i; the gradients are those of the soft forms."""
    logits = jnp.zeros(5)
    expected = [1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2]
    np.testing.assert_allclose(survival(logits, COUNTS, 9), expected, rtol=1e-6)
    assert float(jnp.sum(survival(logits, COUNTS, 9))) == pytest.approx(5)  # the mean count
    mean_gradient = 0.2 * (np.array([9, 7, 5, 3, 1]) - 5.0)  # of a softmax mean: p_k (c_k - mean)
    np.testing.assert_allclose(jax.jit(jax.grad(rates.kept_count))(logits, COUNTS), mean_gradient, atol=1e-6)
    summed = jax.jit(jax.grad(lambda x: rates.survival_mask(x, COUNTS, 9).sum()))(logits)
    np.testing.assert_allclose(summed, mean_gradient, atol=1e-6)
    assert kept_count(jnp.log(jnp.array([1.0, 1, 1, 1, 2])), COUNTS) == 5  # 26/6 is rounded up


def test_masked_softmax_is_softmax_of_what_is_left():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4)) * 5, jnp.float32)
    mask, softmax = jnp.array([1.0, 0.0, 1.0, 1.0]), jax.jit(rates.masked_softmax)
    found = np.asarray(softmax(logits, mask))
    np.testing.assert_allclose(
        found[:, [0, 2, 3]], scipy.special.softmax(np.asarray(logits)[:, [0, 2, 3]], axis=1), rtol=1e-5
    )
    assert not np.any(found[:, 1])
    assert not np.any(softmax(logits, jnp.zeros(4)))
    gradient = jax.jit(jax.grad(lambda m: rates.masked_softmax(logits, m)[0, 1]))(mask)
    assert gradient[1] > 0  # so that a masked token can come back


MODEL = VisionConfig(layers=replace(LAYERS, depth=3, width=16, heads=2, mlp_width=32))


@pytest.fixture(scope="module")
def params():
    """With a head that reads, biases, and attention that is far from even."""
    found = jax.jit(initialize, static_argnums=0)(MODEL, jax.random.key(0))
    leaves, tree = jax.tree.flatten(found)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


@pytest.fixture(scope="module")
def pixels():
    return jax.random.uniform(jax.random.key(2), (4, 32, 32, 3))


def sure(*kept: int) -> jax.Array:
    """Logits that leave no doubt about the counts."""
    return 60.0 * jax.nn.one_hot(MODEL.patches - jnp.array(kept), MODEL.patches)


@pytest.fixture(scope="module")
def whole(params, pixels):
    return jax.jit(lambda p, x: classify(MODEL, p, x)[0])(params, pixels)


def test_masks_of_zeros_and_ones_are_removal(params, pixels, whole):
    logits = sure(30, 9)
    assert rates.learned_counts(logits).tolist() == [64, 30, 9]
    masks = [None, *[rates.mask_by_rank(own) for own in logits]]
    masked, kept = jax.jit(lambda p, x: rates.masked_classify(MODEL, p, x, masks))(params, pixels)
    layers = reductions("prune_cls", (0, 34, 21), 3)
    removed = jax.jit(lambda p, x: classify(MODEL, p, x, layers)[0])(params, pixels)
    np.testing.assert_array_equal(kept, np.tile([64.0, 30, 9], (4, 1)))
    np.testing.assert_allclose(masked, removed, atol=1e-5)
    assert np.abs(np.asarray(removed - whole)).max() > 1e-2  # removal does something


def test_without_masks_it_is_the_model(params, pixels, whole):
    unmasked, _ = jax.jit(lambda p, x: rates.masked_classify(MODEL, p, x, [None] * 3))(params, pixels)
    np.testing.assert_allclose(unmasked, whole, atol=1e-5)


def test_counts_never_rise_and_cost_what_their_schedule_costs():
    counts = rates.learned_counts(sure(20, 40))
    assert counts.tolist() == [64, 20, 20]
    learned = relative_flops([65, *(counts + 1)], 16, 32)
    assert float(learned) == pytest.approx(relative_flops((65, 65, 21, 21), 16, 32), rel=1e-6)
    assert float(relative_flops([65, *jnp.full(3, 65.0)], 16, 32)) == pytest.approx(1.0)
