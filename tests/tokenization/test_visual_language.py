"""Statistics of sequences, codebooks, spaces and grammars against analytic values, enumeration and one another."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.tokenization import sequence_statistics as statistics
from lexinv.tokenization.codebook import SCAN_ORDERS, association, k_means, nearest, patches, scan_order
from lexinv.tokenization.grammar import LONGEST, GrammarConfig, elbo, initialize, inside, rules
from lexinv.tokenization.sequence_statistics import ZipfMandelbrot
from lexinv.tokenization.spaces import cooccurrence_distances, space_distance
from lexinv.validation import InvalidConfig

RNG = np.random.default_rng(0)


def test_huffman_is_optimal():
    dyadic = np.array([32, 16, 8, 4, 2, 1, 1])
    assert statistics.huffman_lengths(dyadic).tolist() == [1, 2, 3, 4, 5, 6, 6]
    assert statistics.huffman_saving(np.full(64, 3)) == 0
    counts = RNG.integers(1, 1000, 300)
    lengths = statistics.huffman_lengths(counts)
    assert np.sum(2.0**-lengths) == 1
    rate, least = counts @ lengths / counts.sum(), statistics.entropy(counts, "plug-in")
    assert least <= rate < least + 1
    assert statistics.huffman_saving(counts) == pytest.approx(1 - rate / np.log2(300))


def test_entropies_are_those_of_the_law():
    assert statistics.entropy(np.full(32, 7), "plug-in") == pytest.approx(5)
    law = RNG.dirichlet(np.ones(400))
    true = -np.sum(law * np.log2(law))
    found = {name: [] for name in statistics.ESTIMATORS}
    for sample in RNG.multinomial(1500, law, 200):
        for name, values in found.items():
            values.append(statistics.entropy(sample[sample > 0], name))
    bias = {name: abs(np.mean(values) - true) for name, values in found.items()}
    assert bias["plug-in"] > 0.15
    assert bias["miller-madow"] < 0.06 and bias["grassberger"] < 0.03


def test_what_a_token_takes_after_another():
    tokens = RNG.integers(0, 8, 40_000)
    assert statistics.conditional_entropy(tokens) == pytest.approx(3, abs=0.01)
    assert statistics.conditional_entropy(np.tile(np.arange(8), 500)) == pytest.approx(0, abs=0.01)
    counts = statistics.ngram_counts(np.array([3, 900, 3, 900, 3]), 2)
    assert counts.tolist() == [2, 2]
    assert statistics.ngram_counts(tokens, 3).sum() == len(tokens) - 2


def test_laws_are_found_in_their_samples():
    law = ZipfMandelbrot(1.4, 6.0)
    sample = RNG.multinomial(100_000, law.probabilities(150))
    found = statistics.fit_zipf_mandelbrot(sample[sample > 0])
    assert found.exponent == pytest.approx(1.4, abs=0.06) and found.shift == pytest.approx(6, abs=1)
    assert statistics.zipf_test(sample[sample > 0], RNG, 9)[1] > 0.1
    distance, p = statistics.zipf_test(np.repeat([90, 3], 10), RNG, 9)
    assert distance > 0.1 and p == 1 / 10
    sizes = RNG.geometric(np.exp(-RNG.exponential(1 / 1.5, 20_000)))  # Yule and Simon's law as a mixture
    rho, distance = statistics.fit_yule_simon(sizes)
    assert rho == pytest.approx(1.5, abs=0.05) and distance < 0.01
    assert statistics.fit_yule_simon(np.arange(1, 200))[1] > 0.1
    assert statistics.benford_distance(2 ** np.arange(60, dtype=np.int64)) < 0.02
    assert statistics.benford_distance(np.arange(10, 100)) == pytest.approx(np.abs(statistics.BENFORD - 1 / 9).mean())


def test_growth_is_of_different_tokens():
    tokens = RNG.choice(300, 20_000, p=ZipfMandelbrot(1.2).probabilities(300))
    growth = statistics.vocabulary_growth(tokens)
    assert growth[0] == 1 and growth[499] == len(np.unique(tokens[:500])) and growth[-1] == len(np.unique(tokens))
    assert statistics.share_until(np.array([0, 0, 0, 1, 2, 3])) == pytest.approx(4 / 6)


def test_patches_and_orders():
    image = RNG.random((9, 13, 3))
    cut = patches(image, 4)
    assert cut.shape == (2, 3, 48)
    np.testing.assert_array_equal(cut[1, 2], image[4:8, 8:12].ravel())
    for kind, (rows, columns) in itertools.product(SCAN_ORDERS, [(4, 4), (3, 5)]):
        assert sorted(scan_order(rows, columns, kind)) == list(range(rows * columns))
    assert scan_order(2, 3, "column").tolist() == [0, 3, 1, 4, 2, 5]
    row, column = np.divmod(scan_order(8, 8, "hilbert"), 8)
    assert (np.abs(np.diff(row)) + np.abs(np.diff(column)) == 1).all()


def test_k_means():
    centres = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10], [30, 30]], np.float32)
    points = np.repeat(centres, 40, axis=0)
    untrained, found = (np.asarray(k_means(jnp.asarray(points), 5, n, jax.random.key(1))) for n in (0, 8))
    assert len(np.unique(untrained, axis=0)) < 5  # twice the same point: one centre has none, and finds its own
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(centres, axis=0))
    points = RNG.normal(0, 5, (200, 2)).astype(np.float32)
    code, distance = nearest(jnp.asarray(points), jnp.asarray(centres))
    far = np.square(points[:, None] - centres[None]).sum(axis=2)
    np.testing.assert_array_equal(code, far.argmin(axis=1))
    np.testing.assert_allclose(distance, far.min(axis=1), rtol=1e-4, atol=1e-3)


def test_association_is_a_correlation():
    tokens, classes = RNG.integers(0, 5, 500), RNG.integers(-1, 4, 500)
    found = association(tokens, classes)
    for token, kind in itertools.product(range(5), range(4)):
        assert found[token, kind] == pytest.approx(np.corrcoef(tokens == token, classes == kind)[0, 1])
    assert association(tokens, tokens)[range(5), range(5)] == pytest.approx(np.ones(5))


def test_spaces():
    points, order = RNG.random((20, 2)), RNG.permutation(20)
    space = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert space_distance(space, 3 * space[order][:, order] + 1, RNG, starts=8) == pytest.approx(0, abs=1e-9)
    other = RNG.random((20, 20))
    assert space_distance(space, other + other.T, RNG) > 0.2
    pairs = np.repeat(RNG.integers(0, 6, 20_000), 2) * 2 + np.tile([0, 1], 20_000)  # 2 k is followed by 2 k + 1
    found = cooccurrence_distances(np.append(pairs, [12, 13]), 12, 1, 12)
    assert found.shape == (12, 12) and np.abs(np.diag(found)).max() < 1e-9


def trees(symbol, words, binary, unary):
    """The probability of every tree over these words with this symbol above it."""
    nonterminals, symbols, _ = binary.shape
    if symbol >= nonterminals:
        yield from [unary[symbol - nonterminals, words[0]]] * (len(words) == 1)
    else:
        for split, one, other in itertools.product(range(1, len(words)), range(symbols), range(symbols)):
            for left in trees(one, words[:split], binary, unary):
                for right in trees(other, words[split:], binary, unary):
                    yield binary[symbol, one, other] * left * right


GRAMMAR = GrammarConfig(words=12, nonterminals=3, preterminals=4, width=6)


@pytest.fixture(scope="module")
def known():
    return rules(initialize(GRAMMAR, jax.random.key(3)), jnp.zeros(0))


def test_inside_is_the_sum_over_all_trees(known):
    root, binary, unary = (np.exp(np.asarray(part, np.float64)) for part in known)
    for part in (root, binary.reshape(3, -1), unary):
        np.testing.assert_allclose(part.sum(axis=-1), 1, rtol=1e-5)
    for length in (2, 4):
        words = RNG.integers(0, 12, length)
        total = sum(root[symbol] * sum(trees(symbol, words, binary, unary)) for symbol in range(3))
        log_z, expected = jax.value_and_grad(inside, argnums=1)(known.root, known.binary, known.unary.T[words])
        assert log_z == pytest.approx(np.log(total), rel=1e-5)
        assert expected.sum() == pytest.approx(length - 1, rel=1e-4)


def test_all_sentences_of_two_words_have_the_share_of_two_words(known):
    both = jnp.array(list(itertools.product(range(12), repeat=2)))
    found = jax.vmap(lambda span: inside(known.root, known.binary, known.unary.T[span]))(both)
    two_preterminals = np.exp(known.root) @ np.exp(known.binary[:, 3:, 3:]).sum(axis=(1, 2))
    assert np.exp(found).sum() == pytest.approx(two_preterminals, rel=1e-4)


def test_a_bound_of_the_compound_grammar():
    """Without use of z it is the likelihood, less the divergence of the guess."""
    config = GrammarConfig(words=12, nonterminals=3, preterminals=4, width=6, latent=2)
    params = initialize(config, jax.random.key(0))
    spans = jnp.array([[1, 5, 11], [0, 2, 2]])
    params["guess"] = jnp.zeros_like(params["guess"])
    for name in ("root_in", "word_in", "to_pair"):
        params[name] = params[name].at[6:].set(0)
    neural = {name: value[:6] if name in ("root_in", "word_in", "to_pair") else value for name, value in params.items()}
    neural = {name: neural[name] for name in initialize(GRAMMAR, jax.random.key(0))}
    key = jax.random.key(1)
    np.testing.assert_allclose(elbo(params, spans, key), elbo(neural, spans, key), rtol=1e-5)
    moved = params | {"guess": params["guess"].at[:].set(0.1)}
    assert (elbo(moved, spans, key) < elbo(params, spans, key)).all()


@pytest.mark.parametrize(
    "call, field",
    [
        (lambda: patches(np.zeros((3, 9, 3)), 4), "image"),
        (lambda: scan_order(2, 2, "zigzag"), "scan order"),
        (lambda: k_means(jnp.zeros((3, 2)), 4, 1, jax.random.key(0)), "codes"),
        (lambda: inside(jnp.zeros(2), jnp.zeros((2, 4, 4)), jnp.zeros((1, 2))), "length"),
        (lambda: inside(jnp.zeros(2), jnp.zeros((2, 4, 4)), jnp.zeros((LONGEST + 1, 2))), "length"),
        (lambda: statistics.entropy(np.array([3, 0])), "counts"),
        (lambda: statistics.entropy(np.array([3, 1]), "chao"), "estimator"),
        (lambda: statistics.huffman_lengths(np.array([3])), "counts"),
        (lambda: statistics.ngram_counts(np.array([1, 2]), 3), "n"),
        (lambda: cooccurrence_distances(np.array([0, 1, 1]), 3, 1, 2), "types"),
        (lambda: space_distance(np.zeros((3, 3)), np.zeros((4, 4)), RNG), "other"),
    ],
)
def test_bad_input(call, field):
    with pytest.raises(InvalidConfig, match=f"^{field} = "):
        call()
