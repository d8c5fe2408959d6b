"""Unigram losses against samples, enumeration and the theorems."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import entr

from lexinv.data import markov
from lexinv.data.markov import entropy_rate, switching_kernel
from lexinv.data.markov_sampling import stationary_text
from lexinv.tokenization import tokenizers, unigram
from lexinv.tokenization.bounds import block_cross_entropy, block_length_for, bpe_bound, estimation_cost, lzw_bound
from lexinv.tokenization.library import train_unigram, train_wordpiece
from lexinv.tokenization.tokenizers import characters, train_bpe, train_lzw, trap, with_encoder
from lexinv.tokenization.unigram import add_constant, asymptotic_cross_entropy, cross_entropy, token_counts
from lexinv.validation import InvalidConfig


def text_of(kernel: np.ndarray, length: int, seed: int = 0) -> str:
    return tokenizers.to_text(stationary_text(jax.random.key(seed), kernel, length), "0123456789"[: kernel.shape[1]])


def drawn_kernel(seed: int, k: int = 1) -> np.ndarray:
    return markov.check_kernel(np.asarray(markov.random_kernel(jax.random.key(seed), k, 2), np.float64))


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_blocks_cost_what_theorem_2_says(k, length):
    """The parser's chain knows nothing of the theorem: it must give H(X_1 ... X_r) / r all the same."""
    kernel = switching_kernel(k, 0.9, 0.8)
    exact = asymptotic_cross_entropy(tokenizers.blocks("01", length), kernel)
    assert exact == pytest.approx(block_cross_entropy(kernel, length), rel=1e-9)
    rate, single = entropy_rate(kernel), float(entr(markov.symbol_distribution(kernel)).sum())
    assert exact == pytest.approx(rate + min(k / length, 1) * (single - rate), rel=1e-9)


@pytest.mark.parametrize("vocabulary", [["0", "1", "01", "0110", "11"], ["0", "1", "0101", "011"], ["0", "1", "0001"]])
@pytest.mark.parametrize("k", [1, 2])
def test_rates_of_any_greedy_dictionary_are_those_of_a_long_sample(vocabulary, k):
    """Dictionaries that are not prefix-closed, so that the parser must give characters back."""
    kernel, tokenizer = drawn_kernel(4, k), tokenizers.dictionary("any", "01", vocabulary)
    rates = unigram.greedy_token_rates(tokenizer, kernel)
    assert rates @ tokenizer.lengths == pytest.approx(1.0, rel=1e-9)
    counts = token_counts(tokenizer.encode(text_of(kernel, 200_000)), tokenizer)
    np.testing.assert_allclose(counts / 200_000, rates, atol=0.004)


def test_rates_of_lzw_are_those_of_a_long_sample():
    kernel = switching_kernel(2, 0.9, 0.7)
    tokenizer = train_lzw(text_of(kernel, 20_000), 64, "01")
    ids = tokenizer.encode(text_of(kernel, 400_000, seed=1))
    estimate = cross_entropy(ids, ids, tokenizer)
    assert asymptotic_cross_entropy(tokenizer, kernel) == pytest.approx(estimate, rel=0.005)


@pytest.mark.parametrize("kind", ["bpe", "sequential_bpe", "minimum_length", "wordpiece", "unigram"])
def test_no_lossless_tokenizer_is_below_its_source(kind):
    """On the very same text, with the best unigram model for it: less would be an error in lengths or normalisation."""
    kernel = switching_kernel(2, 0.9, 0.9)
    train, test = text_of(kernel, 20_000), text_of(kernel, 50_000, seed=1)
    tokenizer = {
        "bpe": lambda: train_bpe(train, 32, "01"),
        "sequential_bpe": lambda: tokenizers.train_sequential_bpe(train, 32, "01"),
        "minimum_length": lambda: with_encoder(train_lzw(train, 32, "01"), "minimum_length"),
        "wordpiece": lambda: train_wordpiece(train[:5000], 32, "01", split_words=False),
        "unigram": lambda: train_unigram(train[:2000], 32, "01", split_words=False),
    }[kind]()
    loss = unigram.best_cross_entropy(token_counts(tokenizer.encode(test), tokenizer).astype(float), tokenizer.lengths)
    own = markov.negative_log_likelihood(kernel, tokenizers.to_symbols(test, "01"))[2:].mean()
    assert own < loss < 1.6 * own


def test_trap_costs_half_of_the_cycle_to_greedy():
    """Without slips: fewest tokens, one kind of token, 0 nats; greedy, one long token and S - 1 characters each cycle pair."""
    kernel, alphabet = markov.cyclic_kernel(8, 1e-4), "01234567"
    greedy = asymptotic_cross_entropy(trap(alphabet, "greedy"), kernel)
    frequencies = np.full(8, 1 / 8)  # of "0...70" and of 1 to 7
    assert greedy == pytest.approx(entr(frequencies).sum() * 8 / 16, rel=0.02)
    fewest = trap(alphabet, "minimum_length")
    ids = fewest.encode(text_of(markov.cyclic_kernel(8, 1e-3), 100_000))
    assert cross_entropy(ids, ids, fewest) < 0.06 < greedy / 10


@pytest.mark.parametrize("seed", range(20))
def test_lzw_is_within_its_bound_on_random_first_order_sources(seed):
    kernel = drawn_kernel(seed + 100)
    rate, delta = entropy_rate(kernel), markov.smallest_probability(kernel)
    tokenizer = train_lzw(text_of(kernel, 60_000, seed), 256, "01")
    bound = lzw_bound(rate, delta, 256)
    loss = asymptotic_cross_entropy(tokenizer, kernel)
    assert loss >= rate * (1 - 1e-9)
    assert bound is None or loss <= bound


def test_lzw_bound_and_where_it_says_nothing():
    epsilon = np.log(10) / (0.99 * np.log(256))
    assert lzw_bound(0.325, 0.1, 256) == pytest.approx(0.325 / (1 - epsilon))
    assert lzw_bound(0.325, 0.1, 10) is None
    assert lzw_bound(0.325, 0.1, 11) is not None  # 10^(1 / 0.99) = 10.24


def test_bpe_bound_solves_its_equation():
    for size in (16, 1024, 10**9):
        epsilon = bpe_bound(1.0, 0.3, size) - 2
        assert 0 < epsilon < 1
        right = np.log(1 / epsilon) * np.log(1 / 0.3) ** 3 / (epsilon**9 * np.log(size))
        assert right == pytest.approx(epsilon, rel=1e-6)
    assert bpe_bound(1.0, 0.3, 16) > bpe_bound(1.0, 0.3, 1024) > 2


def test_block_length_for_an_excess():
    kernel = switching_kernel(2, 0.9, 0.9)
    length = block_length_for(kernel, 0.1)
    assert block_cross_entropy(kernel, length) <= 1.1 * entropy_rate(kernel) < block_cross_entropy(kernel, length - 1)


@given(counts=st.lists(st.integers(0, 50), min_size=3, max_size=6).filter(sum), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_no_unigram_model_is_better_than_the_frequencies(counts, seed):
    counts, rng = np.array(counts), np.random.default_rng(seed)
    lengths = rng.integers(1, 5, len(counts))
    other = rng.dirichlet(np.ones(len(counts)))
    best = unigram.best_cross_entropy(counts.astype(np.float64), lengths)
    assert unigram.unigram_cross_entropy(counts / counts.sum(), counts, lengths) == pytest.approx(best)
    assert unigram.unigram_cross_entropy(other, counts, lengths) >= best - 1e-12


def test_unseen_tokens_cost_a_finite_amount():
    tokenizer = train_bpe("0101011011", 5, "01")
    train, test = tokenizer.encode("0101"), tokenizer.encode("111000")
    loss = cross_entropy(train, test, tokenizer)
    model = add_constant(token_counts(train, tokenizer))
    assert np.isfinite(loss) and loss == pytest.approx(-np.log(model[test]).sum() / 6)


def test_estimation_costs_about_half_a_nat_per_token_and_type():
    """Mean excess of the add-1/2 model of 500 draws over the truth, 32 equally likely tokens."""
    rng, tokens = np.random.default_rng(0), 500
    draws = rng.multinomial(tokens, np.full(32, 1 / 32), size=2000)
    excess = np.mean([-np.log(add_constant(counts)).mean() - np.log(32) for counts in draws])
    assert excess == pytest.approx(estimation_cost(32, tokens, 1.0), rel=0.1)


NONE, ONES = np.zeros(2, np.int64), np.ones(2, np.int32)
FEWEST = with_encoder(trap("01", "greedy"), "minimum_length")


@pytest.mark.parametrize(
    "attempt, message",
    [
        (lambda: unigram.greedy_token_rates(FEWEST, drawn_kernel(0)), "encoder = 'minimum_length'"),
        (lambda: unigram.greedy_token_rates(characters("012"), drawn_kernel(0)), "the source's 2 symbols"),
        (lambda: add_constant(np.array([1, 2]), 0.0), "alpha = 0.0"),
        (lambda: add_constant(np.array([1, -2])), r"counts\[1\] = -2"),
        (lambda: token_counts(np.array([0, 2, 1]), characters("01")), r"ids\[1\] = 2 .*0 to 1"),
        (lambda: cross_entropy(np.array([0]), np.array([], np.int32), characters("01")), "ids = 0 .*at least one"),
        (lambda: unigram.unigram_cross_entropy(np.full(2, 0.5), NONE, ONES), "counts = 'all zero'"),
        (lambda: unigram.best_cross_entropy(np.array([0.5, -1e-17]), ONES), r"rates\[1\] = -1e-17"),
        (lambda: unigram.best_cross_entropy(np.zeros(2), ONES), "rates = 'all zero'"),
        (lambda: lzw_bound(0.3, 0.0, 16), "delta = 0.0"),
        (lambda: bpe_bound(0.3, 0.1, 1), "size = 1"),
        (lambda: block_length_for(drawn_kernel(0), 0.0), "excess = 0.0"),
    ],
)
def test_bad_input_is_refused(attempt, message):
    with pytest.raises(InvalidConfig, match=message):
        attempt()
