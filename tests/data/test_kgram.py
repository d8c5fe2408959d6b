"""K-grams against frequencies, a dictionary-based implementation of the same recursion, and sources whose entropy rate is known."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.data.kgram import STRENGTHS, cross_entropies, fit_kgram, probabilities, tune_strengths
from lexinv.data.markov import check_kernel, entropy_rate, stationary_distribution
from lexinv.data.markov_sampling import sample_stream
from lexinv.validation import InvalidConfig

texts = st.lists(st.integers(0, 2), min_size=1, max_size=30)
strengths_of = st.lists(st.floats(0.01, 50.0), min_size=4, max_size=4)


def brute_force(train: list, text: list, symbols: int, strengths: list) -> np.ndarray:
    """The recursion as it is written, on dictionaries of tuples."""
    grams = Counter(tuple(train[i : i + n]) for n in range(1, 6) for i in range(len(train) - n + 1))

    def probability(context: tuple, x: int) -> float:
        strength = strengths[len(context)]
        below = probability(context[1:], x) if context else 1 / symbols
        total = sum(grams[(*context, y)] for y in range(symbols))
        return (grams[(*context, x)] + strength * below) / (total + strength)

    return np.array(
        [[probability(tuple(text[max(i - k, 0) : i]), x) for i, x in enumerate(text)] for k in range(len(strengths))]
    )


@given(train=texts, text=texts, strengths=strengths_of)
@settings(max_examples=20, deadline=None)
def test_equals_the_recursion_on_dictionaries(train, text, strengths):
    model = fit_kgram(np.array(train), 3, 3)
    found = probabilities(model, np.array(text), strengths)
    expected = brute_force(train, text, 3, strengths)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(cross_entropies(model, np.array(text), strengths), -np.log(expected).mean(axis=1))
    distinct = [len({tuple(train[i : i + n]) for i in range(len(train) - n + 1)}) for n in range(1, 5)]
    assert model.parameters == distinct


@pytest.mark.parametrize("k", [1, 3])
def test_reaches_the_entropy_rate_of_a_source_of_its_order(k):
    """Above it by the parameters' cost of about contexts (S - 1) / (2 n), never below the true model's loss on the same text."""
    symbols, length = 3, 200_000
    kernel = check_kernel(np.random.default_rng(k).dirichlet(np.ones(symbols), size=symbols**k))
    law = stationary_distribution(kernel)
    as_arrays = jnp.asarray(kernel, jnp.float32), jnp.asarray(law, jnp.float32)
    train, held_out, test = (
        np.asarray(sample_stream(key, *as_arrays, length)) for key in jax.random.split(jax.random.key(0), 3)
    )
    model = fit_kgram(train, k + 1, symbols)
    losses = cross_entropies(model, test, tune_strengths(model, held_out))
    context = sum(test[k - 1 - j : len(test) - 1 - j].astype(np.int64) * symbols**j for j in range(k))
    true_losses = -np.log(kernel[context, test[k:]])
    noise = 5 * true_losses.std() / np.sqrt(length)  # neighbours are dependent: 5 instead of 4 standard errors
    assert losses[k] == pytest.approx(entropy_rate(kernel), abs=noise)
    assert (losses > true_losses.mean() - 1e-4).all()
    assert losses[k] < true_losses.mean() + 2e-3
    assert losses[k - 1] > losses[k] + 0.01
    assert losses[k + 1] == pytest.approx(losses[k], abs=2e-3)


def test_tuning_finds_the_best_strength_of_each_order():
    train, held_out = np.random.default_rng(0).integers(0, 3, (2, 300))
    model = fit_kgram(train, 1, 3)
    chosen = tune_strengths(model, held_out)
    zero = [cross_entropies(model, held_out, [strength, 1.0])[0] for strength in STRENGTHS]
    one = [cross_entropies(model, held_out, [chosen[0], strength])[1] for strength in STRENGTHS]
    assert chosen == (STRENGTHS[int(np.argmin(zero))], STRENGTHS[int(np.argmin(one))])
    alternating = np.arange(300) % 2
    assert tune_strengths(fit_kgram(alternating, 1, 3), alternating)[1] == min(STRENGTHS)  # its context says all


def test_an_order_that_numbers_cannot_hold_is_refused_with_the_highest_that_they_can():
    assert 29**13 > 2**63 - 1 > 29**12
    assert fit_kgram(np.full(20, 28), 11, 29).grams[11].tolist() == [29**12 - 1]
    with pytest.raises(InvalidConfig, match="0 to 11") as error:
        fit_kgram(np.zeros(20, np.int64), 12, 29)
    assert error.value.field == "order"


@pytest.mark.parametrize(
    "call, field",
    [
        (lambda: fit_kgram(np.array([0, 3, 1]), 1, 3), "text[1]"),
        (lambda: fit_kgram(np.array([0, -1, 1]), 1, 3), "text[1]"),
        (lambda: fit_kgram(np.array([], np.int64), 1, 3), "text"),
        (lambda: fit_kgram(np.array([0, 0]), 1, 1), "symbols"),
        (lambda: tune_strengths(fit_kgram(np.array([0, 1]), 1, 3), np.array([], np.int64)), "held_out"),
        (lambda: probabilities(fit_kgram(np.array([0, 1]), 1, 3), np.array([0]), [1.0]), "strengths"),
        (lambda: probabilities(fit_kgram(np.array([0, 1]), 1, 3), np.array([0]), [1.0, 0.0]), "strengths"),
    ],
)
def test_bad_input_is_refused(call, field):
    with pytest.raises(InvalidConfig) as error:
        call()
    assert error.value.field == field
