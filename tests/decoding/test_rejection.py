"""Adaptive weighted rejection sampling against the sum over all orders, against its host version, and by its moments."""

from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from lexinv.decoding.rejection import MOST, adaptive_rejection, reject_in_order, reject_lazily, reject_with_repeats
from lexinv.validation import InvalidConfig

PROBS = np.array([0.45, 0.25, 0.15, 0.1, 0.05])
V = len(PROBS)
ORDERS = np.array(list(permutations(range(V))))
LEFT = 1 - np.cumsum(PROBS[ORDERS], axis=1) + PROBS[ORDERS]
CHANCE = np.prod(PROBS[ORDERS] / LEFT, axis=1)
"""Plackett and Luce's probability of each order."""
NOISE = np.zeros(ORDERS.shape)
np.put_along_axis(NOISE, ORDERS, -10.0 * np.arange(V)[None], axis=1)
NOISE -= np.log(PROBS)
in_order = jax.jit(jax.vmap(reject_in_order, (0, None, None, None)))
repeated = jax.jit(jax.vmap(reject_with_repeats, (0, None, None, None, None)))


@pytest.mark.parametrize("max_rejects", [2, 3, 4, MOST])
def test_weights_are_proper_over_all_orders(max_rejects):
    """E[w 1[x = v]] = p(v) a(v), of the sum over all 120 orders, for every constraint on five tokens; compiled and on the host alike."""
    for accept in product((False, True), repeat=V):
        found = in_order(
            jnp.asarray(NOISE, jnp.float32), jnp.log(jnp.asarray(PROBS, jnp.float32)), jnp.array(accept), max_rejects
        )
        weights = CHANCE * np.exp(np.asarray(found.log_weight, np.float64))
        np.testing.assert_allclose(np.bincount(found.token, weights, V), PROBS * accept, atol=1e-6)
        valid = np.array(accept)[np.asarray(found.token)]
        np.testing.assert_array_equal(np.isfinite(found.log_weight), valid)
        for index in range(0, len(ORDERS), 7):
            token, weight, evaluations = reject_lazily(NOISE[index], np.log(PROBS), accept.__getitem__, max_rejects)
            assert (token, evaluations) == (found.token[index], found.evaluations[index])
            np.testing.assert_allclose(weight, found.log_weight[index], atol=1e-5)


def test_the_host_asks_what_it_counts_and_draws_the_same_of_many_tokens():
    """More tokens than it sorts at first, most of them impossible or refused; the weight moves with unnormalised probabilities."""
    generator = np.random.default_rng(0)
    log_probs = np.where(generator.random(400) < 0.3, -np.inf, generator.normal(size=400)).astype(np.float32)
    accept = generator.random(400) < 0.01
    for seed in range(20):
        noise = np.asarray(jax.random.gumbel(jax.random.key(seed), (400,)))
        asked = list[int]()

        def check(token, asked=asked):
            asked.append(token)
            return bool(accept[token])

        found = reject_lazily(noise, log_probs, check)
        assert found[2] == len(asked) == len(set(asked))
        ours = in_order(noise[None], jnp.asarray(log_probs), jnp.asarray(accept), MOST)
        np.testing.assert_allclose([part[0] for part in ours], found, rtol=1e-4)


@pytest.mark.parametrize(("max_accepts", "max_rejects"), [(2, MOST), (2, 2), (3, 4), (5, MOST)])
@pytest.mark.parametrize("accept", [(True, False, False, True, True), (False, False, True, False, False), (True,) * V])
def test_weights_of_repeats_are_proper(accept, max_accepts, max_rejects):
    """Within five standard errors of 20,000 draws, and no token is tested twice."""
    n, log_probs = 20_000, jnp.log(jnp.asarray(PROBS, jnp.float32))
    keys = jax.random.split(jax.random.key(1), n)
    found = repeated(keys, log_probs + 1.0, jnp.array(accept), max_accepts, max_rejects)
    weights = np.exp(np.asarray(found.log_weight) - 1.0)
    each = weights[:, None] * (np.asarray(found.token)[:, None] == np.arange(V))
    errors = 5 * each.std(axis=0) / np.sqrt(n) + 1e-6
    assert np.all(np.abs(each.mean(axis=0) - PROBS * accept) <= errors), each.mean(axis=0)
    np.testing.assert_array_equal(weights > 0, np.array(accept)[np.asarray(found.token)])
    assert np.max(found.evaluations) <= V


@pytest.mark.parametrize("estimator", ["recursive", "geometric"])
def test_tokens_are_those_of_masking_and_fewer_are_tested_than_with_replacement(estimator):
    n, accept = 20_000, np.array([False, True, False, True, True])
    draw = jax.jit(
        jax.vmap(lambda key: adaptive_rejection(key, jnp.log(jnp.asarray(PROBS)), jnp.asarray(accept), estimator))
    )
    found = draw(jax.random.split(jax.random.key(2), n))
    z = PROBS[accept].sum()
    counts = np.bincount(found.token, minlength=V)
    assert counts[~accept].sum() == 0
    assert chisquare(counts[accept], n * PROBS[accept] / z).pvalue > 1e-3
    if estimator == "recursive":  # one test beyond the first accepted token
        assert np.mean(found.evaluations) - 1 < 1 / z


def test_what_is_certain_has_an_exact_weight():
    log_probs = jnp.log(jnp.asarray(PROBS, jnp.float32))
    for seed in range(5):
        sure = adaptive_rejection(jax.random.key(seed), log_probs, jnp.ones(V, bool), "recursive")
        np.testing.assert_allclose(sure.log_weight, 0, atol=1e-6)
        one = adaptive_rejection(jax.random.key(seed), log_probs, jnp.arange(V) == 3, "recursive")
        np.testing.assert_allclose(one.log_weight, log_probs[3], atol=1e-6)
        for estimator in ("auto", "recursive", "geometric"):
            none = adaptive_rejection(jax.random.key(seed), log_probs, jnp.zeros(V, bool), estimator)
            assert none.log_weight == -jnp.inf
            assert none.evaluations == V


def test_auto_repeats_where_one_token_has_two_thirds():
    key, accept = jax.random.key(0), jnp.array([True, True, False])
    for probs, estimator in (([0.7, 0.2, 0.1], "geometric"), ([0.6, 0.2, 0.2], "recursive")):
        log_probs = jnp.log(jnp.array(probs))
        found, same = (adaptive_rejection(key, log_probs, accept, which) for which in ("auto", estimator))
        np.testing.assert_array_equal(found.log_weight, same.log_weight)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"log_probs": jnp.full(V, -jnp.inf)}, "log_probs"),
        ({"log_probs": jnp.full(V, jnp.nan)}, "log_probs"),
        ({"estimator": "other"}, "estimator"),
        ({"max_accepts": 1}, "max_accepts"),
        ({"max_rejects": 1}, "max_rejects"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, field):
    with pytest.raises(InvalidConfig, match=field):
        adaptive_rejection(
            **({"key": jax.random.key(0), "log_probs": jnp.zeros(V), "accept": jnp.ones(V, bool)} | change)
        )
