"""In-context counters against counting by hand."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.lexinvariance.counters import counter_nll, in_context_ngram, tune_counter


def by_hand(tokens, vocab, discounts, concentrations):
    """The rule of the docstring, one token at a time, with dictionaries of suffixes."""
    nats = np.zeros((len(discounts), len(tokens)))
    for t in range(len(tokens)):
        lower = np.full(vocab, 1.0 / vocab)
        for order, (discount, concentration) in enumerate(zip(discounts, concentrations, strict=True)):
            counts = np.zeros(vocab)
            if t >= order:
                suffix = tuple(tokens[t - order : t])
                for j in range(order, t):
                    if tuple(tokens[j - order : j]) == suffix:
                        counts[tokens[j]] += 1
            if counts.sum() > 0:
                types = (counts > 0).sum()
                lower = (np.maximum(counts - discount, 0) + (concentration + discount * types) * lower) / (
                    counts.sum() + concentration
                )
            nats[order, t] = -np.log(lower[tokens[t]])
    return nats


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.sampled_from([(0.5, 0.5, 0.9), (0.0, 0.3, 0.7)]))
def test_counters_are_the_rule_counted_by_hand(tokens, discounts):
    concentrations = (1.0, 2.0, 0.5)
    got = in_context_ngram(jnp.asarray(tokens), 4, jnp.array(discounts), jnp.array(concentrations))
    np.testing.assert_allclose(got, by_hand(tokens, 4, discounts, concentrations), rtol=1e-4, atol=1e-5)


def test_a_repeated_pattern_is_predicted_by_the_order_that_sees_it():
    tokens = np.tile([0, 0, 1, 0, 1, 1], 20)[None]
    nats = counter_nll(tokens.astype(np.int32), 2, (0.1,) * 4, (0.1,) * 4)[:, 0, 60:].mean(axis=1)
    assert nats[0] > 0.6  # frequencies: a coin
    assert nats[3] < 0.1  # three symbols before fix the next
    assert nats[0] > nats[2] > nats[3]


def test_the_first_token_is_uniform_and_padding_is_free():
    nats = in_context_ngram(jnp.array([2, 2, -1, -1]), 5, jnp.full(2, 0.5), jnp.ones(2))
    np.testing.assert_allclose(nats[:, 0], np.log(5), rtol=1e-6)
    assert not nats[:, 2:].any()


def test_tuning_does_not_lose_to_untuned_counters():
    windows = np.random.default_rng(0).choice(6, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05], size=(16, 40)).astype(np.int32)
    discounts, concentrations = tune_counter(windows, 6, 1)
    tuned = counter_nll(windows, 6, discounts, concentrations)[1, :, 20:].mean()
    for discount, concentration in ((0.5, 1.0), (0.9, 8.0), (0.3, 0.0)):
        assert tuned <= counter_nll(windows, 6, (discount,) * 2, (concentration,) * 2)[1, :, 20:].mean() + 1e-6
