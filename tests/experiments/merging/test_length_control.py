"""Claim C14 on made-up frontiers; the policy gradient against enumeration, sampling against the scored text, cut thoughts."""

import copy
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.style import panels
from experiments.harness.workspace import Workspace
from experiments.merging.beyond_efficiency import PRESETS
from experiments.merging.length_control import (
    LengthControlConfig,
    at_length,
    cut,
    draw,
    fewer_fillers,
    judge,
    measure,
    random_steps,
    reinforce,
    sampled,
)
from experiments.merging.overthinking import OverthinkingConfig, draw_thought, judge_text, written
from lexinv.nn.language_model import initialize, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.validation import InvalidConfig

TASK = OverthinkingConfig(modulus=2, numbers=2, fillers=1, depth=1, width=8)


def made_up() -> dict:
    points = {
        "start": (0.9, 12),
        "penalty 0": (0.95, 12),
        "penalty 0.5": (0.9, 6),
        "kept 2": (0.2, 4),
        "kept 4": (0.5, 8),
        "kept 6": (0.9, 12),
    }
    arms = {
        arm: {"right": [right, right + 0.01, right + 0.03], "tokens": [tokens, tokens + 0.1, tokens + 0.2]}
        for arm, (right, tokens) in points.items()
    }
    groups = {"reinforce": ["penalty 0", "penalty 0.5"], "truncation": ["start", "kept 2", "kept 4", "kept 6"]}
    return {"chance": 0.2, "judged": "penalty 0.5", "groups": groups, "arms_by_name": arms}


def test_the_claim_holds_on_a_frontier_that_dominates():
    (claim,) = judge(made_up())
    assert claim.holds is True and claim.statement.startswith("C14:")
    # Half way between 2 and 4 steps kept truncation gives 0.35.
    assert claim.measured["gain over truncation"].mean == pytest.approx(0.55)
    assert claim.measured["tokens saved"].mean == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "arm, part, values, holds",
    [
        ("penalty 0.5", "right", [0.2, 0.21, 0.22], False),
        ("penalty 0.5", "right", [0.2, 0.6, 0.4], None),
        ("penalty 0.5", "tokens", [13.0, 13.1, 13.2], False),
        ("kept 2", "tokens", [6.0, 6.1, 6.2], True),
        ("start", "tokens", [6.0, 6.1, 6.2], False),
    ],
)
def test_one_arm_changes_the_verdict(arm, part, values, holds):
    measured = made_up()
    measured["arms_by_name"][arm][part] = values
    (claim,) = judge(measured)
    assert claim.holds is holds


def test_one_seed_cannot_tell():
    measured = made_up()
    for found in measured["arms_by_name"].values():
        found.update({part: values[:1] for part, values in found.items()})
    assert judge(measured)[0].holds is None


def test_frontiers_are_straight_between_points_and_level_beyond():
    points = [(8.0, 0.5), (4.0, 0.1), (8.0, 0.3)]
    assert [at_length(tokens, points) for tokens in (0, 4, 6, 8, 20)] == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])


def test_the_policy_gradient_is_that_of_the_expected_reward():
    # One token, one problem: every pair of draws, by its probability, gives the gradient of -E[reward].
    logits, reward = jnp.array([0.3, -0.5, 1.0]), jnp.array([1.0, 0.2, -0.7])
    first, second = jnp.divmod(jnp.arange(9), 3)
    pairs = jnp.stack([first, second], axis=1)

    def surrogate(logits, pair):
        losses = -jax.nn.log_softmax(logits)[pair]
        return reinforce(losses[None, :, None], jnp.ones((1, 2, 1)), reward[pair][None])

    gradients = jax.vmap(jax.grad(surrogate), in_axes=(None, 0))(logits, pairs)
    chance = jnp.prod(jax.nn.softmax(logits)[pairs], axis=1)
    found = jnp.sum(chance[:, None] * gradients, axis=0)
    expected = jax.grad(lambda logits: -jnp.sum(jax.nn.softmax(logits) * reward))(logits)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.1


def test_tokens_after_the_answer_have_no_part():
    losses, reward = jnp.arange(12.0).reshape(1, 2, 6), jnp.array([[1.0, 0.0]])
    weights = jnp.zeros((1, 2, 6)).at[:, :, 1:3].set(1.0)
    gradient = jax.grad(reinforce)(losses, weights, reward)
    np.testing.assert_allclose(gradient, jnp.array([[[0.5], [-0.5]]]) * weights)


def test_texts_are_drawn_as_often_as_they_are_likely():
    # What the scoring of whole texts says of their first two drawn tokens, against how often they came.
    lexicon, count = LexiconConfig(), 4000
    params = initialize(TASK.model(), lexicon, TASK.vocab, jax.random.key(3))
    numbers = jnp.broadcast_to(jnp.array([[1, 0]]), (count, 2))
    texts = jax.jit(partial(sampled, TASK))(params, numbers, jax.random.key(4))
    assert (texts[:, :3] == jnp.array([[1, 0, TASK.think]])).all()
    pairs = jnp.stack(jnp.divmod(jnp.arange(TASK.vocab**2), TASK.vocab), axis=1)
    scored = jnp.concatenate([jnp.broadcast_to(texts[:1, :3], (len(pairs), 3)), pairs], axis=1)
    nll = jax.jit(make_nll(TASK.model(), lexicon, TASK.vocab))
    losses = nll(params, {"tokens": scored, "row": jnp.arange(len(pairs))}, jax.random.key(0))
    chance = np.exp(-np.asarray(losses[:, 3:].sum(1)))
    assert chance.sum() == pytest.approx(1, abs=1e-4)
    often = np.bincount(np.asarray(texts[:, 3] * TASK.vocab + texts[:, 4]), minlength=len(pairs)) / count
    assert (np.abs(often - chance) <= 4 * np.sqrt(chance * (1 - chance) / count) + 1e-3).all()


def test_a_cut_thought_is_the_written_one_padded():
    config = OverthinkingConfig()
    thought = draw_thought(jax.random.key(1), config)
    keep = jnp.zeros(len(thought.filler), bool).at[jnp.array([0, 2, 5])].set(True)
    text, weights = cut(thought, keep, config)
    expected = written(thought, jnp.array([0, 2, 5]), config)
    assert len(text) == config.whole and text[: len(expected)].tolist() == expected.tolist()
    learned = np.arange(len(text))[np.asarray(weights) == 1].tolist()
    assert learned == list(range(config.numbers + 1, len(expected)))
    right, length = judge_text(text[None], thought.answer[None], config)
    assert (right.item(), length.item()) == (1, 6)
    whole, weights = cut(thought, jnp.ones(len(keep), bool), config)
    assert whole.tolist() == written(thought, jnp.arange(len(keep)), config).tolist()
    assert weights.sum() == config.whole - config.numbers - 1


def test_steps_are_cut_at_random_and_fillers_with_their_probability():
    config = OverthinkingConfig()
    keys = jax.random.split(jax.random.key(2), 500)
    thoughts = jax.vmap(partial(draw_thought, config=config))(keys)
    keep = jax.vmap(random_steps, in_axes=(0, None, 0))(thoughts, jnp.array(2.0), keys)
    assert (keep.sum(1) == 2).all()
    np.testing.assert_allclose(keep.mean(0), 0.25, atol=0.1)
    keep = jax.vmap(fewer_fillers, in_axes=(0, None, 0))(thoughts, jnp.array(0.2), jax.random.split(keys[0], 500))
    assert keep[~thoughts.filler].all()
    assert keep[thoughts.filler].mean() == pytest.approx(0.8, abs=0.04)


def test_measures_every_arm_at_a_tiny_size(tmp_path):
    measured = measure(PRESETS["smoke"].length_control, (0, 1), Workspace(tmp_path, "", progress=False))
    assert set(measured["arms_by_name"]) == {"start", "penalty 0.5", "kept 1", "kept 3"}
    for found in measured["arms_by_name"].values():
        assert len(found["right"]) == len(found["tokens"]) == 2
        assert all(0 <= right <= 1 for right in found["right"])
    assert len(judge(measured)) == 1


def test_draws_one_panel():
    _, (axes,) = panels()
    measured = made_up()
    before = copy.deepcopy(measured)
    draw(measured, axes)
    assert len(axes.get_legend().get_texts()) == 4 and measured == before


@pytest.mark.parametrize(
    "change",
    [
        {"penalties": (0.5, 0.5)},
        {"penalties": (-0.5, 0.5)},
        {"penalties": ()},
        {"judged": 0.0},
        {"judged": 0.3},
        {"kept": (4,)},
        {"kept": (4, 8)},
        {"left_out": 0.0},
        {"samples": 1},
        {"samples": 5},
        {"steps": 30},
    ],
)
def test_impossible_configurations_are_refused(change):
    with pytest.raises(InvalidConfig) as error:
        replace(LengthControlConfig(), **change)
    assert error.value.field == f"length_control.{next(iter(change))}"
