"""Models that spell words: what each symbol may know, that probabilities are ones, and what a byte costs."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.transformer import TransformerConfig
from lexinv.transfer.word_model import END, WordModel, WordModelConfig, initialize, make_nll, targets, word_flops
from lexinv.transfer.words import WordBatch, pack
from lexinv.validation import InvalidConfig

SPELLING = TransformerConfig(depth=1, width=16, heads=2, mlp_width=32, max_length=16)
BACKBONE = TransformerConfig(depth=1, width=24, heads=2, mlp_width=48)
MOST = 4
TEXT = [b"abc", b"de", b"f", b"ghij"]


@pytest.fixture(scope="module", params=[1, 4], ids=["hat", "pooled"])
def setting(request):
    """(configuration, parameters, compiled logits)."""
    config = WordModelConfig(SPELLING, BACKBONE, request.param)
    params = initialize(config, jax.random.key(0))
    logits = jax.jit(lambda batch: WordModel(config).apply({"params": params}, batch))
    return config, params, lambda batch: np.asarray(logits(jax.tree.map(jnp.asarray, batch)))


def test_a_symbol_knows_the_bytes_before_it_and_no_others(setting):
    _, _, logits = setting
    batch = pack([TEXT], MOST, 6)
    for word, place in ((0, 0), (0, 2), (1, 1), (3, 0), (3, 3)):
        other = batch._replace(spelled=batch.spelled.copy())
        other.spelled[0, word, place] = ord("x")
        expected = np.zeros((6, MOST + 1), bool)
        expected[word, place + 1 :] = True
        expected[word + 1 :] = True
        np.testing.assert_array_equal(np.abs(logits(batch) - logits(other)).max(axis=-1)[0] > 1e-6, expected)


def test_padding_changes_nothing(setting):
    """Neither what lies in it, nor how much of it there is."""
    _, _, logits = setting
    batch = pack([TEXT], MOST, 6)
    spoilt = batch._replace(spelled=np.where(batch.byte_mask, batch.spelled, 7).astype(np.int32))
    said = targets(jax.tree.map(jnp.asarray, batch)) >= 0
    np.testing.assert_allclose(logits(spoilt)[said], logits(batch)[said], atol=1e-5)
    wide = pack([TEXT], MOST + 3, 6)
    np.testing.assert_allclose(logits(wide)[:, :, : MOST + 1][said], logits(batch)[said], atol=1e-5)


def test_losses_of_texts_packed_together_are_those_of_each_alone(setting):
    config, params, _ = setting
    nll = jax.jit(make_nll(config))
    texts = [TEXT, [b"de"], [b"xyz", b"q"]]
    together = np.asarray(nll(params, jax.tree.map(jnp.asarray, pack(texts, MOST, 6))))
    for row, text in zip(together, texts, strict=True):
        alone = np.asarray(nll(params, jax.tree.map(jnp.asarray, pack([text], MOST, 6))))[0]
        np.testing.assert_allclose(row, alone, atol=1e-5)
        assert (row > 0).sum() == sum(map(len, text)) + len(text)


def test_probabilities_of_all_words_and_of_longer_ones_sum_to_one(setting):
    """Over an alphabet of three with all other bytes as the tail: a word of two letters, or none of the three comes somewhere."""
    _, _, logits = setting
    words = [bytes(word) for n in (1, 2) for word in product(b"abc", repeat=n)]
    batch = pack([[b"de", word] for word in words], MOST, 6)
    chances = np.exp(jax.nn.log_softmax(logits(batch), axis=-1))[:, 1]
    first, total = chances[0, 0], 0.0
    for word, row in zip(words, chances, strict=True):
        before = float(np.prod([row[place, byte] for place, byte in enumerate(word)]))
        total += before * row[len(word), END]
        others = 1.0 - row[len(word), END] - (row[len(word), list(b"abc")].sum() if len(word) == 1 else 0.0)
        total += before * others
    total += 1.0 - first[list(b"abc")].sum()
    assert total == pytest.approx(1.0, abs=1e-5)


def test_a_words_vector_does_not_know_its_neighbours_and_knows_its_last_byte():
    """Read before the backbone: with one word after it, the first word's vector is all that the second is told."""
    config = WordModelConfig(SPELLING, replace(BACKBONE, positions="none"), 1)
    params = initialize(config, jax.random.key(1))
    model = WordModel(config)

    def read(words):
        batch = jax.tree.map(jnp.asarray, pack([words], MOST, 3))
        _, kept = model.apply({"params": params}, batch, capture_intermediates=True)
        return np.asarray(kept["intermediates"]["encoder"]["__call__"][0][0])[:, 0]

    one, other = read([b"abc", b"de", b"f"]), read([b"abc", b"dx", b"f"])
    np.testing.assert_array_equal(one[[0, 2]], other[[0, 2]])
    assert np.abs(one[1] - other[1]).max() > 1e-3


def test_operations_are_those_that_the_compiler_counts():
    """Of words that fill their rows; it counts element by element what we leave out, which is little in wide models."""
    spelling = TransformerConfig(depth=1, width=256, heads=2, mlp_width=1024, attention="whole", max_length=16)
    backbone = TransformerConfig(depth=2, width=512, heads=2, mlp_width=2048, attention="whole", unroll=2)
    for count in (1, 2):
        config = WordModelConfig(spelling, backbone, count)
        params = jax.eval_shape(lambda config=config: initialize(config, jax.random.key(0)))
        shape = jnp.zeros((1, 24, 7), jnp.int32)
        batch = WordBatch(shape, shape == 0, shape[:, :, 0] == 0)
        model = WordModel(config)
        counted = jax.jit(lambda p, b, model=model: model.apply({"params": p}, b)).lower(params, batch).cost_analysis()
        assert word_flops(config, [7] * 24, 24) * 24 * 7 == pytest.approx(counted["flops"], rel=0.05)


def test_parts_that_look_ahead_are_refused():
    with pytest.raises(InvalidConfig, match=r"backbone\.causal"):
        WordModelConfig(SPELLING, replace(BACKBONE, causal=False))
