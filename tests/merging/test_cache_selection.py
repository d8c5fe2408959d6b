"""Selection of cached tokens: votes and choices against loops, attention against that of the subsequence, and what is kept in decoding."""

from dataclasses import replace
from functools import cache
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.cache_selection import (
    POLICIES,
    Selection,
    attend_selected,
    bytes_read,
    empty_selective_cache,
    head_scores,
    head_votes,
    make_read,
    select,
    soft_votes,
    with_ends,
)
from lexinv.nn.cache import empty_cache, unstacked
from lexinv.nn.language_model import BOS, LanguageModel, initialize
from lexinv.nn.lexicon import LexiconConfig, embed
from lexinv.nn.positions import rotate
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

HEADS, KEY_HEADS, DIM, SLOTS = 4, 2, 8, 40
SELECTION = Selection(k=6, first=3, local=5, block=4)
CONFIG = TransformerConfig(depth=2, width=32, heads=HEADS, key_heads=KEY_HEADS, mlp_width=32, max_length=64, unroll=2)
ROOM = 32


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    queries = 3 * rng.normal(size=(HEADS, DIM)).astype(np.float32)
    keys, values = rng.normal(size=(2, KEY_HEADS, SLOTS, DIM)).astype(np.float32)
    return jnp.asarray(queries), jnp.asarray(keys), jnp.asarray(values)


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def by_loops(policy, queries, keys, valid, k, block):
    """Votes of each policy [sets][slots], head by head and slot by slot; of what is not valid nothing is said."""
    there = np.flatnonzero(valid)
    scores = np.array([[q @ keys[h // (HEADS // KEY_HEADS), j] for j in range(SLOTS)] for h, q in enumerate(queries)])
    scores /= np.sqrt(DIM)
    shares = np.zeros_like(scores)
    shares[:, there] = [softmax(row[there]) for row in scores]
    blocks = [[j for j in there if j // block == b] for b in range(SLOTS // block)]
    if policy == "soft":
        return [shares.sum(0)]
    if policy == "per head":
        return shares
    if policy == "raw sum":
        return [scores.sum(0)]
    if policy == "window":
        return [np.arange(SLOTS)]
    votes = np.zeros(SLOTS)
    if policy == "hard":
        for row in scores:
            votes[there[np.argsort(-row[there])[:k]]] += 1
    elif policy == "block mean":
        for members in filter(None, blocks):
            votes[members] = shares.sum(0)[members].mean()
    else:
        filled = [members for members in blocks if members]
        for h, q in enumerate(queries):
            own = keys[h // (HEADS // KEY_HEADS)]
            bounds = [
                np.maximum(q * own[members].min(0), q * own[members].max(0)).sum() / np.sqrt(DIM) for members in filled
            ]
            for members, share in zip(filled, softmax(np.array(bounds)), strict=True):
                votes[members] += share
    return [votes]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_votes_as_loops_do(policy):
    queries, keys, _ = drawn()
    valid = (np.arange(SLOTS) >= 3) & (np.arange(SLOTS) < 33)
    votes = POLICIES[policy](queries, keys, jnp.asarray(valid), SELECTION)
    expected = by_loops(policy, np.asarray(queries), np.asarray(keys), valid, SELECTION.k, SELECTION.block)
    np.testing.assert_allclose(np.asarray(votes)[:, valid], np.array(expected)[:, valid], rtol=2e-4, atol=1e-6)


def test_soft_votes_sum_to_the_heads_and_do_not_move_with_a_constant_of_a_head():
    queries, keys, _ = drawn()
    valid = jnp.arange(SLOTS) < 30
    votes = soft_votes(queries, keys, valid)
    np.testing.assert_allclose(votes.sum(), HEADS, rtol=1e-5)
    assert np.all(votes[30:] == 0)
    # A key moved along the query by as much for all slots adds a constant to the head's scores.
    moved = keys.at[0].add(6.0 * (queries[0] / jnp.sum(queries[0] ** 2))[None])
    only_first = head_votes(queries, moved, valid)[0]
    np.testing.assert_allclose(only_first, head_votes(queries, keys, valid)[0], rtol=1e-4)
    assert np.abs(head_scores(queries, moved)[0] - head_scores(queries, keys)[0]).min() > 0.5


def test_a_key_planted_in_the_second_head_of_keys_is_found_by_its_own_heads_of_queries():
    queries, keys, _ = drawn()
    keys = (0.1 * keys).at[1, 17].set(queries[2])
    votes = head_votes(queries, keys, jnp.ones(SLOTS, bool))
    assert np.all(np.argmax(votes, axis=1)[[2]] == 17) and votes[2, 17] > 0.5 and np.all(votes[:2, 17] < 0.2)


def test_one_head_keeps_more_attention_than_any_other_set():
    queries, keys, _ = drawn()
    shares = softmax(np.asarray(queries[0] @ keys[0, :12].T) / np.sqrt(DIM))
    idx = select(soft_votes(queries[:1], keys[:1, :12], jnp.ones(12, bool)), 3, 0, 0, 12)
    best = max(combinations(range(12), 3), key=lambda some: shares[list(some)].sum())
    assert tuple(np.asarray(idx)) == best


def test_selected_are_ascending_between_the_ends_and_padded_where_there_are_fewer():
    votes = jax.random.uniform(jax.random.key(0), (SLOTS,))
    idx = np.asarray(select(votes, 6, 3, 5, 30))
    assert list(idx) == sorted(np.argsort(-np.asarray(votes)[3:25])[:6] + 3)
    few = np.asarray(jax.jit(lambda length: select(votes, 6, 3, 5, length))(10))
    assert list(few) == [3, 4, *[SLOTS] * 4]
    kept = with_ends(jnp.asarray(few)[None], 3, 5, 10, SLOTS)
    assert list(np.asarray(kept.slots)[0][np.asarray(kept.there)[0]]) == list(range(10)) and kept.total == 10
    assert list(np.asarray(kept.ranks)[np.asarray(kept.there)[0]]) == list(range(10))


def turn(x, positions):
    return rotate(x[:, :, None], positions=positions)[:, :, 0]


@pytest.mark.parametrize("sets", [1, HEADS])
def test_compact_positions_are_those_of_the_subsequence_read_from_its_beginning(sets):
    _, keys, values = drawn()
    length, group = 30, drawn(1)[0][None] * jnp.array([1.0, -1.0, 2.0])[:, None, None]
    idx = np.array([[4, 9, 11, 12, 20, 24], [5, 6, 7, 13, 14, 15]] * 2)[:sets]
    kept = with_ends(jnp.asarray(idx), 3, 5, length, SLOTS)
    out = attend_selected(group, keys, values, kept, length - 3, length, turn)
    for h in range(HEADS):
        places = np.array([0, 1, 2, *idx[min(h, sets - 1)], *range(25, 30)])
        own = h // (HEADS // KEY_HEADS)
        turned = turn(keys[own, places][None], jnp.arange(14)[None])[0]
        asked = turn(group[:, h][None], jnp.arange(11, 14)[None])[0]
        for i in range(3):
            weights = softmax(np.asarray(turned[: 12 + i] @ asked[i]) / np.sqrt(DIM))
            expected = weights @ np.asarray(values[own, places[: 12 + i]])
            np.testing.assert_allclose(out[i, h], expected, rtol=1e-4, atol=1e-5)


@cache
def world():
    params = unstacked(initialize(CONFIG, LexiconConfig(), 11, jax.random.key(0)))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, ROOM)).at[0].set(BOS)
    return params, tokens, embed(params["table"], tokens[None])[0]


def read(selection, chunk=1, tokens=None, pieces=(ROOM,), count=None, config=CONFIG):
    params, known, _ = world()
    tokens = known if tokens is None else tokens
    vectors, found = embed(params["table"], tokens[None])[0], []
    memory, step = empty_selective_cache(config, selection, ROOM), make_read(config, selection, chunk)
    for a, b in zip(np.cumsum([0, *pieces]), np.cumsum(pieces), strict=False):
        features, memory = step(params, memory, vectors[a:b], tokens[a:b], count or int(b - a))
        found.append(features)
    return np.concatenate(found), memory


def whole():
    _, tokens, vectors = world()
    stacked = initialize(CONFIG, LexiconConfig(), 11, jax.random.key(0))
    return LanguageModel(CONFIG).apply({"params": stacked["model"]}, tokens[None], vectors[None], method="features")[0][
        0
    ]


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_selection_of_everything_is_full_attention(chunk):
    everything = replace(SELECTION, k=ROOM - 8)
    np.testing.assert_allclose(read(everything, chunk)[0], whole(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(read(Selection("full"), 4)[0], whole(), rtol=1e-3, atol=1e-4)
    assert np.abs(read(SELECTION, chunk)[0] - whole()).max() > 0.01


def test_pieces_and_padding_change_nothing_and_later_tokens_no_earlier_output():
    once, memory = read(SELECTION, 4)
    np.testing.assert_allclose(read(SELECTION, 4, pieces=(12, 20))[0], once, rtol=1e-4, atol=1e-5)
    padded, shorter = read(SELECTION, 4, count=18)
    np.testing.assert_allclose(padded[:16], once[:16], rtol=1e-4, atol=1e-5)
    assert int(shorter.length) == 18 and int(shorter.layers[0].steps) == 5 and int(memory.layers[0].steps) == 8
    changed = world()[1].at[30].set(3).at[31].set(4)
    other = read(replace(SELECTION), 1, tokens=changed)[0]
    np.testing.assert_array_equal(other[:30], read(SELECTION, 1)[0][:30])


def test_theta_decides_how_often_is_chosen():
    often, never = read(SELECTION)[1], read(replace(SELECTION, theta=-1.0))[1]
    assert [int(m.choices) for m in often.layers] == [ROOM] * 2 and float(often.reused) == 0
    assert [int(m.choices) for m in never.layers] == [1] * 2 and float(never.reused) == pytest.approx(1 - 1 / ROOM)
    some = float(read(replace(SELECTION, theta=0.3))[1].reused)
    assert 0 < some < 1 - 1 / ROOM
    assert bytes_read(100, 10, 2, 4) == (6400, 3840) and bytes_read(100, 10, 2, 4, reused=1.0)[1] == 640


def test_bad_input_is_named():
    queries, keys, _ = drawn()
    params, tokens, vectors = world()
    for field, call in {
        "queries": lambda: head_scores(queries[:3], keys),
        "k": lambda: select(jnp.zeros(SLOTS), 6, 3, 5, 13),
        "first + local": lambda: empty_selective_cache(CONFIG, replace(SELECTION, first=30), ROOM),
        "slots": lambda: empty_selective_cache(CONFIG, SELECTION, 65),
        "cache": lambda: make_read(CONFIG, SELECTION)(params, empty_cache(CONFIG, 1, ROOM), vectors, tokens, 1),
        "chunk": lambda: make_read(CONFIG, SELECTION, 6),
        "model.positions": lambda: make_read(replace(CONFIG, positions="learned"), SELECTION),
        "model.window": lambda: make_read(replace(CONFIG, window=4), SELECTION),
        "policy": lambda: Selection("softest"),
    }.items():
        with pytest.raises(InvalidConfig) as error:
            call()
        assert error.value.field == field
