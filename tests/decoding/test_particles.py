"""Particles under an automaton against the sum over all texts, on the device and on the host."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.automata import Acceptor, allowed
from lexinv.decoding.automata import posterior, unrolled
from lexinv.decoding.particles import ENDED, METHODS, ancestors, effective_size, smc, smc_lazily
from lexinv.validation import InvalidConfig

V, LENGTH, STATES = 3, 4, 3
RNG = np.random.default_rng(0)
INITIAL, TRANSITION = RNG.dirichlet(np.ones(V)), RNG.dirichlet(np.ones(V), V)
MOVES = np.array([[1, 0, 2], [0, 2, -1], [-1, 1, 2]])
CONSTRAINT = Acceptor(jnp.asarray(MOVES, jnp.int32), jnp.array([False, True, False]))
TEXTS = np.array(list(product(range(V), repeat=LENGTH)))


def accepts(text):
    state = 0
    for token in text:
        state = MOVES[state, token]
        if state < 0:
            return False
    return state == 1


PROBS = INITIAL[TEXTS[:, 0]] * np.prod([TRANSITION[TEXTS[:, i], TEXTS[:, i + 1]] for i in range(LENGTH - 1)], axis=0)
KEPT = PROBS * np.array([accepts(text) for text in TEXTS])
MARGINALS = np.stack([np.bincount(TEXTS[:, i], KEPT, V) for i in range(LENGTH)]) / KEPT.sum()


def predict(state, last):
    """The chain, and the end after `LENGTH` tokens. state: tokens read so far."""
    law = jnp.concatenate([jnp.asarray(TRANSITION), jnp.asarray(INITIAL)[None]])[jnp.where(last < 0, V, last)]
    ends = (state == LENGTH)[:, None]
    probs = jnp.concatenate([jnp.where(ends, 0.0, law), ends.astype(law.dtype)], axis=1)
    return jnp.log(probs.astype(jnp.float32)), state + 1


def run(key, count, method, **options):
    start = jnp.zeros(count, jnp.int32)
    constraint = unrolled(CONSTRAINT, LENGTH)
    return smc(key, predict, start, constraint, count, LENGTH + 1, METHODS[method], **options)


def many(count, method, runs, **options):
    return jax.jit(jax.vmap(partial(run, count=count, method=method, **options)))(
        jax.random.split(jax.random.key(1), runs)
    )


def marginals(found):
    """Of all runs together, each weighted with its estimate of Z."""
    shares = np.nan_to_num(np.asarray(jax.nn.softmax(found.log_weights, axis=1)))  # of runs that are not all dead
    weights = np.exp(np.asarray(found.log_evidence))[:, None] * shares
    tokens = np.asarray(found.tokens)[:, :, :LENGTH]
    counts = np.stack([np.bincount(np.maximum(tokens[..., i], 0).ravel(), weights.ravel(), V) for i in range(LENGTH)])
    return counts / counts.sum(axis=1, keepdims=True)


def test_the_posterior_is_the_sum_over_all_texts():
    found = posterior(INITIAL, TRANSITION, CONSTRAINT, LENGTH)
    np.testing.assert_allclose(found.log_evidence, np.log(KEPT.sum()), rtol=1e-10)
    np.testing.assert_allclose(found.marginals, MARGINALS, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("awrs-smc", {}),
        ("awrs-smc", {"scheme": "multinomial", "foresee": False}),
        ("mask-smc", {}),
        ("twisted-smc", {}),
        ("verify", {}),
    ],
)
def test_the_evidence_is_unbiased_and_the_texts_are_those_of_the_posterior(method, options):
    found = many(8, method, 4000, **options)
    estimates = np.exp(np.asarray(found.log_evidence, np.float64))
    assert abs(estimates.mean() - KEPT.sum()) < 4 * estimates.std() / np.sqrt(len(estimates))
    np.testing.assert_allclose(
        marginals(found), MARGINALS, atol=0.04
    )  # of some 1,770 texts, where all are tested at the end


def test_local_methods_agree_with_one_another_and_not_with_the_posterior():
    """The law of masking by enumeration: each token is drawn among those from which a text can still end."""
    may, moves = np.asarray(allowed(unrolled(CONSTRAINT, LENGTH))), np.asarray(unrolled(CONSTRAINT, LENGTH).next_state)
    local = np.ones(len(TEXTS))
    for index, text in enumerate(TEXTS):
        state, law = 0, INITIAL
        for token in text:
            local[index] *= law[token] * may[state, token] / max(law @ may[state, :V], 1e-300)
            state, law = moves[state, token], TRANSITION[token]
    expected = np.stack([np.bincount(TEXTS[:, i], local, V) for i in range(LENGTH)])
    np.testing.assert_allclose(expected.sum(axis=1), 1)
    assert np.abs(expected - MARGINALS).sum(axis=1).max() > 0.1
    for method in ("lcd", "ars"):
        found = many(8, method, 4000)
        np.testing.assert_allclose(marginals(found), expected, atol=0.02)
        np.testing.assert_allclose(found.log_evidence, 0, atol=1e-6)
    tested = {method: np.sum(many(8, method, 4000).evaluations) for method in ("ars", "lcd", "awrs-smc")}
    assert tested["ars"] < tested["awrs-smc"] < tested["lcd"]


def test_a_dead_end_is_found_only_where_it_is_not_foreseen():
    assert np.isfinite(many(8, "ars", 500).log_weights).all()
    blind = many(8, "ars", 500, foresee=False)
    dead = ~np.isfinite(np.asarray(blind.log_weights))
    assert 0 < dead.mean() < 1
    texts = np.asarray(blind.tokens)[~dead]
    assert np.all(texts[:, LENGTH] == V) and all(map(accepts, texts[:, :LENGTH]))


def test_ancestors_have_their_share():
    weights = jnp.log(jnp.array([0.0, 0.5, 0.3, 0.0, 0.2]))
    np.testing.assert_allclose(effective_size(weights), 1 / (0.25 + 0.09 + 0.04), rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 2000)
    for scheme in ("systematic", "multinomial"):
        found = np.asarray(jax.jit(jax.vmap(lambda key, scheme=scheme: ancestors(key, weights, scheme)))(keys))
        counts = (found[..., None] == np.arange(5)).sum(axis=1)
        np.testing.assert_allclose(counts.mean(axis=0), 5 * np.exp(weights), atol=0.1)
        if scheme == "systematic":
            assert np.abs(counts - 5 * np.exp(np.asarray(weights))).max() < 1
    np.testing.assert_array_equal(ancestors(keys[0], jnp.full(5, -jnp.inf), "systematic"), np.arange(5))


def test_the_host_asks_for_as_much_and_is_unbiased():
    rng, asked = np.random.default_rng(0), [0]

    def check(before, token):
        asked[0] += 1
        state = 0
        for one in before:
            state = MOVES[state, one]
        return (len(before) == LENGTH and state == 1) if token == V else MOVES[state, token] >= 0

    def on_host(state, last):
        log_probs, state = predict(jnp.asarray(state), jnp.asarray(last))
        return np.asarray(log_probs), np.asarray(state)

    def once():
        return smc_lazily(rng, on_host, np.zeros(6, np.int32), check, 6, LENGTH + 1, end=V, resample_below=1.0)

    found = [once() for _ in range(100)]
    assert asked[0] == sum(int(one.evaluations) for one in found)
    estimates = np.exp([float(one.log_evidence) for one in found])
    assert abs(estimates.mean() - KEPT.sum()) < 4 * estimates.std() / np.sqrt(len(estimates))
    for one in found[:20]:
        for text, weight in zip(np.asarray(one.tokens), one.log_weights, strict=True):
            assert (weight > -np.inf) == (text[LENGTH] == V and accepts(text[:LENGTH]))
            assert weight > -np.inf or ENDED in text or text[-1] == V


@pytest.mark.parametrize(("change", "field"), [({"count": 0}, "count"), ({"resample_below": 2.0}, "resample_below")])
def test_refusals(change, field):
    with pytest.raises(InvalidConfig, match=field):
        run(jax.random.key(0), **({"count": 2, "method": "lcd"} | change))
