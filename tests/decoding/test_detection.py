"""Detectors: statistics against simulation, AUROC against pairs, A(n) and its area where they are known, the style of sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from lexinv.decoding.detection import (
    aura,
    auroc,
    auroc_by_count,
    contrastive_loss,
    document_styles,
    initialize_style_encoder,
    lm_statistics,
    style_encoder,
    unit,
)
from lexinv.validation import InvalidConfig

TEXTS, TIME, VOCAB = 2000, 12, 5


@pytest.fixture(scope="module")
def laws():
    """Logits of two models at every place of a text, the same for all texts."""
    p, q = jax.random.normal(jax.random.key(0), (2, TIME, VOCAB)) * 1.5
    return p, q


def of_texts(laws, tokens, mask=None):
    p, q = (jnp.broadcast_to(logits, (*tokens.shape, VOCAB)) for logits in laws)
    return lm_statistics(p, q, tokens, jnp.ones(tokens.shape, bool) if mask is None else mask)


def drawn(logits, key):
    return jax.random.categorical(jax.random.key(key), logits, shape=(TEXTS, TIME))


def test_fast_detect_is_standard_normal_in_moments_on_its_own_draws(laws):
    _, q = laws
    found = of_texts(laws, drawn(q, 1)).fast_detect
    assert abs(found.mean()) < 3 / np.sqrt(TEXTS)
    assert abs(found.var() - 1) < 4 * np.sqrt(2 / TEXTS)


def test_fast_detect_is_what_simulation_gives(laws):
    p, q = laws
    log_p = jax.nn.log_softmax(p)
    scores = np.take_along_axis(np.asarray(log_p)[None], np.asarray(drawn(q, 2))[..., None], axis=2).sum(axis=(1, 2))
    text = drawn(p, 3)[:1]
    own = np.take_along_axis(np.asarray(log_p)[None], np.asarray(text)[..., None], axis=2).sum()
    want, error = (own - scores.mean()) / scores.std(), 1 / np.sqrt(TEXTS)
    assert abs(of_texts(laws, text).fast_detect[0] - want) < 4 * error * (1 + abs(want))


def test_binoculars_are_one_on_own_draws_and_less_on_greedy_texts(laws):
    p, _ = laws
    assert abs(of_texts((p, p), drawn(p, 4)).binoculars.mean() - 1) < 0.02
    assert of_texts((p, p), jnp.argmax(p, axis=-1)[None]).binoculars[0] < 0.7


def test_statistics_by_hand_and_without_padding(laws):
    p = np.asarray(jax.nn.log_softmax(laws[0]))
    text = drawn(laws[1], 5)[:1]
    chosen = p[np.arange(TIME), np.asarray(text)[0]]
    ranks = 1 + (p > chosen[:, None]).sum(axis=1)
    mask = jnp.arange(TIME)[None] < 8
    found = of_texts(laws, text, mask)
    np.testing.assert_allclose(found.likelihood[0], chosen[:8].mean(), rtol=1e-5)
    np.testing.assert_allclose(found.rank[0], np.log(ranks[:8]).mean(), rtol=1e-5)
    np.testing.assert_allclose(found.lrr[0], -chosen[:8].sum() / np.log(ranks[:8]).sum(), rtol=1e-5)
    other = of_texts(laws, text.at[:, 8:].set(0), mask)
    np.testing.assert_array_equal(np.stack(found), np.stack(other))
    with pytest.raises(InvalidConfig, match="logits_q"):
        lm_statistics(jnp.zeros((1, 2, 5)), jnp.zeros((1, 2, 6)), jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))


def test_auroc_counts_pairs_and_half_of_ties():
    rng = np.random.default_rng(0)
    human, machine = rng.integers(0, 6, 30) * 1.0, rng.integers(1, 8, 20) * 1.0
    pairs = (machine[:, None] > human).mean() + 0.5 * (machine[:, None] == human).mean()
    np.testing.assert_allclose(auroc(human, machine), pairs, rtol=1e-12)
    np.testing.assert_allclose(auroc(machine, human), 1 - pairs, rtol=1e-12)
    np.testing.assert_allclose(auroc(np.exp(human), np.exp(machine)), pairs, rtol=1e-12)
    with pytest.raises(InvalidConfig, match="machine"):
        auroc(human, np.array([np.nan]))


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_sets_of_normal_scores_are_told_as_often_as_theory_says(shift):
    rng, counts = np.random.default_rng(1), (1, 4, 16)
    human, machine = rng.normal(size=20_000), rng.normal(size=20_000) + shift
    found = auroc_by_count(rng, human, machine, counts, 400)
    errors = [np.sqrt(2 / (12 * n)) for n in (20_000, 400, 400)]
    assert np.all(np.abs(found - norm.cdf(shift * np.sqrt(np.array(counts) / 2))) < 3 * np.array(errors))


def test_the_area_is_that_of_quadrature_and_says_nothing_of_equal_laws():
    counts = tuple(range(1, 33))

    def told(n):
        return norm.cdf(0.4 * np.sqrt(np.asarray(n) / 2))

    np.testing.assert_allclose(aura(told(counts), counts), quad(told, 1, 32)[0] / 31, rtol=5e-4)
    assert aura(told(counts), counts, "log n") < aura(told(counts), counts)
    np.testing.assert_allclose(aura(np.full((2, 3), 0.5), (1, 2, 8)), [0.5, 0.5])
    with pytest.raises(InvalidConfig, match="counts"):
        aura(np.ones(2), (4, 2))
    with pytest.raises(InvalidConfig, match="counts"):
        auroc_by_count(np.random.default_rng(0), np.zeros(4), np.zeros(9), (1, 5), 2)


def test_the_style_of_a_set_is_that_of_its_documents_in_any_order():
    params = initialize_style_encoder(jax.random.key(0), VOCAB, 16, 8)
    docs = jax.random.randint(jax.random.key(1), (3, 4, 9), 0, VOCAB)
    found = style_encoder(params, docs)
    np.testing.assert_allclose(found, style_encoder(params, docs[:, ::-1]), atol=1e-6)
    np.testing.assert_allclose(found, unit(document_styles(params, docs).mean(axis=1)), atol=1e-6)
    np.testing.assert_allclose(jnp.sum(found**2, axis=1), np.ones(3), rtol=1e-5)
    assert np.abs(found - style_encoder(params, docs[..., ::-1])).max() > 0.01


def test_finding_the_other_set_among_orthogonal_ones_has_a_known_loss():
    found = contrastive_loss(jnp.eye(4), jnp.eye(4), 0.5)
    np.testing.assert_allclose(found, np.log(1 + 3 * np.exp(-2)), rtol=1e-5)
