"""Budgets that sum exactly, and Zipf laws that are found again."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.sae.budgets import fit_zipf, largest_remainder, ranks, zipf_budgets
from lexinv.sae.densities import compare_laws, fit_middle_zipf, ranks_shown


def test_a_zipf_law_is_found_and_a_bent_one_is_judged_worse():
    ranks = np.arange(1, 201)
    alpha, quality = fit_middle_zipf(0.3 * ranks**-0.7)
    assert (alpha, quality) == pytest.approx((0.7, 1.0))
    assert fit_middle_zipf(np.concatenate([0.3 * ranks**-0.7, np.zeros(50)])) == pytest.approx((0.7, 1.0))
    assert fit_middle_zipf(np.where(ranks < 50, 0.5, 0.001))[1] < 0.9
    assert fit_middle_zipf(np.zeros(10)) == (0.0, 0.0)


def test_two_laws_are_told_apart():
    ranks = ranks_shown(512) + 1
    zipf, exponential = compare_laws(0.3 * ranks**-0.7, 512, 512)
    assert zipf == pytest.approx(1.0) and exponential < 0.95
    zipf, exponential = compare_laws(0.3 * np.exp(-0.01 * ranks), 512, 512)
    assert exponential == pytest.approx(1.0) and zipf < 0.95
    assert compare_laws(np.full(len(ranks), 0.1), 512, 512) == compare_laws(0.3 * ranks**-0.7, 2, 512) == (0.0, 0.0)


@given(
    features=st.integers(1, 60),
    tokens=st.integers(1, 80),
    alpha=st.floats(0.0, 3.0),
    beta=st.floats(0.0, 20.0),
    share=st.floats(0.0, 1.0),
)
@settings(max_examples=200, deadline=None)
def test_budgets_sum_exactly_and_fall(features, tokens, alpha, beta, share):
    total = features + round(share * (tokens - 1) * features)
    budgets = zipf_budgets(total, features, tokens, alpha, beta)
    assert budgets.sum() == total
    assert budgets.min() >= 1 and budgets.max() <= tokens
    assert (np.diff(budgets) <= 1).all()  # rounding may lift a rank by one, no more
    if alpha == 0.0:
        assert budgets.max() - budgets.min() <= 1


def test_unclipped_budgets_are_proportional():
    budgets = zipf_budgets(100_000, 10, 10**6, 1.0, 2.0)
    weights = 1 / (np.arange(1, 11) + 2.0)
    np.testing.assert_allclose(budgets, 100_000 * weights / weights.sum(), atol=1)


@given(seed=st.integers(0, 999), total=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_largest_remainder_keeps_the_total(seed, total):
    weights = np.random.default_rng(seed).dirichlet(np.ones(7))
    shares = jnp.asarray(weights * total, jnp.float32)
    found = np.asarray(largest_remainder(shares, total))
    assert abs(found.sum() - total) <= (0 if abs(float(shares.sum()) - total) < 1e-4 else 1)
    assert (np.abs(found - np.asarray(shares)) < 1 + 1e-4).all()


def test_ranks_by_hand():
    np.testing.assert_array_equal(ranks(jnp.array([0.1, 0.5, 0.1, 0.9])), [2, 1, 3, 0])


@pytest.mark.parametrize("alpha, beta", [(0.9, 0.0), (1.4, 5.0)])
def test_a_zipf_law_is_found_again(alpha, beta):
    law = 0.3 * (np.arange(1, 101) + beta) ** -alpha
    shuffled = np.random.default_rng(0).permutation(law)
    found = fit_zipf(jnp.asarray(shuffled, jnp.float32), beta)
    assert float(found.alpha) == pytest.approx(alpha, rel=1e-3)
    np.testing.assert_allclose(found.density(jnp.arange(100)), law, rtol=1e-2)


def test_the_low_end_does_not_matter():
    law = 0.3 * np.arange(1, 101.0) ** -0.9
    law[60:] = 1e-6
    assert float(fit_zipf(jnp.asarray(law, jnp.float32)).alpha) == pytest.approx(0.9, rel=1e-3)
