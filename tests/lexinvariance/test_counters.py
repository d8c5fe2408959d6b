"""In-context counters against counting by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from lexinv.lexinvariance.counters import Counter, counter_nll, in_context_ngram, language_free_bayes, tune_counter


def counter(discounts, concentrations, decays=None):
    return Counter(
        *(jnp.asarray(each, jnp.float32) for each in (discounts, concentrations, decays or [1.0] * len(discounts)))
    )


def by_hand(tokens, vocab, discounts, concentrations, decays=None):
    """The rule of the docstring, one token at a time, with dictionaries of suffixes. Without decays it counts, and knows types."""
    nats = np.zeros((len(discounts), len(tokens)))
    for t in range(len(tokens)):
        lower = np.full(vocab, 1.0 / vocab)
        for order, (discount, concentration) in enumerate(zip(discounts, concentrations, strict=True)):
            counts = np.zeros(vocab)
            if t >= order:
                suffix = tuple(tokens[t - order : t])
                for j in range(order, t):
                    if tuple(tokens[j - order : j]) == suffix:
                        counts[tokens[j]] += decays[order] ** (t - 1 - j) if decays else 1
            if counts.sum() > 0:
                taken = np.minimum(counts, discount).sum() if decays else discount * (counts > 0).sum()
                lower = (np.maximum(counts - discount, 0) + (concentration + taken) * lower) / (
                    counts.sum() + concentration
                )
            nats[order, t] = -np.log(lower[tokens[t]])
    return nats


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
    st.sampled_from([(0.5, 0.5, 0.9), (0.0, 0.3, 0.7)]),
    st.sampled_from([None, (0.9, 0.5, 0.99)]),
)
def test_counters_are_the_rule_counted_by_hand(tokens, discounts, decays):
    concentrations = (1.0, 2.0, 0.5)
    got = in_context_ngram(jnp.asarray(tokens), 4, counter(discounts, concentrations, decays))
    np.testing.assert_allclose(got, by_hand(tokens, 4, discounts, concentrations, decays), rtol=1e-4, atol=1e-5)


def test_a_repeated_pattern_is_predicted_by_the_order_that_sees_it():
    tokens = np.tile([0, 0, 1, 0, 1, 1], 20)[None]
    nats = counter_nll(tokens.astype(np.int32), 2, counter((0.1,) * 4, (0.1,) * 4))[:, 0, 60:].mean(axis=1)
    assert nats[0] > 0.6  # frequencies: a coin
    assert nats[3] < 0.1  # three symbols before fix the next
    assert nats[0] > nats[2] > nats[3]


def test_the_first_token_is_uniform_and_padding_is_free():
    nats = in_context_ngram(jnp.array([2, 2, -1, -1]), 5, counter((0.5, 0.5), (1.0, 1.0)))
    np.testing.assert_allclose(nats[:, 0], np.log(5), rtol=1e-6)
    assert not nats[:, 2:].any()


def test_tuning_does_not_lose_to_untuned_counters():
    """Neither to plain counts nor to its own grid: the second half of these windows has other frequencies than the first."""
    rng = np.random.default_rng(0)
    halves = [
        rng.choice(6, p=p, size=(16, 20)) for p in ([0.5, 0.2, 0.1, 0.1, 0.05, 0.05], [0.05, 0.05, 0.2, 0.5, 0.1, 0.1])
    ]
    windows = np.concatenate(halves, axis=1).astype(np.int32)

    def late(found, order=1):
        return float(counter_nll(windows, 6, found)[order, :, 20:].mean())

    tuned, plain = tune_counter(windows, 6, 1), tune_counter(windows, 6, 1, decays=(1.0,))
    assert late(tuned) < late(plain) - 0.05
    assert float(tuned.decays[0]) == pytest.approx(0.98)
    for discount, concentration in ((0.5, 1.0), (0.9, 8.0), (0.3, 0.0)):
        assert late(plain, 0) <= late(counter((discount,), (concentration,)), 0) + 1e-6


def test_language_free_bayes_is_the_evidence_of_all_sources():
    """ln p(x) by the rows' Dirichlet integrals, for each concentration; a mixture's probability of the text is the mean of theirs."""
    tokens, concentrations = np.array([0, 2, 2, 1, 0, 2, 1, 1, 0, 2, 2, 2]), (0.1, 1.0, 5.0)
    bigrams = np.zeros((3, 3))
    np.add.at(bigrams, (tokens[:-1], tokens[1:]), 1)

    def evidence(a):
        rows = gammaln(3 * a) - gammaln(3 * a + bigrams.sum(1)) + (gammaln(a + bigrams) - gammaln(a)).sum(1)
        return rows.sum() - np.log(3)

    nats = [language_free_bayes(jnp.asarray(tokens), 3, jnp.asarray(a)) for a in ([0.1], [1.0], [5.0], concentrations)]
    each = [evidence(a) for a in concentrations]
    for found, expected in zip(nats, [*each, np.logaddexp.reduce(each) - np.log(3)], strict=True):
        assert float(found.sum()) == pytest.approx(-expected, rel=1e-5)
