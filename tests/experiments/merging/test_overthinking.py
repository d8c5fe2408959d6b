"""Claim C4 on made-up accuracies; thoughts that add up, whole and pruned."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.style import panels
from experiments.merging.overthinking import (
    ARMS,
    ROWS,
    OverthinkingConfig,
    draw,
    draw_thought,
    judge,
    judge_text,
    step_perplexity,
    written,
)
from lexinv.validation import InvalidConfig

CONFIG = OverthinkingConfig()


def made_up() -> dict:
    levels = {"full": 0.5, "perplexity": 0.8, "oracle": 0.9, "random": 0.4}
    arms = {
        arm: {"right": [level, level + 0.01, level + 0.03], "tokens": [8.0, 9.0, 10.0]} for arm, level in levels.items()
    }
    return {"chance": 0.2, "needed": 8, "arms_by_name": arms}


def verdicts(measured: dict) -> dict:
    return {claim.name: claim.holds for claim in judge(measured)}


def test_all_claims_hold_on_accuracies_that_satisfy_them():
    assert list(verdicts(made_up()).values()) == [True, True]


@pytest.mark.parametrize(
    "arm, level, refuted",
    [
        ("perplexity", 0.45, {"pruned_thoughts_answer_better"}),
        ("oracle", 0.4, {"thoughts_without_fillers_answer_better"}),
        ("random", 0.85, {"pruned_thoughts_answer_better"}),
        ("full", 0.95, {"pruned_thoughts_answer_better", "thoughts_without_fillers_answer_better"}),
    ],
)
def test_one_arm_is_enough_to_refute(arm, level, refuted):
    measured = made_up()
    measured["arms_by_name"][arm]["right"] = [level, level + 0.01, level + 0.03]
    assert {name for name, holds in verdicts(measured).items() if holds is False} == refuted


def test_one_seed_cannot_tell():
    measured = made_up()
    measured["arms_by_name"] = {
        arm: {k: v[:1] for k, v in found.items()} for arm, found in measured["arms_by_name"].items()
    }
    assert set(verdicts(measured).values()) == {None}


def test_thoughts_add_up_and_their_fillers_say_nothing():
    thoughts = jax.jit(jax.vmap(partial(draw_thought, config=CONFIG)))(jax.random.split(jax.random.key(0), 200))
    for numbers, steps, filler, answer in zip(*map(np.asarray, thoughts), strict=True):
        assert filler.sum() == CONFIG.fillers and len(steps) == CONFIG.fillers + CONFIG.numbers
        assert set(steps[filler][:, 0]) == {CONFIG.filler}
        assert steps[~filler][:, 0].tolist() == numbers.tolist()
        assert steps[~filler][:, 1].tolist() == (np.cumsum(numbers) % CONFIG.modulus).tolist()
        assert answer == numbers.sum() % CONFIG.modulus
    # Each place is as often a filler as any other: four standard deviations.
    np.testing.assert_allclose(np.asarray(thoughts.filler).mean(0), 0.5, atol=4 * np.sqrt(0.25 / 200))


def test_a_written_thought_has_its_parts_in_order():
    thought = draw_thought(jax.random.key(1), CONFIG)
    kept = jnp.array([0, 2, 5])
    text = written(thought, kept, CONFIG).tolist()
    steps = np.asarray(thought.steps)[[0, 2, 5]].reshape(-1).tolist()
    assert text == [*thought.numbers.tolist(), CONFIG.think, *steps, CONFIG.answer, int(thought.answer)]
    assert len(text) == CONFIG.length(3)


def test_perplexity_of_a_step_is_the_mean_of_its_two_tokens():
    losses = jnp.arange(float(CONFIG.whole))
    found = step_perplexity(losses, CONFIG)
    first = CONFIG.numbers + 1
    np.testing.assert_allclose(found, first + 0.5 + 2 * np.arange(CONFIG.numbers + CONFIG.fillers))


def test_answers_are_read_after_the_first_mark():
    prompt, end = [1] * CONFIG.numbers + [CONFIG.think], CONFIG.answer
    rest = CONFIG.whole - len(prompt)

    def text(*thought: int) -> list[int]:
        return prompt + [*thought] + [0] * (rest - len(thought))

    texts = jnp.array(
        [
            text(3, 3, end, 2),
            text(end, 1, end, 2),
            text(2, 2),
            text(*[0] * (rest - 1), end),
            text(*[3] * (rest - 2), end, 2),
        ]
    )
    right, length = judge_text(texts, jnp.array([2, 2, 2, 0, 2]), CONFIG)
    assert right.tolist() == [1, 0, 0, 0, 1]
    assert length.tolist() == [2, 0, rest, rest - 1, rest - 2]


def test_draws_one_panel():
    _, (axes,) = panels()
    draw(made_up(), axes)
    assert len(axes.get_legend().get_texts()) == len(ARMS) + 1


@pytest.mark.parametrize(
    "change",
    [{"modulus": 1}, {"numbers": 1}, {"fillers": 0}, {"problems": ROWS + 1}, {"steps": 30}],
)
def test_impossible_configurations_are_refused(change):
    with pytest.raises(InvalidConfig) as error:
        replace(CONFIG, **change)
    assert error.value.field == f"overthinking.{next(iter(change))}"
