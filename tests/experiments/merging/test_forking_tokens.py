"""Claim C5 on made-up courses of training; a language whose forks are where they should be."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.style import panels
from experiments.merging.forking_tokens import (
    ADAPTED,
    ARMS,
    SCRATCH,
    SETTINGS,
    ForkingConfig,
    draw,
    entropy_rates,
    judge,
    spelling,
    written,
)
from lexinv.validation import InvalidConfig

CONFIG = ForkingConfig()


def course(level: float) -> dict:
    last = level + 0.001 * np.arange(3)
    return {"nats": np.linspace(last + 1, last, 10).T.tolist(), "forks": [0.9, 0.91, 0.92]}


def made_up() -> dict:
    levels = {"all": 0.3, "top": 0.31, "bottom": 0.6, "random": 0.4}
    courses = {f"{setting} {arm}": course(level) for setting in SETTINGS for arm, level in levels.items()}
    return {"entropy_rate": [1.0, 1.0, 1.0], "letters": 5, "bin": 30, "courses": courses}


def verdicts(measured: dict) -> dict:
    return {claim.name: claim.holds for claim in judge(measured)}


def test_all_claims_hold_on_courses_that_satisfy_them():
    assert list(verdicts(made_up()).values()) == [True, True]


@pytest.mark.parametrize(
    "name, level, refuted",
    [
        ("adapted top", 0.33, {"forking_tokens_carry_signal"}),
        ("adapted all", 0.28, {"forking_tokens_carry_signal"}),
        ("adapted random", 0.31, {"forking_tokens_carry_signal"}),
        ("adapted bottom", 0.3, {"forking_tokens_carry_signal"}),
        ("scratch top", 0.5, {"forking_tokens_from_scratch"}),
        ("scratch bottom", 0.31, {"forking_tokens_from_scratch"}),
    ],
)
def test_one_arm_is_enough_to_refute(name, level, refuted):
    measured = made_up()
    measured["courses"][name] = course(level)
    assert {name for name, holds in verdicts(measured).items() if holds is False} == refuted


def test_one_seed_cannot_tell():
    measured = made_up()
    measured["courses"] = {name: {k: v[:1] for k, v in found.items()} for name, found in measured["courses"].items()}
    assert set(verdicts(measured).values()) == {None}


def test_words_are_spelled_out_and_their_first_letters_tell_them():
    spelled = spelling(jax.random.key(0), CONFIG)
    assert spelled[:, 0].tolist() == list(range(CONFIG.words)) and spelled.shape == (CONFIG.words, CONFIG.letters)
    following = jnp.roll(jnp.eye(CONFIG.words), 1, axis=1)  # word w is followed by w + 1
    texts = jax.jit(partial(written, config=CONFIG))(jax.random.key(1), following, spelled)
    words = np.asarray(texts).reshape(CONFIG.batch_size, CONFIG.text, CONFIG.letters)
    assert (np.diff(words[..., 0], axis=1) % CONFIG.words == 1).all()
    np.testing.assert_array_equal(words, np.asarray(spelled)[words[..., 0]])


def test_entropy_rates_of_a_coin_and_of_a_sure_thing():
    even, sure = np.full((4, 4), 0.25), np.tile(np.eye(4)[0], (4, 1))
    np.testing.assert_allclose(entropy_rates(np.stack([even, sure])), [np.log(4), 0], atol=1e-4)


def test_both_halves_of_the_arms_give_one_program():
    assert len(SCRATCH) == len(ADAPTED)


def test_draws_one_panel():
    _, (axes,) = panels()
    draw(made_up(), axes)
    assert len(axes.lines) == len(ARMS) * len(SETTINGS)


@pytest.mark.parametrize("change", [{"words": 1}, {"letters": 4}, {"text": 1}, {"steps": 30}])
def test_impossible_configurations_are_refused(change):
    with pytest.raises(InvalidConfig) as error:
        replace(CONFIG, **change)
    assert error.value.field == f"forking_tokens.{next(iter(change))}"
