"""Pooling to any number of tokens against loops and PyTorch, one set of parameters for all of them, and budgets drawn on the host."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.flexible_projector import FlexibleProjector, adaptive_pool, draw_budget, pool_matrix
from lexinv.validation import InvalidConfig

PROJECTOR = FlexibleProjector(read=3, hidden=5, width=4)
FEATURES = np.random.default_rng(0).normal(size=(9, 9, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return PROJECTOR.initialize(jax.random.key(0))


@pytest.mark.parametrize("n", [1, 2, 4, 6, 9, 12])
def test_pooling_is_the_mean_over_bins_that_may_overlap(n):
    bins = [range(i * 9 // n, -(-(i + 1) * 9 // n)) for i in range(n)]
    expected = [[FEATURES[np.ix_(rows, columns)].mean(axis=(0, 1)) for columns in bins] for rows in bins]
    np.testing.assert_allclose(adaptive_pool(jnp.asarray(FEATURES), n), expected, atol=1e-5)
    np.testing.assert_allclose(pool_matrix(9, n).sum(axis=1), 1, rtol=1e-6)


def test_as_many_tokens_as_features_are_the_features_and_a_constant_stays():
    np.testing.assert_array_equal(pool_matrix(9, 9), np.eye(9))
    np.testing.assert_allclose(adaptive_pool(jnp.full((9, 9, 1), 2.5), 4), 2.5, rtol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("n", [1, 7, 8, 12, 16, 27])
def test_pooling_is_that_of_torch(n):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(n).normal(size=(27, 27, 2)).astype(np.float32)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(x).permute(2, 0, 1), n).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(adaptive_pool(jnp.asarray(x), n), expected, atol=1e-5)


def test_the_projector_is_swiglu_of_pooled_features(params):
    tokens = PROJECTOR(params, jnp.asarray(FEATURES), 2)
    pooled = np.asarray(adaptive_pool(jnp.asarray(FEATURES), 2)).reshape(4, 3)
    gate = pooled @ params["mlp_gate"]
    expected = (gate / (1 + np.exp(-gate)) * (pooled @ params["mlp_in"])) @ params["mlp_out"]
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    shut = params | {"mlp_gate": jnp.zeros((3, 5))}
    np.testing.assert_array_equal(PROJECTOR(shut, jnp.asarray(FEATURES), 2), 0)


@pytest.mark.parametrize("n", [1, 2, 6])
def test_every_budget_trains_all_of_the_same_parameters(params, n):
    """And what is learned at one budget changes the others."""
    gradient = jax.grad(lambda p: jnp.sum(PROJECTOR(p, jnp.asarray(FEATURES), n) ** 2))(params)
    assert all(bool(jnp.all(leaf != 0)) for leaf in jax.tree.leaves(gradient))
    after = jax.tree.map(lambda leaf, slope: leaf - 0.01 * slope, params, gradient)
    assert PROJECTOR(after, jnp.asarray(FEATURES), 3).shape == (9, 4)
    assert not np.allclose(PROJECTOR(after, jnp.asarray(FEATURES), 3), PROJECTOR(params, jnp.asarray(FEATURES), 3))


def test_a_budget_is_compiled_once(params):
    step = jax.jit(PROJECTOR.__call__, static_argnums=2)
    for n in (2, 3, 2, 3, 2):
        step(params, jnp.asarray(FEATURES), n)
    assert step._cache_size() == 2


def test_budgets_come_in_their_proportions():
    """The paper's: 184 tokens of 256 on average, with a standard deviation of 77: that of the mean of 20,000 is 0.54."""
    rng, draw = np.random.default_rng(3), partial(draw_budget, budgets=(8, 12, 16), probabilities=(0.2, 0.3, 0.5))
    drawn = np.array([draw(rng) for _ in range(20_000)])
    np.testing.assert_allclose([(drawn == n).mean() for n in (8, 12, 16)], (0.2, 0.3, 0.5), atol=0.015)
    assert abs((drawn**2).mean() - 184) < 2.5


@pytest.mark.parametrize(
    "field, call",
    [
        ("n", lambda: adaptive_pool(jnp.asarray(FEATURES), 0)),
        ("x", lambda: adaptive_pool(jnp.asarray(FEATURES)[:8], 2)),
        ("hidden", lambda: FlexibleProjector(3, 0, 4)),
        ("budgets", lambda: draw_budget(np.random.default_rng(0), (0, 2), (0.5, 0.5))),
        ("probabilities", lambda: draw_budget(np.random.default_rng(0), (2, 4), (0.5, 0.6))),
        ("probabilities", lambda: draw_budget(np.random.default_rng(0), (2, 4), (1.0,))),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(field, call):
    with pytest.raises(InvalidConfig, match=field):
        call()
