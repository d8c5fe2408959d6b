"""Symbol tasks: items are what they promise, perfect and guessing solvers score what they must."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.lexinvariance.in_context import Separators, chance, lookup_items, permutation_items, score

VOCAB, MARKS = 30, Separators(28, 29)
SYMBOLS = jnp.arange(1, 27)


def lookups(pairs=4, count=60, seed=0):
    return lookup_items(jax.random.key(seed), SYMBOLS, MARKS, VOCAB, pairs=pairs, count=count)


def permuted(length=3, demonstrations=4, count=60):
    return permutation_items(
        jax.random.key(1), SYMBOLS, MARKS, VOCAB, length=length, demonstrations=demonstrations, count=count
    )


def test_lookup_items_ask_for_the_value_of_one_of_their_keys():
    items = lookups()
    tokens = np.asarray(items.tokens)
    assert tokens.shape == (60, 4 * 4 + 3)
    asked = set()
    for row in tokens:
        pairs = row[:16].reshape(4, 4)
        assert (pairs[:, 1] == MARKS.arrow).all() and (pairs[:, 3] == MARKS.end).all() and row[17] == MARKS.arrow
        shown = pairs[:, [0, 2]].reshape(-1)
        assert len(set(shown)) == 8 and set(shown) <= set(range(1, 27))
        place = pairs[:, 0].tolist().index(row[16])
        assert row[18] == pairs[place, 2]
        asked.add(place)
    assert asked == {0, 1, 2, 3}
    assert chance(items) == pytest.approx(1 / 8)


def test_permutation_items_apply_one_hidden_order_that_is_not_the_identity():
    items = permuted()
    tokens = np.asarray(items.tokens)
    assert tokens.shape == (60, 4 * 8 + 7)
    orders = set()
    for row in tokens:
        lines = np.append(row, MARKS.end).reshape(5, 8)
        assert (lines[:, 3] == MARKS.arrow).all() and (lines[:, 7] == MARKS.end).all()
        assert len(set(lines[:, :3].reshape(-1))) == 15
        found = {tuple(line[:3].tolist().index(symbol) for symbol in line[4:7]) for line in lines}
        assert len(found) == 1
        orders |= found
    assert orders == {(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}
    assert chance(items) == pytest.approx(1 / 15**3)


def test_a_perfect_solver_scores_one_and_a_constant_one_next_to_nothing():
    items = permuted()
    perfect = jax.nn.one_hot(items.tokens, VOCAB)
    for scoring in score(perfect, items):
        assert scoring.shape == (60, 3)
        assert bool(scoring.all())
    # Whoever always says the arrow is never right; among the prompt's symbols the arrow is no answer.
    mark = jnp.zeros_like(perfect).at[..., MARKS.arrow].set(5.0).at[..., 1].set(1.0)
    judged = score(mark, items)
    assert not judged.whole.any()
    first = np.asarray(items.tokens[:, -3:] == 1)
    shown = np.asarray((items.tokens[:, :-3] == 1).any(axis=1))
    assert (np.asarray(judged.prompt)[shown] == first[shown]).all()


def test_random_guesses_among_the_prompt_come_to_chance():
    items = lookups()
    guesses = jax.random.normal(jax.random.key(3), (60, *items.tokens.shape, VOCAB))
    judged = jax.vmap(lambda guess: score(guess, items))(guesses)
    assert float(jnp.mean(judged.prompt)) == pytest.approx(chance(items), abs=0.03)
    assert float(jnp.mean(judged.whole)) == pytest.approx(1 / VOCAB, abs=0.015)
