"""Sources against closed forms, enumeration and samples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import entr

from lexinv.data import markov, markov_first_order
from lexinv.data.markov import block_entropy, check_kernel, entropy_rate, stationary_distribution, switching_kernel
from lexinv.data.markov_sampling import sample, sample_stream, stationary_text
from lexinv.validation import InvalidConfig


def binary_entropy(p: float) -> float:
    return float(entr(p) + entr(1 - p))


def make_random_kernel(seed: int, k: int, symbols: int) -> np.ndarray:
    """By NumPy: JAX would compile its gammas for every shape."""
    return check_kernel(np.random.default_rng(seed).dirichlet(np.ones(symbols), symbols**k))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("p, q", [(0.9, 0.9), (0.2, 0.3), (0.5, 0.8)])
def test_switching_process_has_its_closed_forms(k, p, q):
    kernel = check_kernel(switching_kernel(k, p, q))
    np.testing.assert_allclose(markov.symbol_distribution(kernel), np.array([q, p]) / (p + q), rtol=1e-12)
    assert entropy_rate(kernel) == pytest.approx((q * binary_entropy(p) + p * binary_entropy(q)) / (p + q), rel=1e-12)
    independent = k * block_entropy(kernel, 1)
    assert block_entropy(kernel, k) == pytest.approx(independent, rel=1e-12)


def traced(kernel):
    return jax.jit(markov_first_order.stationary_distribution)(jnp.asarray(kernel, jnp.float32))


@pytest.mark.parametrize(
    "stationary, slip, tolerance",
    [
        *((stationary_distribution, slip, 1e-11) for slip in (1e-8, 1e-9, 1e-12)),
        *((traced, slip, tolerance) for slip, tolerance in ((1e-2, 2e-3), (1e-5, 1e-5), (1e-9, 1e-5))),
    ],
)
def test_probabilities_below_rounding_are_right(stationary, slip, tolerance):
    """From 0 one slips to 1, from there to 2, where one does not stay: pi = (1 - e, e / (1 + e), e^2 / (1 + e))."""
    kernel = np.array([[1 - slip, slip, 0.0], [1 - slip, 0.0, slip], [1 - slip, slip, 0.0]])
    expected = np.array([1 - slip, slip / (1 + slip), slip**2 / (1 + slip)])
    np.testing.assert_allclose(stationary(kernel), expected, rtol=tolerance)
    if stationary is traced:
        return
    assert block_entropy(kernel, 1) == pytest.approx(float(entr(expected).sum()), rel=1e-12)
    law = stationary(switching_kernel(4, slip, 1 - slip))  # four interleaved chains, each (1 - e, e)
    np.testing.assert_allclose(law[[0, 1, 3, 15]], [(1 - slip) ** (4 - n) * slip**n for n in (0, 1, 2, 4)], rtol=1e-11)


def test_stationary_laws_of_nearly_deterministic_sources_are_positive():
    drawn = np.maximum(np.random.default_rng(0).dirichlet(np.full(4, 0.05), (64, 4)), 1e-30).astype(np.float32)
    laws = jax.jit(jax.vmap(markov_first_order.stationary_distribution))(drawn)
    assert float(laws.min()) > 0
    np.testing.assert_allclose(laws.sum(axis=1), 1.0, rtol=1e-3)


@given(seed=st.integers(0, 99), k=st.integers(1, 3), symbols=st.integers(2, 3), length=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_block_entropy_is_that_of_the_enumerated_blocks(seed, k, symbols, length):
    kernel = make_random_kernel(seed, k, symbols)
    blocks = markov.block_distribution(kernel, length)
    assert blocks.sum() == pytest.approx(1.0)
    assert block_entropy(kernel, length) == pytest.approx(float(entr(blocks).sum()), rel=1e-9)
    brute = np.array(
        [probability(kernel, block) for block in markov.digits(np.arange(symbols**length), length, symbols)]
    )
    np.testing.assert_allclose(blocks, brute, atol=1e-12)


def probability(kernel, block) -> float:
    """By summing over every context that may have come before the block."""
    k, symbols = markov.order(kernel), kernel.shape[1]
    total = 0.0
    for context, weight in enumerate(stationary_distribution(kernel)):
        product = weight
        for symbol in block:
            product *= kernel[context, symbol]
            context = (context * symbols + symbol) % symbols**k
        total += product
    return total


def test_mixing_time_by_hand():
    """p = q = 0.9: the distance is 0.8^t / 2, below 1/4 from t = 4 on. With order 2 each chain moves every other step."""
    assert markov.mixing_time(switching_kernel(1, 0.9, 0.9)) == 4
    assert markov.mixing_time(switching_kernel(1, 0.6, 0.6)) == 1
    slow = markov.mixing_time(switching_kernel(1, 0.9, 0.9), 0.01)
    assert 0.8**slow / 2 <= 0.01 < 0.8 ** (slow - 1) / 2
    assert markov.mixing_time(switching_kernel(2, 0.9, 0.9), 0.01) > slow


@pytest.mark.parametrize("draw", ["many", "stream"])
@pytest.mark.parametrize("k", [1, 3])
def test_samples_have_the_transitions_of_the_kernel(draw, k):
    kernel = make_random_kernel(k, k, 2) if k == 1 else switching_kernel(3, 0.9, 0.6)
    arguments = jnp.asarray(kernel, jnp.float32), jnp.asarray(stationary_distribution(kernel), jnp.float32)
    if draw == "many":
        keys = jax.random.split(jax.random.key(0), 400)
        rows = np.asarray(jax.jit(jax.vmap(lambda key: sample(key, *arguments, 500)))(keys))
    else:
        stream = jax.jit(partial(sample_stream, length=200_000, segments=64))
        rows = np.asarray(stream(jax.random.key(1), *arguments))[None]
    contexts = sum(rows[:, i : rows.shape[1] - k + i] * 2 ** (k - 1 - i) for i in range(k))
    for context in range(2**k):
        after = rows[:, k:][contexts == context]
        p = kernel[context, 1]
        assert abs(after.mean() - p) < 4 * np.sqrt(p * (1 - p) / after.size)
    pi = markov.symbol_distribution(kernel)[1]
    assert abs(rows[:, 0].mean() - pi) < 4 * np.sqrt(pi * (1 - pi) / rows.shape[0])


def test_a_stationary_text_has_the_loss_of_its_source():
    kernel = switching_kernel(2, 0.9, 0.6)
    symbols = stationary_text(jax.random.key(0), kernel, 200_000)
    assert symbols.dtype == np.uint8
    assert markov.negative_log_likelihood(kernel, symbols)[2:].mean() == pytest.approx(entropy_rate(kernel), abs=0.006)
    by_hand = markov.negative_log_likelihood(kernel, np.array([0, 1, 1, 1, 0]))
    np.testing.assert_allclose(by_hand, [0, 0, -np.log(0.9), -np.log(0.4), -np.log(0.6)])


def test_stream_does_not_depend_on_where_pieces_meet():
    """One piece is the plain recursion; the same uniforms cut otherwise give other numbers but the same law at the seams."""
    kernel = switching_kernel(1, 0.95, 0.95)
    law = jnp.asarray(stationary_distribution(kernel), jnp.float32)
    x = np.asarray(sample_stream(jax.random.key(2), jnp.asarray(kernel, jnp.float32), law, 8192 * 8 + 1, segments=8192))
    seams = np.arange(8, 8192 * 8, 8)  # the last symbol of each piece: the context, then pieces of 8
    switched = x[seams + 1] != x[seams]
    assert abs(switched.mean() - 0.95) < 4 * np.sqrt(0.95 * 0.05 / len(seams))


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_short_samples_have_their_length(length):
    kernel = jnp.asarray(switching_kernel(3, 0.5, 0.5), jnp.float32)
    uniform = jnp.full(8, 1 / 8)
    assert sample(jax.random.key(0), kernel, uniform, length).shape == (length,)
    assert sample_stream(jax.random.key(0), kernel, uniform, length, 4).shape == (length,)


@pytest.mark.parametrize(
    "kernel, message",
    [
        ([[0.5, 0.4], [0.5, 0.5]], r"kernel\[0\].*sums to one, not 0.9"),
        ([[0.5, 0.5], [1.2, -0.2]], r"kernel\[1, 1\].*zero or more"),
        ([[0.5, 0.5], [np.nan, 0.2]], r"kernel\[1, 0\]"),
        ([[1.0, 0.0], [0.0, 1.0]], r"irreducible.*\{0\} and \{1\}"),
        ([[0.0, 1.0], [1.0, 0.0]], r"period 2.*\{0\} and \{1\}"),
        ([[0.5, 0.5]] * 3, "a power of the 2 symbols"),
        ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], "period 3"),
        ([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.0, 1.0]], r"irreducible.*\{11\}"),
    ],
)
def test_bad_kernels_are_refused(kernel, message):
    with pytest.raises(InvalidConfig, match=message):
        check_kernel(np.array(kernel, np.float64))


@pytest.mark.parametrize(
    "exact", [entropy_rate, markov.mixing_time, stationary_distribution, lambda kernel: block_entropy(kernel, 3)]
)
def test_nothing_exact_is_computed_of_a_bad_kernel(exact):
    for kernel in ([[0.5, 0.4], [0.5, 0.5]], [[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]):
        with pytest.raises(InvalidConfig):
            exact(np.array(kernel))


SOURCE, THREE_ROWS = switching_kernel(1, 0.5, 0.4), np.full((3, 2), 0.5)


@pytest.mark.parametrize(
    "attempt, message",
    [
        (lambda: markov.negative_log_likelihood(SOURCE, np.array([0, 2])), r"symbols\[1\] = 2"),
        (lambda: markov.negative_log_likelihood(SOURCE, np.array([1, 0, -1])), r"symbols\[2\]"),
        (lambda: markov.negative_log_likelihood(SOURCE, np.array([], np.int64)), "at least one symbol"),
        (lambda: markov.negative_log_likelihood(THREE_ROWS, np.array([0])), "contexts = 3"),
        (lambda: markov.smallest_probability(THREE_ROWS), "contexts = 3"),
        (lambda: markov.context_transitions(THREE_ROWS), "contexts = 3"),
        (lambda: sample(jax.random.key(0), jnp.asarray(THREE_ROWS), jnp.full(3, 0.3), 4), "contexts = 3"),
        (lambda: markov.block_distribution(SOURCE, 21), "at most 20.*sample"),  # and says what to do instead
    ],
)
def test_what_gives_no_number_is_refused(attempt, message):
    with pytest.raises(InvalidConfig, match=message):
        attempt()


@pytest.mark.parametrize("p, q, field", [(0.0, 0.5, "p"), (0.5, 1.0, "q")])
def test_degenerate_switching_is_refused(p, q, field):
    with pytest.raises(InvalidConfig) as error:
        switching_kernel(2, p, q)
    assert error.value.field == field
