"""Lexica: what is drawn, what is shared, and the readout that never holds them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.lexicon import (
    LexiconConfig,
    bank,
    blockwise_nll,
    draw_lexicon,
    embed,
    gaussian_rows,
    lexicon_rows,
    orthonormal_rows,
    permutation,
    readout,
    row_keys,
    token_nll,
)
from lexinv.validation import InvalidConfig

BATCH, TIME, VOCAB, DIM = 3, 7, 11, 16
KEY = jax.random.key(0)
KEYS = row_keys(KEY, jnp.arange(BATCH))
TABLE = 2.5 * jax.random.normal(jax.random.key(1), (VOCAB, DIM))
CONFIGS = {
    "standard": LexiconConfig("standard"),
    "lexinvariant": LexiconConfig("lexinvariant"),
    "semi": LexiconConfig("semi", p_random=0.5),
    "semi_0": LexiconConfig("semi", p_random=0.0),
    "permuted_bank": LexiconConfig("permuted_bank"),
}


def drawn(config, keys=KEYS):
    lexicon = draw_lexicon(config, TABLE if config.learned else None, keys, VOCAB, DIM)
    return jnp.broadcast_to(lexicon, (BATCH, VOCAB, DIM))


@pytest.mark.parametrize("name", CONFIGS)
def test_any_rows_of_a_lexicon_are_those_of_the_whole(name):
    config = CONFIGS[name]
    ids = jax.random.randint(jax.random.key(2), (BATCH, TIME), 0, VOCAB)
    table = bank(VOCAB, DIM) if config.kind == "permuted_bank" else TABLE if config.learned else None
    rows = lexicon_rows(config, table, KEYS, ids, DIM)
    np.testing.assert_array_equal(rows, embed(drawn(config), ids))


def test_lexinvariant_rows_are_standard_normal_and_independent():
    keys = row_keys(KEY, jnp.arange(400))
    lexica = np.asarray(draw_lexicon(CONFIGS["lexinvariant"], None, keys, VOCAB, DIM))
    assert abs(lexica.mean()) < 0.02
    assert abs(lexica.std() - 1) < 0.02
    flat = lexica.reshape(400, -1)
    correlations = np.corrcoef(flat.T) - np.eye(VOCAB * DIM)
    assert np.abs(correlations).max() < 0.3  # 6 standard errors of 400 draws


def test_semi_with_p_0_is_the_standard_table_to_the_bit():
    np.testing.assert_array_equal(drawn(CONFIGS["semi_0"]), drawn(CONFIGS["standard"]))


@pytest.mark.parametrize("p_random", [0.2, 1.0])
def test_semi_replaces_types_at_the_given_rate_with_vectors_of_the_tables_size(p_random):
    keys = row_keys(KEY, jnp.arange(600))
    lexica = np.asarray(draw_lexicon(LexiconConfig("semi", p_random=p_random), TABLE, keys, VOCAB, DIM))
    replaced = (lexica != np.asarray(TABLE)[None]).any(axis=2)
    kept = (lexica == np.asarray(TABLE)[None]).all(axis=2)
    assert (replaced ^ kept).all()  # a type is replaced whole or not at all
    assert abs(replaced.mean() - p_random) < 0.02
    rms = np.sqrt(np.mean(np.square(np.asarray(TABLE))))
    drawn_alone = lexica[replaced] / rms
    assert abs(drawn_alone.mean()) < 0.03 and abs(drawn_alone.std() - 1) < 0.03
    assert p_random < 1 or np.abs(lexica.mean(axis=0)).max() < 0.25 * rms  # nothing of the table is left


def test_permuted_bank_holds_the_rows_of_one_bank_in_a_fresh_order():
    lexica = np.asarray(drawn(CONFIGS["permuted_bank"]))
    fixed = np.asarray(bank(VOCAB, DIM))
    for lexicon, key in zip(lexica, KEYS, strict=True):
        np.testing.assert_array_equal(lexicon, fixed[np.asarray(permutation(key, VOCAB))])
    assert not np.allclose(lexica[0], lexica[1])


def test_the_bank_is_a_constant_of_programs():
    assert "random_bits" in str(jax.make_jaxpr(lambda: gaussian_rows(jax.random.key(0), jnp.arange(VOCAB), DIM))())
    assert "random_bits" not in str(jax.make_jaxpr(lambda: bank(VOCAB, DIM))())


@pytest.mark.parametrize("vocab", [VOCAB, DIM])
def test_orthonormal_vectors_are_orthogonal_of_length_root_width_and_drawn_anew(vocab):
    lexica = np.asarray(draw_lexicon(LexiconConfig("orthonormal"), None, row_keys(KEY, jnp.arange(400)), vocab, DIM))
    grams = lexica @ lexica.swapaxes(1, 2) / DIM
    np.testing.assert_allclose(grams, np.broadcast_to(np.eye(vocab), grams.shape), atol=2e-6)
    flat = lexica.reshape(400, -1)
    assert np.abs(flat.mean(axis=0)).max() < 0.25  # 5 standard errors: no direction is preferred
    assert np.abs(np.corrcoef(flat[:, :DIM].T) - np.eye(DIM)).max() < 0.25
    np.testing.assert_allclose(np.mean(flat[:, 0] ** 4), 3 * DIM / (DIM + 2), rtol=0.35)  # of the sphere, not of +-1


def test_orthonormal_vectors_stay_orthogonal_where_there_is_no_room_for_more():
    """A square of Gaussians is badly conditioned: one pass of Gram and Schmidt is wrong by about 1e-4 here."""
    rows = np.asarray(orthonormal_rows(KEY, 128, 128), np.float64)
    np.testing.assert_allclose(rows @ rows.T / 128, np.eye(128), atol=2e-6)


@pytest.mark.parametrize("block", [1, 4, VOCAB, 16])
@pytest.mark.parametrize("name", ["standard", "lexinvariant", "semi", "semi_0"])
def test_blockwise_nll_and_its_gradients_equal_the_dense_ones(name, block):
    config = replace(CONFIGS[name], vocab_block=block)
    features = jax.random.normal(jax.random.key(3), (BATCH, TIME, DIM))
    targets = jax.random.randint(jax.random.key(4), (BATCH, TIME), 0, VOCAB).at[0, -2:].set(-1)
    table = TABLE if config.learned else None

    def dense(features, table):
        return jnp.sum(token_nll(readout(features, draw_lexicon(config, table, KEYS, VOCAB, DIM)), targets))

    def blockwise(features, table):
        return jnp.sum(blockwise_nll(config, table, KEYS, features, targets, VOCAB))

    arguments = (0, 1) if config.learned else 0
    want = jax.value_and_grad(dense, arguments)(features, table)
    got = jax.value_and_grad(blockwise, arguments)(features, table)
    for expected, computed in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(computed, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["standard", "lexinvariant"])
def test_blockwise_nll_rounds_the_target_as_its_rivals_in_bfloat16(name):
    """To float32's rounding, where bfloat16's is a thousand times larger; a vocabulary of one symbol costs nothing."""
    config = replace(CONFIGS[name], vocab_block=4)
    features = (4 * jax.random.normal(jax.random.key(3), (BATCH, TIME, DIM))).astype(jnp.bfloat16)
    targets = jax.random.randint(jax.random.key(4), (BATCH, TIME), 0, VOCAB)
    table = TABLE if config.learned else None
    dense = token_nll(readout(features, draw_lexicon(config, table, KEYS, VOCAB, DIM)), targets)
    np.testing.assert_allclose(blockwise_nll(config, table, KEYS, features, targets, VOCAB), dense, atol=2e-5)
    only = table if table is None else table[:1]
    np.testing.assert_allclose(blockwise_nll(config, only, KEYS, features, 0 * targets, 1), 0.0, atol=2e-5)


def test_padding_costs_nothing():
    logits = jax.random.normal(KEY, (1, 2, VOCAB))
    nats = token_nll(logits, jnp.array([[3, -1]]))
    np.testing.assert_allclose(nats[0, 0], -jax.nn.log_softmax(logits[0, 0])[3], rtol=1e-6)
    assert nats[0, 1] == 0


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("p_random", {"p_random": 1.5}),
        ("vocab_block", {"vocab_block": -1}),
        ("vocab_block", {"kind": "orthonormal", "vocab_block": 4}),
    ],
)
def test_impossible_lexica_are_refused_by_name(field, arguments):
    with pytest.raises(InvalidConfig, match=rf"lexicon\.{field}"):
        LexiconConfig(**arguments)


def test_more_orthogonal_vectors_than_the_width_are_refused():
    with pytest.raises(InvalidConfig, match=r"model\.width.*at least the 17"):
        draw_lexicon(LexiconConfig("orthonormal"), None, KEYS, DIM + 1, DIM)
