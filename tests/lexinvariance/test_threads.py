"""Symbolic haystacks: parsed again and chased they give their own answers; shapes do not change what is asked; scoring by threads."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lexinv.lexinvariance.threads import DIRECTIONS, Limits, answered, draw_setting, evaluate, sample_items, setting
from lexinv.validation import InvalidConfig

LIMITS = Limits(symbols=40, pairs=16, threads=4, length=4)
SAMPLE = jax.jit(sample_items, static_argnums=1)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def oracle(tokens, pairs):
    """The values that follow each question of one item, by a dictionary and a loop; and the parsed pairs and questions."""
    tokens = tokens[tokens >= 0].tolist()
    haystack = [tokens[3 * i : 3 * i + 3] for i in range(pairs)]
    assert all(mark == LIMITS.arrow for _, mark, _ in haystack)
    values = {key: value for key, _, value in haystack}
    assert len(values) == pairs
    expected, rest = [], tokens[3 * pairs :]
    while rest:
        key, mark, chain = rest[0], rest[1], []
        while key in values:
            key = values[key]
            chain.append(key)
        expected.append(chain if mark == LIMITS.arrow else chain[-1:])
        rest = rest[1 + 2 * len(expected[-1]) :]
    return values, expected


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(4, 16),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(DIRECTIONS),
    st.booleans(),
)
def test_items_are_chased_to_their_answers(seed, pairs, threads, length, direction, direct):
    threads = min(threads, pairs // length)
    asked = setting(LIMITS, pairs=pairs, threads=threads, length=length, direction=direction, direct=direct)
    items = jax.device_get(SAMPLE(keys(5, seed), LIMITS, asked))
    assert items.tokens.shape == (5, LIMITS.time)
    for tokens, thread, positions in zip(*items, strict=True):
        values, expected = oracle(tokens, pairs)
        assert [tokens[thread == i].tolist() for i in range(threads)] == expected
        assert sum(map(len, expected)) == (thread >= 0).sum()
        assert all(len(chain) == (1 if direct else length) for chain in expected)
        # No link but along the threads, no value twice, no token that is a mark.
        assert sum(value in values for value in values.values()) == threads * (length - 1)
        assert len(set(values.values())) == pairs
        assert max(*values, *values.values()) < LIMITS.symbols
        order = list(values)
        assert (positions[threads:] == -1).all() and (positions[:, length:] == -1).all()
        chosen = positions[:threads, :length]
        assert len(set(chosen.ravel().tolist())) == threads * length
        for links in chosen:
            assert all(values[order[a]] == order[b] for a, b in pairwise(links))
            steps = np.diff(links)
            assert direction == "random" or (steps > 0 if direction == "forward" else steps < 0).all()


def test_same_key_same_item_and_symbols_and_places_are_uniform():
    asked = setting(LIMITS, pairs=8, length=2)
    items = SAMPLE(keys(2000), LIMITS, asked)
    np.testing.assert_array_equal(items.tokens[:5], SAMPLE(keys(2000)[:5], LIMITS, asked).tokens)
    assert (items.tokens[0] != items.tokens[1]).any()
    first = np.bincount(np.asarray(items.tokens[:, 0]), minlength=40)
    assert len(first) == 40 and (abs(first - 50) < 35).all()
    places = np.bincount(np.asarray(items.positions[:, 0, 0]), minlength=8)
    assert (abs(places - 250) < 75).all()
    forward = np.asarray(items.positions[:, 0, 1] > items.positions[:, 0, 0]).mean()
    assert abs(forward - 0.5) < 0.05


def test_training_settings_stay_within_the_limits_and_reach_them():
    drawn = jax.device_get(jax.vmap(lambda key: draw_setting(key, LIMITS, 6))(keys(2000)))
    assert set(drawn.pairs) == set(range(6, 17))
    assert set(drawn.length) == set(drawn.threads) == {1, 2, 3, 4}
    assert set(drawn.direction) == {0, 1} and set(drawn.direct) == {False, True}
    assert (drawn.threads * drawn.length <= drawn.pairs).all()
    items = SAMPLE(keys(50), LIMITS, jax.tree.map(lambda field: jnp.asarray(field[:50]), drawn))
    for tokens, thread, pairs in zip(np.asarray(items.tokens), np.asarray(items.thread), drawn.pairs, strict=False):
        _, expected = oracle(tokens, int(pairs))
        assert [value for chain in expected for value in chain] == tokens[thread >= 0].tolist()


def items_and_logits():
    items = SAMPLE(keys(6), LIMITS, setting(LIMITS, pairs=12, threads=3, length=3))
    return items, jax.nn.one_hot(items.tokens, LIMITS.vocab)


def test_one_wrong_link_spoils_its_thread_and_no_other():
    items, logits = items_and_logits()
    assert answered(logits, items).tolist() == [[True, True, True, False]] * 6
    places = np.argwhere(np.asarray(items.thread) == 1)
    row, middle = places[1]
    spoilt = logits.at[row, middle].set(jax.nn.one_hot(LIMITS.arrow, LIMITS.vocab))
    expected = [[True, index != row, True, False] for index in range(6)]
    assert answered(spoilt, items).tolist() == expected
    in_haystack = logits.at[:, :36].set(0.0)
    assert bool((answered(in_haystack, items) == answered(logits, items)).all())


def test_nothing_is_cut_off():
    items, logits = items_and_logits()
    with pytest.raises(InvalidConfig, match="at most the model's 20 tokens"):
        evaluate(lambda tokens: logits, items, max_length=20)
    with pytest.raises(InvalidConfig, match="logits of all"):
        evaluate(lambda tokens: logits[:, -20:], items, max_length=1000)
    assert bool(evaluate(lambda tokens: logits, items, max_length=LIMITS.time)[:, :3].all())
