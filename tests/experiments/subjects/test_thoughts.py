"""Thoughts that add up, the texts made of them, the policy gradient against enumeration, sampling against the scored text."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.merging.length_control import cut, reinforce
from experiments.subjects.thoughts import LEXICON, Sums, draw_thoughts, judge_text, think_through, written
from lexinv.nn.language_model import initialize

TASK = Sums()
DRAWN = jax.jit(partial(draw_thoughts, task=TASK, rows=200))(jax.random.key(0))
ONE = jax.tree.map(lambda leaf: leaf[0], DRAWN)


def test_thoughts_add_up_and_their_fillers_say_nothing():
    for numbers, steps, filler, answer in zip(*map(np.asarray, DRAWN), strict=True):
        assert filler.sum() == TASK.fillers and len(steps) == TASK.fillers + TASK.numbers
        assert set(steps[filler][:, 0]) == {TASK.filler}
        assert steps[~filler][:, 0].tolist() == numbers.tolist()
        assert steps[~filler][:, 1].tolist() == (np.cumsum(numbers) % TASK.modulus).tolist()
        assert answer == numbers.sum() % TASK.modulus
    # Each place is as often a filler as any other: four standard deviations.
    np.testing.assert_allclose(np.asarray(DRAWN.filler).mean(0), 0.5, atol=4 * np.sqrt(0.25 / 200))


def test_thoughts_are_those_of_their_key_under_every_implementation():
    """Under `vmap` rbg keys would give every row the draws of the first."""
    found = jax.jit(partial(draw_thoughts, task=TASK, rows=200))(jax.random.key(0, impl="rbg"))
    for drawn, expected in zip(found, DRAWN, strict=True):
        np.testing.assert_array_equal(drawn, expected)


def test_a_cut_thought_is_the_written_one_padded():
    keep = jnp.zeros(8, bool).at[jnp.array([0, 2, 5])].set(True)
    text, weights = cut(ONE, keep, TASK)
    steps = np.asarray(ONE.steps)[[0, 2, 5]].reshape(-1).tolist()
    expected = [*ONE.numbers.tolist(), TASK.think, *steps, TASK.answer, int(ONE.answer)]
    assert written(ONE, jnp.array([0, 2, 5]), TASK).tolist() == expected
    assert len(expected) == TASK.length(3) and len(text) == TASK.whole and text[: len(expected)].tolist() == expected
    assert np.flatnonzero(weights).tolist() == list(range(TASK.numbers + 1, len(expected)))
    right, length = judge_text(text[None], ONE.answer[None], TASK)
    assert (right.item(), length.item()) == (1, 6)


def test_the_policy_gradient_is_that_of_the_expected_reward():
    """One token, one problem: every pair of draws, by its probability, gives the gradient of -E[reward]."""
    logits, reward = jnp.array([0.3, -0.5, 1.0]), jnp.array([1.0, 0.2, -0.7])
    pairs = jnp.stack(jnp.divmod(jnp.arange(9), 3), axis=1)

    def surrogate(logits, pair):
        losses = -jax.nn.log_softmax(logits)[pair]
        return reinforce(losses[None, :, None], jnp.ones((1, 2, 1)), reward[pair][None])

    gradients = jax.vmap(jax.grad(surrogate), in_axes=(None, 0))(logits, pairs)
    found = jnp.sum(jnp.prod(jax.nn.softmax(logits)[pairs], axis=1)[:, None] * gradients, axis=0)
    expected = jax.grad(lambda logits: -jnp.sum(jax.nn.softmax(logits) * reward))(logits)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.fixture(scope="module")
def spoken():
    """A small task, a model that nobody has trained, and 4000 texts drawn from it about one problem."""
    task = Sums(modulus=2, numbers=2, fillers=1, depth=1, width=8)
    params = jax.jit(partial(initialize, task.model(), LEXICON, task.vocab))(jax.random.key(3))
    numbers = jnp.broadcast_to(jnp.array([[1, 0]]), (4000, 2))
    keys = jax.random.split(jax.random.key(4), len(numbers))
    return task, params, think_through(task, params, numbers, keys, temperature=1.0)


def test_texts_are_drawn_as_often_as_they_are_likely(spoken):
    """What the scoring of whole texts says of their first two drawn tokens, against how often they came."""
    task, params, texts = spoken
    assert (texts[:, :3] == jnp.array([[1, 0, task.think]])).all()
    pairs = jnp.stack(jnp.divmod(jnp.arange(task.vocab**2), task.vocab), axis=1)
    scored = jnp.concatenate([jnp.broadcast_to(texts[:1, :3], (len(pairs), 3)), pairs], axis=1)
    chance = np.exp(-np.asarray(jax.jit(task.losses())(params, scored)[:, 3:].sum(1)))
    assert chance.sum() == pytest.approx(1, abs=1e-4)
    often = np.bincount(np.asarray(texts[:, 3] * task.vocab + texts[:, 4]), minlength=len(pairs)) / len(texts)
    assert (np.abs(often - chance) <= 4 * np.sqrt(chance * (1 - chance) / len(texts)) + 1e-3).all()
