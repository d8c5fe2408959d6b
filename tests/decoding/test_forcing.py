"""Forcing against a planted model and a naive loop, repetition and confusion against their definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.decoding.forcing import confusion_loss, forced, forcing_score, leads_into, repetition
from lexinv.nn import language_model
from lexinv.nn.cache import Cache, empty_cache, make_extend
from lexinv.nn.language_model import BOS
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

VOCAB, STEPS = 11, 6
CONFIG = TransformerConfig(depth=1, width=8, heads=2, mlp_width=16, max_length=16)
SECRET = jnp.array([3, 7, 2, 9, 5, 0])


def planted(rows, params, table, cache, tokens, count):
    """A model that looks the next token up in `rows`[V, V] of logits."""
    return rows[jnp.maximum(tokens, 0)], Cache(cache.length + count, cache.tokens, cache.layers)


def given(ids):
    return {}, jnp.zeros((VOCAB, 8)), empty_cache(CONFIG, len(ids), 16), ids


def test_a_planted_chain_comes_out_with_score_one_and_a_uniform_model_scores_what_it_must():
    rows = jnp.zeros((VOCAB, VOCAB)).at[SECRET[:-1], SECRET[1:]].set(60.0)
    ids = jnp.arange(VOCAB)
    found = forced(partial(planted, rows), *given(ids), STEPS)
    np.testing.assert_array_equal(found.tokens[3, :5], SECRET[1:])
    score = forcing_score(found.probs[:, :3])
    sure = [3, 7, 2]  # those with three tokens of the chain after them
    np.testing.assert_allclose(score[jnp.array(sure)], 1, rtol=1e-6)
    assert np.delete(score, sure).max() < 0.95
    flat = forced(partial(planted, jnp.zeros((VOCAB, VOCAB))), *given(ids), 3)
    np.testing.assert_allclose(forcing_score(flat.probs), (1 + 3 / VOCAB) / 4, rtol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(leads_into(found.tokens, SECRET, 3)), sorted(sure))


@pytest.mark.parametrize("prefix", [(BOS,), (BOS, 4, 1), ()])
def test_forcing_is_greedy_decoding_of_every_token(prefix):
    start = jax.jit(lambda key: language_model.initialize(CONFIG, LexiconConfig(), VOCAB, key))
    params = start(jax.random.key(0))
    ids = jnp.array([0, 5, 10])
    found = forced(make_extend(CONFIG, VOCAB), params, params["table"], empty_cache(CONFIG, 3, 16), ids, STEPS, prefix)
    texts = np.concatenate([np.tile(np.array(prefix, np.int32), (3, 1)), ids[:, None]], axis=1)
    model = jax.jit(
        lambda tokens: language_model.LanguageModel(CONFIG).apply({"params": params["model"]}, tokens, params["table"])
    )
    for step in range(STEPS):
        room = np.pad(texts, ((0, 0), (0, 16 - texts.shape[1])))
        probs = jax.nn.softmax(model(room)[:, texts.shape[1] - 1])
        np.testing.assert_array_equal(found.tokens[:, step], np.argmax(probs, axis=-1))
        np.testing.assert_allclose(found.probs[:, step], np.max(probs, axis=-1), rtol=1e-4)
        texts = np.concatenate([texts, np.argmax(probs, axis=-1)[:, None]], axis=1)


def test_repetition_is_one_for_a_loop_and_small_for_noise():
    noise = np.random.default_rng(0).integers(0, 1000, (1, 60))
    texts = np.concatenate([np.full((1, 60), 4), np.resize([1, 2, 3, 4], (1, 60)), noise])
    np.testing.assert_allclose(repetition(jnp.asarray(texts)), [1, 1, 0], atol=0.1)
    half = np.concatenate([np.arange(100, 130), np.full(31, 7)])[None]  # 30 of 60 pairs are equal
    np.testing.assert_allclose(repetition(jnp.asarray(half)), 0.5)


def test_confusion_pushes_what_is_at_either_end_to_the_middle_and_leaves_the_rest():
    logits = jnp.tile(jnp.arange(20.0), (3, 1))
    hidden = jnp.array([19, 10, 1])  # ranks 1, 10 and 19 of 20
    found = confusion_loss(logits, hidden, 4)
    np.testing.assert_array_equal(found.exposed, [True, False, True])
    log_probs = jax.nn.log_softmax(logits[0])
    np.testing.assert_allclose(found.loss, log_probs[19] - log_probs[1], rtol=1e-6)
    step = jax.grad(lambda x: confusion_loss(x, hidden, 4).loss)(logits)
    assert step[0, 19] > 0 > step[2, 1] and not np.any(step[1])  # gradient descent lowers the first, raises the last


def test_bad_input_is_refused():
    ids = jnp.arange(VOCAB)
    extend = make_extend(CONFIG, VOCAB)
    for changes, field in (({"steps": 0}, "steps"), ({"steps": 16}, "cache"), ({"ids": ids[:3]}, "ids")):
        params, table, cache, _ = given(ids)
        kept = {"ids": ids, "steps": 3} | changes
        with pytest.raises(InvalidConfig, match=field):
            forced(extend, params, table, cache, **kept)
    with pytest.raises(InvalidConfig, match="margin"):
        confusion_loss(jnp.zeros((1, 20)), jnp.zeros(1, jnp.int32), 10)
    with pytest.raises(InvalidConfig, match="n = 7"):
        leads_into(jnp.zeros((1, 9), jnp.int32), SECRET, 7)
    with pytest.raises(InvalidConfig, match="tokens"):
        repetition(jnp.zeros((1, 2), jnp.int32))
