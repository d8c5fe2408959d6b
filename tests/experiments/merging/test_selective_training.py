"""Claim C3 on made-up courses of training; noise that can be told from text."""

import copy
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.style import panels
from experiments.merging.selective_training import (
    ARMS,
    FIRST,
    SECOND,
    WINDOW,
    SelectiveConfig,
    draw,
    judge,
    languages,
    noisy_text,
    savings,
    steps_to_target,
    summarise,
)
from lexinv.validation import InvalidConfig

POINTS, SEEDS = 40, 3


def course(rate: float, spread: float) -> dict:
    """A clean loss that falls from 3 to 1 at a rate of its own, a little different by seed."""
    steps = np.arange(POINTS)[None] * (1 + 0.02 * np.arange(SEEDS)[:, None])
    clean = 1 + 2 * np.exp(-rate * steps)
    norms = (spread + 0.001 * np.arange(SEEDS)).tolist()
    return {"clean": clean.tolist(), "final": clean[:, -1].tolist(), "purity": [0.8] * SEEDS, "norm_spread": norms}


def made_up() -> dict:
    fast, slow = course(0.2, 0.1), course(0.05, 0.2)
    courses = {"all": slow, "random": copy.deepcopy(slow), "excess": fast, "excess_noisy": fast, "oracle": fast}
    return {"rate": 0.6, "steps": 420, "courses": copy.deepcopy(courses)}


def verdicts(measured: dict) -> dict:
    return {claim.name: claim.holds for claim in judge(measured)}


def test_all_claims_hold_on_courses_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True} and len(verdicts(made_up())) == 3


@pytest.mark.parametrize(
    "arm, values, refuted",
    [
        ("excess", course(0.05, 0.1), {"selective_loss_learns_faster"}),
        ("excess", course(0.2, 0.3), {"selective_loss_steadies_gradient"}),
        ("excess_noisy", course(0.04, 0.1), {"selective_loss_without_clean_text"}),
        ("random", course(0.2, 0.2), {"selective_loss_learns_faster", "selective_loss_without_clean_text"}),
        ("random", course(0.05, 0.05), {"selective_loss_steadies_gradient"}),
        ("oracle", course(0.01, 0.9), set()),
    ],
)
def test_one_arm_is_enough_to_refute(arm, values, refuted):
    measured = made_up()
    measured["courses"][arm] = values
    assert {name for name, holds in verdicts(measured).items() if holds is False} == refuted


def test_one_seed_cannot_tell():
    measured = made_up()
    measured["courses"] = {arm: {k: v[:1] for k, v in found.items()} for arm, found in measured["courses"].items()}
    assert set(verdicts(measured).values()) == {None}


def test_savings_are_shares_of_the_steps_of_learning_from_all():
    clean = np.tile(np.linspace(3, 1, 21), (2, 1))
    arms = {
        "all": {"clean": clean.tolist()},
        "excess": {"clean": np.minimum(clean, 1.0).tolist()},
        "random": {"clean": (clean + 1).tolist()},
    }
    assert steps_to_target(arms["all"], np.array([2.0, 1.0])).tolist() == [
        WINDOW + 10 * WINDOW // 2,
        WINDOW + 20 * WINDOW // 2,
    ]
    saved = savings({"courses": arms})
    np.testing.assert_allclose(saved["all"], 0)
    np.testing.assert_allclose(saved["excess"], 1 - WINDOW / (11 * WINDOW))
    np.testing.assert_allclose(saved["random"], 0)  # never there: all steps


def test_courses_are_averaged_over_a_window():
    steps = np.arange(2 * WINDOW, dtype=float)
    norms = np.where(np.arange(2 * WINDOW) % 2, 1.0, 3.0)
    found = summarise({"clean": steps[None], "gradient_norm": norms[None], "purity": np.full((1, 2 * WINDOW), 0.7)})
    np.testing.assert_allclose(found["clean"][0], [(WINDOW - 1) / 2 + i * WINDOW // 2 for i in range(3)])
    assert found["norm_spread"] == [0.5] and found["purity"] == [0.7]


def test_noise_is_told_from_text_and_the_language_goes_on_behind_it():
    """In a language that counts, the clean tokens of a noisy text count on."""
    config = SelectiveConfig(symbols=8, length=64, batch_size=50)
    counting = jnp.roll(jnp.eye(8), 1, axis=1)
    text = jax.jit(partial(noisy_text, config=config))
    tokens, clean = map(np.asarray, text(jax.random.key(0), counting, noise=jnp.float32(0.3)))
    assert abs(clean.mean() - 0.7) < 4 * np.sqrt(0.21 / clean.size)
    for row, there in zip(tokens, clean, strict=True):
        assert set(np.diff(row[there]) % 8) == {1}
    assert np.unique(tokens[~clean]).size == 8
    assert text(jax.random.key(0), counting, noise=jnp.float32(0.0))[1].all()


def test_languages_are_kernels_of_their_seeds():
    found = np.asarray(languages(6, 0.1, (3, 4)))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found[0], languages(6, 0.1, (3,))[0])
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_both_halves_of_the_arms_give_one_program():
    assert len(FIRST) == len(SECOND) and {*ARMS, "reference"} == {*FIRST, *SECOND}


def test_draws_one_panel():
    _, (axes,) = panels()
    draw(made_up(), axes)
    assert len(axes.get_legend().get_texts()) == len(ARMS)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"symbols": 1}, "symbols"),
        ({"noise": 0.0}, "noise"),
        ({"rate": 1.0}, "rate"),
        ({"steps": 20}, "steps"),
        ({"steps": 410}, "steps"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SelectiveConfig(), **change)
    assert error.value.field == f"selective_training.{field}"
