"""Tokens of a batch against counting anew after every merge, and candidates against brute force."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.tokenization.byte_pairs import GPT2_SPLIT
from lexinv.transfer.dynamic import augmented, merge_batch, recall, tokenize
from lexinv.validation import InvalidConfig

VOCAB = 4
WORDS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6)
TEXTS = st.lists(st.lists(WORDS, max_size=6), min_size=1, max_size=5).filter(any)
TEXT = ["the  word, the words.\n\nIt's there", "", "naïve 日本 naïve", "the word"]


def laid_out(texts):
    """Tokens and boundaries of texts of words, padded."""
    size = max(sum(map(len, words)) for words in texts) + 1
    batch, boundary = np.full((len(texts), size), -1, np.int32), np.zeros((len(texts), size), bool)
    for row, words in enumerate(texts):
        flat = [token for word in words for token in word]
        batch[row, : len(flat)] = flat
        boundary[row, np.cumsum([0, *map(len, words)])[:-1]] = True
    return batch, boundary


def counted_anew(texts, merges):
    """The definition: the most frequent pair, of equals that of the smallest ids, merged from left to right, again and again."""
    names = {token: (token,) for token in range(VOCAB)}
    for number in range(VOCAB, VOCAB + merges):
        counts = {}
        for words in texts:
            for word in words:
                for pair in pairwise(word):
                    counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        names[number] = names[best[0]] + names[best[1]]
        texts = [[replaced(word, best, number) for word in words] for words in texts]
    return [[names[token] for word in words for token in word] for words in texts]


def replaced(word, pair, number):
    found, place = [], 0
    while place < len(word):
        here = tuple(word[place : place + 2]) == pair
        found.append(number if here else word[place])
        place += 2 if here else 1
    return found


def spelled(batch, vocab=VOCAB):
    """Every token as the tokenizer's that it stands for."""
    names = {number: (number,) for number in range(vocab)} | dict(enumerate(batch.pieces, vocab))
    return [[names[token] for token in row[row >= 0].tolist()] for row in batch.tokens]


@given(texts=TEXTS, merges=st.integers(0, 12), seed=st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_merges_are_those_of_counting_anew_in_any_order_of_the_texts(texts, merges, seed):
    """With ties. Equal tokens have one row, and the words that no merge crosses are left whole where there are enough merges."""
    batch, boundary = laid_out(texts)
    found = merge_batch(batch, merges, boundary, VOCAB)
    assert spelled(found) == counted_anew(texts, merges)
    assert found.lengths.tolist() == [len(row) for row in spelled(found)]
    assert len(set(found.pieces)) == len(found.pieces) and all(len(piece) > 1 for piece in found.pieces)
    order = np.random.default_rng(seed).permutation(len(texts))
    batch, boundary = laid_out([texts[place] for place in order])
    assert spelled(merge_batch(batch, merges, boundary, VOCAB)) == [spelled(found)[place] for place in order]


@given(texts=TEXTS, merges=st.integers(0, 40), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_rule_keeps_the_text_and_its_boundaries_and_ends_at_whole_pieces(texts, merges, seed):
    batch, boundary = laid_out(texts)
    whole = spelled(merge_batch(batch, None, boundary, VOCAB))
    assert whole == [[tuple(word) for word in words] for words in texts]
    for rule in (
        {"merges": merges},
        {"merges": merges, "rng": np.random.default_rng(seed)},
        {"merges": [(0, 1), (VOCAB, 0)]},
    ):
        found = spelled(merge_batch(batch, boundary=boundary, vocab=VOCAB, **rule))
        for row, words in zip(found, texts, strict=True):
            ends = np.cumsum([len(word) for word in words])
            assert [t for token in row for t in token] == [t for word in words for t in word]
            assert set(ends) <= set(np.cumsum([len(token) for token in row]))
    for rng in (None, np.random.default_rng(seed)):
        assert spelled(merge_batch(batch, 500, boundary, VOCAB, rng)) == whole


def test_a_row_is_that_of_its_pieces_whatever_else_is_in_the_batch():
    """What a new token stands for, which is all that its row is made of, does not depend on the texts beside it."""
    (one, boundary), (more, limits) = laid_out([[[0, 1, 2]] * 2]), laid_out([[[0, 1, 2]] * 2, [[3, 3, 3], [1, 3]]])
    alone, among = merge_batch(one, None, boundary, VOCAB), merge_batch(more, None, limits, VOCAB)
    assert alone.pieces == ((0, 1, 2),) and among.pieces[0] == (0, 1, 2)
    assert spelled(alone)[0] == spelled(among)[0] and alone.tokens.shape == one.shape  # one shape for any merges


def test_pieces_of_a_text_are_those_of_the_expression(tmp_path):
    """By bytes: word level has one token for each piece, characters that are two or three bytes among them."""
    corpus = Corpus("test", "0123456789abcdef", {"train": [str.__doc__ + slice.__doc__], "validation": [""]})
    tokenizer = load_tokenizer("bpe:270", corpus, tmp_path)
    read = tokenize(TEXT, tokenizer, GPT2_SPLIT)
    found = merge_batch(read.tokens, None, read.boundary, 270)
    written = [[b"".join(tokenizer.pieces[part] for part in token) for token in row] for row in spelled(found, 270)]
    assert written[0] == [b"the", b" ", b" word", b",", b" the", b" words", b".", b"\n", b"\n", b"It", b"'s", b" there"]
    assert written[1:3] == [[], ["naïve".encode(), " 日本".encode(), " naïve".encode()]]
    words = tokenize(TEXT, tokenizer, r"\s*\S+")
    assert merge_batch(words.tokens, None, words.boundary, 270).lengths.tolist() == [6, 0, 3, 2]
    with pytest.raises(InvalidConfig, match="texts"):
        tokenize([""], tokenizer, GPT2_SPLIT)


def test_nearest_augmented_rows_have_the_largest_inner_products():
    """Against sorting all of them; rows differ in length up to a thousandfold, and one is zero."""
    rows = jax.random.normal(jax.random.key(0), (300, 8)) * jnp.logspace(-2, 1, 300)[:, None]
    rows, hidden = rows.at[7].set(0.0), jax.random.normal(jax.random.key(1), (50, 8))
    longer = np.asarray(augmented(rows), np.float64)
    np.testing.assert_allclose(np.linalg.norm(longer, axis=1), np.linalg.norm(rows, axis=1).max(), rtol=1e-5)
    queries = np.pad(np.asarray(hidden, np.float64), ((0, 0), (0, 1)))
    distances = np.linalg.norm(queries[:, None] - longer[None], axis=2)
    products = np.asarray(hidden @ rows.T)
    assert np.array_equal(np.argmin(distances, axis=1), np.argmax(products, axis=1))
    cosines = products / np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
    for k in (1, 20):
        found = recall(hidden, rows, k)
        held = [best in np.argsort(-row)[:k] for best, row in zip(products.argmax(axis=1), cosines, strict=True)]
        assert found.augmented.all() and found.cosine.tolist() == held
        assert 0 < sum(held) < 50


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda b, e: merge_batch(b, -1, e, VOCAB), "merges = -1"),
        (lambda b, e: merge_batch(b[:0], 1, e[:0], VOCAB), "batch"),
        (lambda b, e: merge_batch(np.full_like(b, -1), 1, e, VOCAB), "batch"),
        (lambda b, e: merge_batch(b, 1, e, 2), r"batch\[2\] = 2"),
        (lambda b, e: recall(jnp.ones((1, 2)), jnp.ones((3, 2)), 4), "k = 4"),
    ],
)
def test_refusals(call, field):
    with pytest.raises(InvalidConfig, match=field):
        call(*laid_out([[[0, 1, 2], [0, 1]]]))
