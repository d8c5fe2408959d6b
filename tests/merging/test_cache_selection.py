"""Votes and choices against loops, attention against that of the subsequence read alone, and how often a choice is kept."""

from dataclasses import replace
from functools import cache
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging import cache_selection as selection
from lexinv.merging.cache_selection import POLICIES, Selection, head_scores, head_votes, select, soft_votes, with_ends
from lexinv.merging.selective_cache import empty_selective_cache, make_read
from lexinv.nn.cache import empty_cache, unstacked
from lexinv.nn.language_model import BOS, LanguageModel, initialize
from lexinv.nn.lexicon import LexiconConfig, embed
from lexinv.nn.positions import rotate
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

HEADS, KEY_HEADS, DIM, SLOTS = 4, 2, 8, 40
GROUP = HEADS // KEY_HEADS
SOFT = Selection(k=6, first=3, local=5, block=4)
CONFIG = TransformerConfig(depth=2, width=32, heads=HEADS, key_heads=KEY_HEADS, mlp_width=32, max_length=64, unroll=2)
ROOM = 32
VALID = (np.arange(SLOTS) >= 3) & (np.arange(SLOTS) < 33)


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    queries, (keys, values) = 3 * rng.normal(size=(HEADS, DIM)), rng.normal(size=(2, KEY_HEADS, SLOTS, DIM))
    return [jnp.asarray(x, jnp.float32) for x in (queries, keys, values)]


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def by_loops(policy, queries, keys):
    """Votes of each policy [sets][slots] for the valid slots, head by head and slot by slot."""
    there = np.flatnonzero(VALID)
    blocks = [[j for j in there if j // SOFT.block == b] for b in {j // SOFT.block for j in there}]
    shares, raw, hard, bounds = np.zeros((HEADS, SLOTS)), np.zeros(SLOTS), np.zeros(SLOTS), np.zeros(SLOTS)
    for h, q in enumerate(queries / np.sqrt(DIM)):
        own = keys[h // GROUP]
        scores = np.array([q @ own[j] for j in there])
        shares[h, there], raw[there] = softmax(scores), raw[there] + scores
        hard[there[np.argsort(-scores)[: SOFT.k]]] += 1
        highest = [
            sum(max(x * low, x * high) for x, low, high in zip(q, own[b].min(0), own[b].max(0), strict=True))
            for b in blocks
        ]
        for members, share in zip(blocks, softmax(np.array(highest)), strict=True):
            bounds[members] += share
    soft, mean = shares.sum(0), np.zeros(SLOTS)
    for members in blocks:
        mean[members] = soft[members].mean()
    single = {"soft": soft, "hard": hard, "raw_sum": raw, "block_mean": mean, "block_bounds": bounds}
    return shares if policy == "per_head" else [single.get(policy, np.arange(SLOTS))]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_votes_as_loops_do(policy):
    queries, keys, _ = drawn()
    votes = POLICIES[policy](queries, keys, jnp.asarray(VALID), SOFT)
    expected = np.array(by_loops(policy, np.asarray(queries), np.asarray(keys)))
    np.testing.assert_allclose(np.asarray(votes)[:, VALID], expected[:, VALID], rtol=2e-4, atol=1e-6)


def test_soft_votes_sum_to_the_heads_and_do_not_move_with_a_constant_of_a_head():
    queries, keys, _ = drawn()
    valid = jnp.asarray(VALID)
    np.testing.assert_allclose(soft_votes(queries, keys, valid).sum(), HEADS, rtol=1e-5)
    assert np.all(np.asarray(soft_votes(queries, keys, valid))[~VALID] == 0)
    moved = keys.at[0].add(6.0 * (queries[0] / jnp.sum(queries[0] ** 2))[None])  # as much for each of a head's scores
    assert np.abs(head_scores(queries, moved)[0] - head_scores(queries, keys)[0]).min() > 0.5
    np.testing.assert_allclose(head_votes(queries, moved, valid)[0], head_votes(queries, keys, valid)[0], rtol=1e-4)


def test_a_key_in_the_second_head_of_keys_is_found_by_the_second_half_of_the_queries():
    """h mod Hkv would have the query heads 1 and 3 find it."""
    queries, keys, _ = drawn()
    queries = jnp.stack([queries[0]] * HEADS)
    votes = head_votes(queries, (0.1 * keys).at[1, 17].set(queries[0]), jnp.ones(SLOTS, bool))
    assert np.all(votes[GROUP:, 17] > 0.5) and np.all(votes[:GROUP, 17] < 0.2)


def test_what_one_head_selects_keeps_more_attention_than_any_other_set():
    queries, keys, _ = drawn()
    shares = softmax(np.asarray(queries[0] @ keys[0, :12].T) / np.sqrt(DIM))
    idx = select(soft_votes(queries[:1], keys[:1, :12], jnp.ones(12, bool)), 3, 0, 0, 12)
    assert tuple(np.asarray(idx)) == max(combinations(range(12), 3), key=lambda some: shares[list(some)].sum())


def test_selected_slots_ascend_between_the_ends_and_are_padded_where_there_are_fewer():
    votes = jax.random.uniform(jax.random.key(0), (SLOTS,))
    assert list(select(votes, 6, 3, 5, 30)) == sorted(np.argsort(-np.asarray(votes)[3:25])[:6] + 3)
    few = jax.jit(lambda length: select(votes, 6, 3, 5, length))(10)
    assert list(few) == [3, 4, *[SLOTS] * 4]
    kept = with_ends(few[None], 3, 5, 10, SLOTS)
    there = np.asarray(kept.there)[0]
    assert list(np.asarray(kept.slots)[0][there]) == list(np.asarray(kept.ranks)[there]) == list(range(10))


def turn(x, positions):
    return rotate(x[:, :, None], positions=positions)[:, :, 0]


@pytest.mark.parametrize("sets", [1, HEADS])
def test_compact_positions_are_those_of_the_subsequence_read_from_its_beginning(sets):
    _, keys, values = drawn()
    length, group = 30, drawn(1)[0][None] * jnp.array([1.0, -1.0, 2.0])[:, None, None]
    idx = np.array([[4, 9, 11, 12, 20, 24], [5, 6, 7, 13, 14, 15]] * 2)[:sets]
    kept = with_ends(jnp.asarray(idx), 3, 5, length, SLOTS)
    out = selection.attend_selected(group, keys, values, kept, length - 3, length, turn)
    for h in range(HEADS):
        places = np.array([0, 1, 2, *idx[min(h, sets - 1)], *range(25, 30)])
        turned = turn(keys[h // GROUP, places][None], jnp.arange(14)[None])[0]
        asked = turn(group[:, h][None], jnp.arange(11, 14)[None])[0]
        for i, seen in enumerate((12, 13, 14)):
            weights = softmax(np.asarray(turned[:seen] @ asked[i]) / np.sqrt(DIM))
            expected = weights @ np.asarray(values[h // GROUP, places[:seen]])
            np.testing.assert_allclose(out[i, h], expected, rtol=1e-4, atol=1e-5)


@cache
def world():
    stacked = initialize(CONFIG, LexiconConfig(), 11, jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, ROOM)).at[0].set(BOS)
    vectors = embed(stacked["table"], tokens[None])
    whole = LanguageModel(CONFIG).apply({"params": stacked["model"]}, tokens[None], vectors, method="features")[0][0]
    return unstacked(stacked), tokens, vectors[0], whole


def read(how, chunk=1, pieces=(ROOM,), count=None, last=None):
    params, tokens, vectors, _ = world()
    vectors = vectors if last is None else vectors.at[-1].set(last)
    memory, found = empty_selective_cache(CONFIG, how, ROOM), []
    for a, b in zip(np.cumsum([0, *pieces]), np.cumsum(pieces), strict=False):
        features, memory = make_read(CONFIG, how, chunk)(params, memory, vectors[a:b], tokens[a:b], count or int(b - a))
        found.append(features)
    return np.concatenate(found), memory


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_selection_of_everything_is_full_attention(chunk):
    whole = world()[3]
    np.testing.assert_allclose(read(replace(SOFT, k=ROOM - 8), chunk)[0], whole, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(read(replace(SOFT, policy="full"), chunk)[0], whole, rtol=1e-3, atol=1e-4)
    assert np.abs(read(SOFT, chunk)[0] - whole).max() > 0.01


def test_pieces_padding_and_later_tokens_change_no_output():
    once, memory = read(SOFT, 4)
    np.testing.assert_allclose(read(SOFT, 4, pieces=(16, 16))[0], once, rtol=1e-4, atol=1e-5)
    padded, shorter = read(SOFT, 4, count=18)
    np.testing.assert_allclose(padded[:16], once[:16], rtol=1e-4, atol=1e-5)
    assert int(shorter.length) == 18 and [int(m.layers[0].steps) for m in (shorter, memory)] == [5, 8]
    np.testing.assert_array_equal(read(SOFT, last=1.0)[0][:-1], read(SOFT)[0][:-1])


def test_theta_decides_how_often_is_chosen():
    often, never, some = (read(replace(SOFT, theta=theta))[1] for theta in (2.0, -1.0, 0.3))
    assert [[int(m.choices) for m in memory.layers] for memory in (often, never)] == [[ROOM] * 2, [1] * 2]
    assert float(often.reused) == 0 < float(some.reused) < float(never.reused) == pytest.approx(1 - 1 / ROOM)
    assert selection.bytes_read(100, 10, 2, 4) == (6400, 3840) and selection.bytes_read(100, 10, 2, 4, 1.0)[1] == 640


def test_bad_input_is_named():
    queries, keys, _ = drawn()
    params, tokens, vectors, _ = world()
    for field, call in {
        "queries": lambda: head_scores(queries[:3], keys),
        "k": lambda: select(jnp.zeros(SLOTS), 6, 3, 5, 13),
        "first + local": lambda: empty_selective_cache(CONFIG, replace(SOFT, first=30), ROOM),
        "slots": lambda: empty_selective_cache(CONFIG, SOFT, 65),
        "cache": lambda: make_read(CONFIG, SOFT)(params, empty_cache(CONFIG, 1, ROOM), vectors, tokens, 1),
        "chunk": lambda: make_read(CONFIG, SOFT, 6),
        "model.positions": lambda: make_read(replace(CONFIG, positions="learned"), SOFT),
        "model.window": lambda: make_read(replace(CONFIG, window=4), SOFT),
        "policy": lambda: Selection("softest"),
    }.items():
        with pytest.raises(InvalidConfig) as error:
            call()
        assert error.value.field == field
