"""Canonical lexica: relabelling the vocabulary changes nothing but names, to the bit, and what is new is spread over what is left."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.canonical import by_first_occurrence
from lexinv.nn.language_model import (
    LanguageModel,
    initialize,
    make_hidden_states,
    make_logits,
    make_loss,
    make_nll,
    shift_right,
)
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.sites import Site, make_activations
from lexinv.nn.transformer import TransformerConfig

VOCAB, KEY = 9, jax.random.key(2)
CANONICAL = LexiconConfig("canonical")
PLAIN = TransformerConfig(depth=2, width=16, heads=2, mlp_width=32, max_length=128)
CIRCUIT = replace(PLAIN, positions="none", mixing="convolution", initialization="suffix_match")
TOKENS = jax.random.randint(jax.random.key(1), (4, 12), 0, VOCAB).at[0, 9:].set(-1)
BATCH = {"tokens": TOKENS, "row": jnp.arange(4)}
PARAMS = {config: initialize(config, CANONICAL, VOCAB, jax.random.key(0)) for config in (PLAIN, CIRCUIT)}


def test_types_are_numbered_as_they_first_occur():
    found = by_first_occurrence(jnp.array([[5, 2, 5, 8, 2, -1], [0, 0, 0, 0, 1, 0]]), VOCAB)
    np.testing.assert_array_equal(found.ranks, [[0, 1, 0, 2, 1, -1], [0, 0, 0, 0, 1, 0]])
    np.testing.assert_array_equal(found.seen, [[0, 1, 2, 2, 3, 3], [0, 1, 1, 1, 1, 2]])
    np.testing.assert_array_equal(found.of_type[0], [9, 9, 1, 9, 9, 0, 9, 9, 2])


@pytest.mark.parametrize("config", [PLAIN, CIRCUIT], ids=["plain", "suffix_match"])
def test_a_relabelled_sequence_gives_the_relabelled_output_to_the_bit(config):
    order = jax.random.permutation(jax.random.key(3), VOCAB)
    renamed = BATCH | {"tokens": jnp.where(TOKENS >= 0, order[TOKENS], -1), "row": jnp.arange(7, 11)}
    made = {make: jax.jit(make(config, CANONICAL, VOCAB)) for make in (make_nll, make_logits, make_hidden_states)}
    for make, function in made.items():
        before, after = (function(PARAMS[config], batch, KEY) for batch in (BATCH, renamed))
        np.testing.assert_array_equal(after[..., order] if make is make_logits else after, before)
    blocks = jax.jit(make_nll(config, replace(CANONICAL, vocab_block=4), VOCAB))
    np.testing.assert_array_equal(blocks(PARAMS[config], renamed, KEY), blocks(PARAMS[config], BATCH, KEY))


def test_the_prediction_is_the_softmax_over_ranks_with_the_next_one_divided_among_what_is_left():
    ranks = by_first_occurrence(TOKENS, VOCAB).ranks
    apply = LanguageModel(PLAIN).apply
    of_ranks = np.asarray(apply({"params": PARAMS[PLAIN]["model"]}, shift_right(ranks), PARAMS[PLAIN]["table"]))
    predicted = np.asarray(jax.nn.softmax(make_logits(PLAIN, CANONICAL, VOCAB)(PARAMS[PLAIN], BATCH, KEY)))
    nats = np.asarray(make_nll(PLAIN, CANONICAL, VOCAB)(PARAMS[PLAIN], BATCH, KEY))
    for row, tokens in enumerate(np.asarray(TOKENS)):
        known: list[int] = []
        for time, token in enumerate(tokens[tokens >= 0]):
            chances = np.exp(of_ranks[row, time, : len(known) + 1])
            chances = chances[:VOCAB] / chances[:VOCAB].sum()
            left = VOCAB - len(known)
            expected = np.full(VOCAB, chances[-1] / max(left, 1))
            expected[known] = chances[: len(known)]
            np.testing.assert_allclose(predicted[row, time], expected, rtol=1e-5)
            np.testing.assert_allclose(nats[row, time], -np.log(expected[token]), rtol=1e-5)
            known += [] if token in known else [int(token)]
    assert (nats[0, 9:] == 0).all()
    np.testing.assert_allclose(nats[:, 0], np.log(VOCAB), rtol=1e-6)


@pytest.mark.parametrize("output", ["matrix", "tied", "untied"])
def test_losses_by_blocks_and_their_gradients_are_the_dense_ones(output):
    """The last of the blocks holds ranks alone that no sequence has reached yet."""
    config = replace(PLAIN, output=output)
    params = initialize(config, CANONICAL, VOCAB, jax.random.key(0))
    batch = BATCH | {"tokens": TOKENS % 4}
    dense, blocks = (
        jax.value_and_grad(lambda p, kind=kind: make_loss(config, kind, VOCAB)(p, batch, KEY)[0])(params)
        for kind in (CANONICAL, replace(CANONICAL, vocab_block=3))
    )
    assert float(jnp.abs(dense[1]["table"]).max()) > 0
    for want, got in zip(jax.tree.leaves(dense), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


def test_what_is_read_at_a_site_are_hidden_states_of_ranks():
    states = make_hidden_states(PLAIN, CANONICAL, VOCAB)(PARAMS[PLAIN], BATCH, KEY)
    found = make_activations(PLAIN, CANONICAL, VOCAB, Site(1, "residual_out"))(PARAMS[PLAIN], BATCH, KEY)
    np.testing.assert_allclose(found, states[2], atol=1e-5)
    ranks = np.asarray(by_first_occurrence(TOKENS, VOCAB).ranks)[1:, :-1]
    np.testing.assert_array_equal(states[0, 1:], np.asarray(PARAMS[PLAIN]["table"])[ranks])
