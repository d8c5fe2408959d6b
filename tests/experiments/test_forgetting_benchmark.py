"""The benchmark of forgetting: its verdict can go either way, and its sides do the steps that they say."""

import pytest

from experiments.benchmarks import forgetting
from experiments.benchmarks.forgetting import PRESETS, claims, figure
from experiments.benchmarks.forgetting_problem import ForgettingProblem, jax_steps, torch_steps
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]


def results(ours: float, theirs: float, rounds: int = 5) -> dict:
    seconds = {"lexinv": [ours] * rounds, "torch": [theirs] * (rounds - 1) + [9 * theirs]}
    sweep = {"sizes": [500, 1000], "seconds": [[1e-3] * rounds, [2e-3] * rounds], "exponents": [1.0] * rounds}
    return {"steps": 50, "against_torch": {"torch": "2", "left_out": {}, "seconds": seconds}, "sweep": sweep}


@pytest.mark.parametrize(
    "made, holds",
    [(results(1.0, 5.5), True), (results(1.0, 4.5), False), (results(1.0, 5.5, rounds=2), None)],
)
def test_verdict_follows_the_medians(made, holds):
    (claim,) = claims(made)
    assert claim.holds is holds


def test_without_torch_nothing_is_claimed():
    made = results(1.0, 5.0)
    del made["against_torch"]["seconds"]["torch"]
    made["against_torch"]["left_out"] = {"torch": "not installed"}
    (claim,) = claims(made)
    assert claim.holds is None and claim.measured == {"torch": "not installed"}
    assert figure(made)


def test_figure_shows_the_sides():
    assert [label.get_text() for label in figure(results(1.0, 5.0)).axes[0].get_xticklabels()] == ["lexinv", "torch"]


def test_sweep_varies_the_vocabulary_alone():
    problems = SMOKE.sweep
    assert [problem.task.vocab for problem in problems.values()] == list(SMOKE.vocabs)
    assert {(problem.batch_size, problem.model) for problem in problems.values()} == {
        (SMOKE.problem.batch_size, SMOKE.problem.model)
    }


def test_one_call_is_as_many_steps_as_it_says():
    call = jax_steps(SMOKE.problem, compiled=True)
    state, losses = call()
    assert losses.shape == (SMOKE.problem.steps,)
    state, _ = call()
    assert int(state.step) == 2 * SMOKE.problem.steps


@pytest.mark.parity
def test_torch_learns_the_task_too():
    """The same loss at first, ln of the number of tokens for a table that says nothing, and a lower one later."""
    call = torch_steps(ForgettingProblem(SMOKE.problem.task, SMOKE.problem.model, period=10_000, steps=200), False)
    first, last = call(), [call() for _ in range(3)][-1]
    assert last < first


@pytest.mark.parametrize(
    "change, field",
    [({"rounds": 0}, "rounds"), ({"vocabs": (40,)}, "vocabs"), ({"vocabs": (41, 80)}, "task.vocab")],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        forgetting.Config(SMOKE.problem, **{"vocabs": (40, 80), **change})
    assert error.value.field == field
