"""Routing against the models alone, scores against their definitions, and the router's size against the paper's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import entropy as scipy_entropy

from lexinv.decoding.routing import (
    Features,
    Reader,
    aleatoric,
    choose_threshold,
    compute_per_token,
    entropy,
    features,
    initialize_router,
    margin,
    mixed_decode,
    router,
    router_loss,
)
from lexinv.nn import language_model
from lexinv.nn.cache import empty_cache, make_extend
from lexinv.nn.generation import generate
from lexinv.nn.language_model import BOS
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.sampling import Sampling
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

VOCAB, STEPS, SLOTS = 9, 10, 16
CONFIGS = [TransformerConfig(depth=1, width=width, heads=2, mlp_width=16, max_length=SLOTS) for width in (8, 16)]
PROMPT = jnp.array([[BOS, 1, 2], [BOS, 4, 0]])


@pytest.fixture(scope="module")
def readers():
    found = []
    for seed, config in enumerate(CONFIGS):
        start = jax.jit(lambda key, config=config: language_model.initialize(config, LexiconConfig(), VOCAB, key))
        params = start(jax.random.key(seed))
        found.append((make_extend(config, VOCAB), params, params["table"]))
    return found


def made(readers, which):
    return [Reader(*readers[i], empty_cache(CONFIGS[i], 2, SLOTS)) for i in which]


def alone(readers, i):
    count, keys = jnp.array([3, 3]), jax.random.split(jax.random.key(0), 2)
    cache = empty_cache(CONFIGS[i], 2, SLOTS)
    extend, *rest = readers[i]
    return generate(extend, *rest, cache, PROMPT, count, keys, STEPS, Sampling(0.0)).tokens


def constant(given, step, small, large):
    return jnp.full(small.shape[:1], given)


def where_they_differ(given, step, small, large):
    return jnp.where(jnp.argmax(small, axis=-1) == jnp.argmax(large, axis=-1), -1.0, 1.0)


def test_all_or_nothing_is_one_model_alone_and_every_mismatch_is_the_large_one(readers):
    want = [alone(readers, i) for i in (0, 1)]
    assert not np.array_equal(*want)
    for route, given, which in ((constant, -1.0, 0), (constant, 1.0, 1), (where_they_differ, 0.0, 1)):
        found = mixed_decode(*made(readers, (0, 1)), PROMPT, STEPS, route, given)
        np.testing.assert_array_equal(found.tokens, want[which])
        if route is where_they_differ:
            np.testing.assert_array_equal(found.routed, found.differs)
    same = mixed_decode(*made(readers, (1, 1)), PROMPT, STEPS, constant, -1.0)
    assert not np.any(same.differs)
    np.testing.assert_array_equal(same.tokens, want[1])


def test_scores_are_their_definitions():
    logits = 2 * np.random.default_rng(0).normal(size=(5, VOCAB))
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(entropy(jnp.asarray(logits, jnp.float32)), scipy_entropy(probs, axis=-1), atol=1e-5)
    ordered = np.sort(probs, axis=-1)
    np.testing.assert_allclose(margin(jnp.asarray(logits, jnp.float32)), ordered[:, -2] - ordered[:, -1], atol=1e-5)
    best = np.sort(logits, axis=-1)[:, -4:]
    x = best - best[:, :1]
    total = x.sum(axis=-1, keepdims=True)
    want = -np.sum(x / total * (digamma(x + 1) - digamma(total + 1)), axis=-1)
    np.testing.assert_allclose(aleatoric(jnp.asarray(logits, jnp.float32), 4), want, atol=1e-4)
    assert np.isfinite(aleatoric(jnp.zeros((1, VOCAB)), 4)).all()


def test_the_router_of_the_paper_has_56_million_weights_and_fits_what_is_linear():
    example = Features(jnp.zeros((1, 1536)), jnp.zeros((1, 1536)), jnp.zeros((1, 100)))
    shapes = jax.eval_shape(lambda key: initialize_router(key, example, 1024, 6), jax.random.key(0))
    assert abs(sum(leaf.size for leaf in jax.tree.leaves(shapes)) - 56.3e6) < 0.3e6
    logits = jax.random.normal(jax.random.key(1), (64, VOCAB))
    given, label = features(logits, jnp.eye(VOCAB)), logits[:, 0] > 0
    params = initialize_router(jax.random.key(2), given, 8, 1)
    step = jax.jit(
        lambda params: jax.tree.map(
            lambda x, g: x - 0.05 * g, params, jax.grad(lambda p: router_loss(router(p, given), label, 1.0))(params)
        )
    )
    for _ in range(150):
        params = step(params)
    assert np.mean((np.asarray(router(params, given)) > 0) == np.asarray(label)) > 0.95


def test_positives_count_as_often_as_they_are_rare():
    logit, label = jnp.array([0.3, -1.0, 2.0]), jnp.array([True, False, False])
    want = np.array([2 * np.log1p(np.exp(-0.3)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(2.0))]).mean()
    np.testing.assert_allclose(router_loss(logit, label, 2.0), want, rtol=1e-5)


def test_no_higher_threshold_reaches_the_recall():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=200), rng.random(200) < 0.3
    found = choose_threshold(scores, labels, 0.9)
    assert np.mean(scores[labels] >= found) >= 0.9
    assert all(np.mean(scores[labels] >= higher) < 0.9 for higher in scores[labels][scores[labels] > found])
    with pytest.raises(InvalidConfig, match="labels"):
        choose_threshold(scores, np.zeros(200, bool))


def test_what_the_large_model_missed_is_read_and_counted():
    routed = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    counted, true = compute_per_token(routed, 1.0, 10.0)
    np.testing.assert_allclose(counted, [5, 1, 11])
    np.testing.assert_allclose(true, [9, 1, 11])


def test_models_that_do_not_fit_are_refused(readers):
    small, large = made(readers, (0, 1))
    with pytest.raises(InvalidConfig, match="vocab"):
        mixed_decode(small, large._replace(table=large.table[:4]), PROMPT, STEPS, constant, 0.0)
    with pytest.raises(InvalidConfig, match="cache"):
        mixed_decode(small, large, PROMPT, 40, constant, 0.0)
