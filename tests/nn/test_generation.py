"""Truncated distributions against NumPy, noise by sequence and position, and texts against reading everything again for each token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn import generation, language_model
from lexinv.nn.cache import empty_cache, make_extend
from lexinv.nn.generation import generate
from lexinv.nn.language_model import BOS, make_logits
from lexinv.nn.lexicon import LexiconConfig, draw_lexicon, row_keys
from lexinv.nn.sampling import Sampling, draw, step_entropy, truncate
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

VOCAB, ROWS, STEPS = 9, 3, 8
CONFIG = TransformerConfig(depth=1, width=16, heads=2, mlp_width=32, max_length=32, output="tied")
LEXICON = LexiconConfig("lexinvariant")
EXTEND = make_extend(CONFIG, VOCAB)
PROMPT, COUNT = jnp.array([[BOS, 1, 2, 3], [BOS, 4, 0, 0], [BOS, 5, 6, 0]]), jnp.array([4, 2, 3])
KEYS = jax.random.split(jax.random.key(5), ROWS)
LEXICA = draw_lexicon(LEXICON, None, row_keys(jax.random.key(2), jnp.arange(ROWS)), VOCAB, 16)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: language_model.initialize(CONFIG, LEXICON, VOCAB, key))(jax.random.key(0))


def written(params, sampling, rows=slice(None), prompt=PROMPT, count=COUNT, steps=STEPS, stop=()):
    lexica, keys = LEXICA[rows], KEYS[rows]
    cache = empty_cache(CONFIG, len(lexica), 14)
    return generate(EXTEND, params, lexica, cache, prompt[rows], count[rows], keys, steps, sampling, stop)


def expected(logits, temperature, top_k, top_p, min_p):
    """The definition, for one distribution without ties."""
    if temperature == 0:
        return np.where(np.arange(len(logits)) == np.argmax(logits), 0.0, -np.inf)
    probs = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    order = np.argsort(-probs)
    if top_k is not None:
        order = order[:top_k]
    if top_p is not None:
        share = np.cumsum(probs[order]) / probs[order].sum()
        order = order[: int(np.sum(share < top_p)) + 1]
    kept = [v for v in order if min_p is None or probs[v] >= min_p * probs.max()]
    out = np.full(len(logits), -np.inf)
    out[kept] = np.log(probs[kept] / probs[kept].sum())
    return out


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(0.5, top_k=3),
        Sampling(2.0, top_p=0.7),
        Sampling(top_k=4, top_p=0.8),
        Sampling(min_p=0.3),
        Sampling(0.0, 3, 0.5, 0.1),
        Sampling(0.7, 99, 1.0, 0.0),
        Sampling(1.0, 5, 1e-6, 0.2),
    ],
)
def test_truncation_is_its_definition(sampling):
    logits = 2 * np.random.default_rng(0).normal(size=(4, 5, VOCAB)).astype(np.float32)
    found = truncate(jnp.asarray(logits), *sampling)
    want = np.apply_along_axis(expected, -1, logits.astype(np.float64), *sampling)
    np.testing.assert_allclose(found, want, atol=1e-5)
    with np.errstate(invalid="ignore"):
        entropy = -np.sum(np.where(np.isinf(want), 0.0, np.exp(want) * want), axis=-1)
    np.testing.assert_allclose(step_entropy(found), entropy, atol=1e-5)


def test_what_ties_with_the_last_one_kept_is_kept():
    np.testing.assert_allclose(
        jnp.exp(truncate(jnp.array([1.0, 0.0, 1.0, 1.0]), top_k=2)), [1 / 3, 0, 1 / 3, 1 / 3], atol=1e-6
    )


def test_draws_have_their_distribution_and_belong_to_sequence_and_position():
    probs, n = np.array([0.5, 0.3, 0.15, 0.05, 0.0]), 4000
    log_probs = jnp.broadcast_to(jnp.log(jnp.asarray(probs, jnp.float32)), (n, 5))
    keys = jnp.broadcast_to(jax.random.key(3), (n,))
    found = draw(keys, jnp.arange(n), log_probs)
    shares = np.bincount(found, minlength=5) / n
    assert np.all(np.abs(shares - probs) <= 5 * np.sqrt(probs * (1 - probs) / n)), shares
    np.testing.assert_array_equal(draw(keys[:7], jnp.arange(7)[::-1], log_probs[:7]), found[:7][::-1])


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(0.8, top_k=5)])
def test_texts_are_those_of_reading_everything_again(params, sampling):
    """One lexicon per sequence; prompts of several lengths; one sequence ends early, where another says the same token while it may."""
    reread = jax.jit(make_logits(CONFIG, LEXICON, VOCAB))
    text, want = np.zeros((ROWS, 12), np.int32), []
    for row, count in enumerate(COUNT):
        text[row, : count - 1] = PROMPT[row, 1:count]
    for step in range(STEPS):
        at = np.asarray(COUNT) - 1 + step
        logits = reread(params, {"tokens": jnp.asarray(text), "row": jnp.arange(ROWS)}, jax.random.key(2))
        log_probs = truncate(logits[jnp.arange(ROWS), at], *sampling)
        token = draw(KEYS, jnp.asarray(at + 1), log_probs)
        text[np.arange(ROWS), at] = token
        want.append((token, log_probs[jnp.arange(ROWS), token], step_entropy(log_probs)))
    tokens, log_probs, entropies = (np.stack(part, axis=1) for part in zip(*want, strict=True))
    stop = int(tokens[0, 3])
    found = written(params, sampling, stop=(stop,))
    ended = np.cumsum(tokens == stop, axis=1) - (tokens == stop)
    np.testing.assert_array_equal(found.alive, ended == 0)
    assert not found.alive[0, 4:].any() and found.alive[0, 0]
    for part, of in zip(found[:3], (tokens, log_probs, entropies), strict=True):
        np.testing.assert_allclose(part, np.where(ended == 0, of, 0), atol=1e-5)


def test_a_text_is_the_same_however_it_is_cut_and_whatever_is_beside_it(params):
    sampling = Sampling(1.3)
    whole = written(params, sampling)
    alone = written(params, sampling, rows=slice(1, 2))
    np.testing.assert_array_equal(alone.tokens[0], whole.tokens[1])
    prompt = jnp.pad(PROMPT, ((0, 0), (0, 3)))
    for step in range(3):
        prompt = prompt.at[jnp.arange(ROWS), COUNT + step].set(whole.tokens[:, step])
    rest = written(params, sampling, prompt=prompt, count=COUNT + 3, steps=5)
    np.testing.assert_array_equal(rest.tokens, whole.tokens[:, 3:])


def test_a_shape_is_compiled_once(params):
    written(params, Sampling(1.3))
    before = generation._generate._cache_size()
    for temperature in (0.0, 0.4):
        written(params, Sampling(temperature), count=COUNT - 1)
    assert generation._generate._cache_size() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 12}, "steps"),
        ({"steps": 0}, "steps"),
        ({"count": COUNT - 2}, "count"),
        ({"count": COUNT + 1}, "count"),
        ({"sampling": Sampling(-0.1)}, "temperature"),
        ({"sampling": Sampling(float("nan"))}, "temperature"),
        ({"sampling": Sampling(top_k=0)}, "top_k"),
        ({"sampling": Sampling(top_p=0.0)}, "top_p"),
        ({"sampling": Sampling(min_p=1.5)}, "min_p"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_a_compile(change, field):
    before = generation._generate._cache_size()
    with pytest.raises(InvalidConfig, match=field):
        written({}, **({"sampling": Sampling()} | change))
    assert generation._generate._cache_size() == before
