"""Padding keeps the trace and adds what it says; heads and verifier against permutations; thresholds against what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.decoding.token_audit import (
    ATTACKS,
    Material,
    duplicates,
    initialize_match_head,
    initialize_set_verifier,
    match_head,
    pad,
    set_verifier,
    threshold,
)
from lexinv.validation import InvalidConfig

VOCAB, BLOCK, EXTRA = 40, 4, 13
TRACE = np.array([3, 9, 3, 12, 20, 21, 9, 5, 30, 31])
SAYS = np.arange(VOCAB) // 4
MATERIAL = Material(
    np.arange(EXTRA),
    np.arange(EXTRA) + 20,
    np.array([38, 39]),
    np.arange(0, VOCAB, 2),
    (np.arange(VOCAB) + 1) % VOCAB,
    SAYS,
    BLOCK,
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_trace_is_kept_and_the_padding_is_what_it_says(attack):
    random = np.random.default_rng(0)
    for _ in range(20):
        found = pad(attack, random, TRACE, EXTRA, MATERIAL)
        assert found.forged.sum() == EXTRA and len(found.tokens) == len(TRACE) + EXTRA
        np.testing.assert_array_equal(found.tokens[~found.forged], TRACE)
        made = found.tokens[found.forged]
        copies = [np.resize(np.roll(TRACE[:8], -start), EXTRA) for start in (0, 4)]
        right = {
            "repeated": set(made) <= set(TRACE) and len(set(made)) == 1,
            "random": len(set(made)) > 4 and not any(made % 2),
            "other_topic": np.array_equal(made, MATERIAL.other_topic),
            "same_topic": np.array_equal(made, MATERIAL.same_topic),
            "similar": set(made) <= set(TRACE + 1),
            "resampled": set(made) <= {*TRACE, 38, 39},
            "self_copies": any(np.array_equal(made, copy) for copy in copies),
            "rewritten": any(np.array_equal(SAYS[made], SAYS[copy]) for copy in copies),
        }
        assert right[attack]
    np.testing.assert_array_equal(pad(attack, random, TRACE, 0, MATERIAL).tokens, TRACE)
    one, same = (pad(attack, np.random.default_rng(7), TRACE, EXTRA, MATERIAL).tokens for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_copied_blocks_lie_on_the_blocks_of_the_trace_and_are_counted():
    found = pad("self_copies", np.random.default_rng(0), TRACE, 2 * BLOCK, MATERIAL).tokens
    blocks = [found[start : start + BLOCK].astype(np.int8).tobytes() for start in range(0, 16, BLOCK)]
    assert duplicates(blocks) == 2 and duplicates(blocks[:2]) == 0


def test_rewording_reaches_every_word_that_says_the_same():
    seen = {
        int(t)
        for seed in range(60)
        for t in pad("rewritten", np.random.default_rng(seed), TRACE, 8, MATERIAL).tokens[8:16]
    }
    assert seen == {t for label in set(SAYS[TRACE[:8]]) for t in np.flatnonzero(label == SAYS)}


def test_a_head_scores_each_token_for_itself_and_reads_the_order_of_its_arguments():
    params = initialize_match_head(jax.random.key(0), 6, (8, 4))
    u, v = jax.random.normal(jax.random.key(1), (2, 5, 6))
    found, order = match_head(params, u, v), jnp.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(match_head(params, u[order], v[order]), found[order], rtol=1e-5)
    assert not np.allclose(match_head(params, v, u), found)
    sizes = [layer["weights"].shape for layer in initialize_match_head(jax.random.key(0), 64)["layers"]]
    assert sizes == [(257, 256), (256, 64), (64, 1)]


def test_the_verifier_reads_a_set_and_nothing_behind_it():
    params = initialize_set_verifier(jax.random.key(0), 4)
    scores, mask = jax.random.normal(jax.random.key(1), (3, 6, 4)), jnp.arange(6)[None] < jnp.array([[6], [2], [4]])
    found, order = set_verifier(params, scores, mask), jnp.array([5, 2, 0, 4, 1, 3])
    np.testing.assert_allclose(set_verifier(params, scores[:, order], mask[:, order]), found, rtol=1e-4)
    spoiled = jnp.where(mask[..., None], scores, 1e3)
    np.testing.assert_allclose(set_verifier(params, spoiled, mask), found, rtol=1e-5)
    alone = set_verifier(params, scores[1:2, :2], jnp.ones((1, 2), bool))
    np.testing.assert_allclose(alone, found[1:2], rtol=1e-5)


def test_no_more_honest_sessions_are_accused_than_was_said():
    honest = np.random.default_rng(0).normal(size=201)
    for target, accused in ((0.02, 4), (0.05, 10), (0.5, 100)):
        assert np.sum(honest > threshold(honest, target)) == accused
    assert threshold(np.zeros(10), 0.1) == 0  # of ties none is accused


def test_what_cannot_be_padded_is_refused():
    random = np.random.default_rng(0)
    for attack, trace, extra, material, field in (
        ("none of these", TRACE, 3, MATERIAL, "attack"),
        ("random", TRACE, -1, MATERIAL, "extra"),
        ("random", TRACE[:3], 3, MATERIAL, "block"),
        ("same_topic", TRACE, 30, MATERIAL, "material"),
    ):
        with pytest.raises(InvalidConfig, match=field):
            pad(attack, random, trace, extra, material)
    with pytest.raises(InvalidConfig, match="false_alarms"):
        threshold(np.zeros(3), 0.0)
