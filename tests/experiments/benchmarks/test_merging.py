"""The benchmark of token merging: the saving that theory has, and plans that are given."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.benchmarks.merging import PRESETS
from experiments.benchmarks.merging_problem import AppliedProblem, MergingProblem, jax_program

SMALL = MergingProblem(depth=2, width=32, heads=2, mlp_width=64, across=4, batch_size=2, classes=5, r=3)


def test_theory_of_the_encoder_that_is_judged():
    """197 tokens become 41, and the operations 1.70 times fewer."""
    problem = PRESETS["cpu"].problem
    assert problem.tokens == 197 and 197 - sum(problem.schedule) == 41
    assert replace(problem, r=0).flops / problem.flops == pytest.approx(1.70, abs=0.005)


@pytest.mark.long
@pytest.mark.parametrize("problem", [SMALL, replace(SMALL, text=17)], ids=["images", "texts"])
def test_given_plans_are_those_that_are_made_and_a_schedule_is_one_program(problem):
    logits = {}
    for plans in ("made", "given"):
        forward, arguments = jax_program(replace(problem, plans=plans))
        logits[plans] = np.asarray(forward(*arguments))
        np.testing.assert_array_equal(forward(*arguments), logits[plans])
        assert forward._cache_size() == 1
    np.testing.assert_allclose(logits["given"], logits["made"], atol=1e-5)
    assert np.ptp(logits["made"]) > 0.1


def test_a_model_as_users_have_it_keeps_its_share():
    """16 patches and CLS; each of two layers keeps half of the patches."""
    tokens = [AppliedProblem(SMALL, "pitome", ratio).ours()().shape for ratio in (1.0, 0.5)]
    assert tokens == [(2, 17, 32), (2, 5, 32)]
