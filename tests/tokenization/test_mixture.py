"""Mixtures from merges: the linear programme against all of its rows, what is exact, units, and the merges of published lists."""

import json

import numpy as np
import pytest
from scipy.optimize import linprog

from lexinv.data.bpe import PAIR, Chunks, byte_chunks, count_pieces, learn_merges, pair_changes
from lexinv.data.published import from_pairs, from_ranks
from lexinv.tokenization import mixture
from lexinv.tokenization.mixture import bytes_per_token, classified, from_lengths, infer, to_bytes
from lexinv.validation import InvalidConfig

LETTERS = "abcdef"


def languages(seed: int, n: int = 3, words: int = 400) -> list[dict[str, int]]:
    """Words of letters that each language uses differently often."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        likes = rng.dirichlet(np.full(len(LETTERS), 0.7))
        drawn = rng.choice(list(LETTERS), (words, 5), p=likes)
        found.append({"".join(word): int(count) for word, count in zip(drawn, rng.integers(1, 30, words), strict=True)})
    return found


def trained(categories: list[dict[str, int]], shares: list[int], merges: int) -> list[tuple[int, int]]:
    text = byte_chunks(categories)
    return learn_merges(Chunks(text.ids, text.lengths, text.counts @ np.array(shares)), 256, 256 + merges)


def all_rows(changes, merges) -> tuple[float, np.ndarray]:
    """The whole linear programme, dense: its objective and weights."""
    pairs = np.unique(np.concatenate([each for each, _ in changes]))
    counts, totals = np.zeros((len(pairs), changes[0][1].shape[1])), changes[0][1].sum(axis=0)
    rows = []
    for t, ((which, change), (left, right)) in enumerate(zip(changes, merges, strict=False)):
        counts[np.searchsorted(pairs, which)] += change * 1e6 / totals
        own = int(np.searchsorted(pairs, left * PAIR + right))
        for other in range(len(pairs)):
            if other != own:
                slacks = np.zeros(len(merges) + len(pairs))
                slacks[[t, len(merges) + other]] = 1
                rows.append([*(counts[own] - counts[other]), *slacks])
    cost = np.arange(len(rows[0])) >= len(totals)
    found = linprog(cost, A_ub=-np.array(rows), b_ub=np.zeros(len(rows)), A_eq=[~cost], b_eq=[1.0], method="highs")
    return found.fun, found.x[: len(totals)]


@pytest.mark.parametrize("per_merge", [1, 10])
def test_rows_added_as_they_are_needed_are_all_rows(per_merge, monkeypatch):
    monkeypatch.setattr(mixture, "PER_MERGE", per_merge)
    merges = trained(languages(0), [5, 2, 1], 8)
    other_words = [{word[::-1]: count for word, count in language.items()} for language in languages(0)]
    changes = pair_changes(byte_chunks(other_words), merges, 256)
    slack, weights = all_rows(changes, merges)
    found = infer(changes, merges, tolerance=1e-7)
    assert slack > 100
    assert found.slack == pytest.approx(slack, rel=1e-9)
    np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    first, *others = other_words  # as often written, and in another order: each category is a share of its own pairs
    moved = [*others, {word: 2 * count for word, count in first.items()}]
    again = infer(pair_changes(byte_chunks(moved), merges, 256), merges, tolerance=1e-7)
    np.testing.assert_allclose(again.weights, np.roll(found.weights, -1), atol=1e-6)


def test_the_training_text_itself_contradicts_nothing():
    shares, categories = [6, 3, 1], languages(1)
    merges = trained(categories, shares, 60)
    changes = pair_changes(byte_chunks(categories), merges, 256)
    found, pairs = infer(changes, merges), changes[0][1].sum(axis=0)
    true = pairs * shares / (pairs @ shares)
    assert found.slack == 0 and found.missing == ()
    np.testing.assert_allclose(found.weights, true, atol=0.02)
    sizes = np.array([sum(len(word) * count for word, count in language.items()) for language in categories])
    np.testing.assert_allclose(to_bytes(true, sizes, pairs), sizes * shares / (sizes @ shares), rtol=1e-12)


def test_one_merge_leaves_an_interval():
    """ab is merged first: weights a (9 ab, 1 cd) and 1 - a (4 ab, 6 cd) need 0.9 a + 0.4 (1 - a) >= 0.1 a + 0.6 (1 - a): a >= 0.2."""
    changes = pair_changes(byte_chunks([{"ab": 9, "cd": 1}, {"ab": 4, "cd": 6}]), [(97, 98)], 256)
    assert infer(changes, [(97, 98)]).weights[0] >= 0.2 - 1e-6
    other = infer(changes, [(99, 100)])
    assert other.weights[0] <= 0.2 + 1e-6 and other.slack == 0
    missing = infer([*changes, *changes[1:]], [(97, 98), (120, 121)])
    assert missing.missing == (1,)


def test_baselines_by_hand():
    categories = [{"ab": 9, "cd": 1}, {"ab": 4, "cd": 6}]
    merges = [(97, 98), (99, 100)]
    changes = pair_changes(byte_chunks(categories), merges, 256)
    assert classified(changes, merges).tolist() == [0.5, 0.5]
    assert bytes_per_token(changes, np.array([20.0, 20.0])).tolist() == [2.0, 2.0]
    assert bytes_per_token(changes[:-1], np.array([20.0, 20.0])).tolist() == [20 / 11, 20 / 16]
    true = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    np.testing.assert_allclose(from_lengths(7 * true**0.3, true), true, rtol=1e-9)


def test_merges_come_back_from_a_list_by_rank():
    text = (json.__doc__ or "") + (np.linalg.svd.__doc__ or "")
    counts = count_pieces([text], r" ?\w+|[^\w]+")
    merges = trained([counts], [1], 500)
    tokens = [bytes([b]) for b in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    assert len(set(tokens)) == len(tokens)
    assert from_ranks(tokens) == merges
    shuffled = [*np.random.default_rng(0).permutation(256).tolist(), *range(256, len(tokens))]
    assert from_ranks([tokens[i] for i in shuffled]) == merges


EMPTY = pair_changes(byte_chunks([{"ab": 1}, {"a": 1}]), [(97, 98)], 256)
ONE = pair_changes(byte_chunks([{"ab": 1}]), [(97, 98)], 256)
BYTES = [bytes([b]) for b in range(256)]


@pytest.mark.parametrize(
    "attempt, message",
    [
        (lambda: infer(EMPTY, [(97, 98)]), "category 1"),
        (lambda: infer(ONE, [(97, 98)]), "at least two"),
        (lambda: infer(EMPTY, []), "changes = 2"),
        (lambda: from_ranks(BYTES[1:]), "all 256 bytes"),
        (lambda: from_ranks([*BYTES, b"ab", b"ab"]), "all different"),
        (lambda: from_ranks([*BYTES, b"abc"]), "leave in two"),
        (lambda: from_pairs([(b"a", b"b"), (b"abc", b"d")]), "merge 1"),
        (lambda: learn_merges(byte_chunks([{"ab": 1}] * 2), 256, 257), "one count for each piece"),
    ],
)
def test_bad_input_is_refused(attempt, message):
    with pytest.raises(InvalidConfig, match=message):
        attempt()
