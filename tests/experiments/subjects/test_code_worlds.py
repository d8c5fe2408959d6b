"""Worlds of judges and of noisy targets: programs within limits, candidates by what they do, and what each noise does to a text."""

import ast
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.subjects.code_scores import AskedModel, TrainedJudge
from experiments.subjects.human_eval import Rewrite, mutated
from experiments.subjects.list_functions import STEPS, Problem, code, problems
from experiments.subjects.noisy_translation import NOISES, Translation, likeliest
from experiments.subjects.pretrained_language_model import PretrainedWorld
from experiments.subjects.program_runner import passes
from lexinv.decoding.judges import render


def test_programs_that_fail_hang_or_leave_do_not_pass_and_spoil_no_others():
    programs = [
        "x = 1",
        "1 / 0",
        "import os; os._exit(0)",
        "x = bytearray(10**10)",
        "with open('a', 'w') as file: file.write('b' * 9)",
        "pass",
    ]
    assert passes(programs) == [True, False, False, False, False, True]


@pytest.mark.long
def test_a_program_that_catches_everything_ends_all_the_same():
    assert passes(["while True:\n    try:\n        while True: pass\n    except BaseException: pass", "x = 1"]) == [
        False,
        True,
    ]


def test_the_ways_of_a_step_do_the_same():
    inputs = [[], [3], [3, -2, 0, 5, 5, -7, 8]]
    for step, ways in STEPS.items():
        functions = []
        for way in range(len(ways)):
            scope = {}
            exec(code([step], [way]), scope)
            functions.append(scope["f"])
        for x in inputs:
            assert len({tuple(f(list(x))) for f in functions}) == 1, step


def test_problems_are_informative_and_prompts_have_their_places():
    found = problems(2, 60, 6, 0, kept=0.5)
    assert len(found) > 40 and all(0 < sum(problem.right) < 6 for problem in found)
    judge = TrainedJudge(2, 1, 16)
    prompts = {len(judge.read(p.words, text, r)) for p in found for text in p.candidates for r in ("", p.reference)}
    assert prompts == {judge.config.max_length}


def test_rewrites_mean_the_same_and_mutants_differ():
    source = "def f(a, b):\n    if a < b:\n        c = a + 1\n    else:\n        c = b\n    return c"
    texts = {"rewrite": set(), "mutant": set()}
    for seed in range(20):
        random = np.random.default_rng(seed)
        for kind, of in texts.items():
            tree = ast.parse(source)
            if kind == "mutant":
                mutated(tree, random)
            of.add(ast.unparse(ast.fix_missing_locations(Rewrite({"a", "b", "c"}, random).visit(tree))))
    checks = "\nassert [f(1, 2), f(2, 1), f(3, 3)] == [2, 1, 3]"
    assert len(texts["rewrite"]) > 5 and all(passes([text + checks for text in texts["rewrite"]]))
    assert not all(passes([text + checks for text in texts["mutant"]]))


@pytest.mark.parametrize("noise", NOISES)
def test_noise_edits_at_most_so_much(noise):
    task, rows = Translation(symbols=6, length=5), 64
    source, clean = task.draw(jax.random.key(0), rows)
    for level in (0.0, 1.0):
        texts = task.corrupted(clean, jnp.float32(NOISES.index(noise)), jnp.float32(level), jax.random.key(1))
        words, right = task.words(np.asarray(texts)), np.asarray(clean).tolist()
        if not level:
            assert words == right
            continue
        longer = [len(text) - task.length for text in words]
        grown = noise in ("shift", "repetition")
        assert set(longer) == (set(range(1, task.most + 1)) if grown else {0})
        for text, truth, more in zip(words, right, longer, strict=True):
            if noise == "shift":
                assert text[more:] == truth
            elif noise == "repetition":
                assert set(text) == set(truth)
            elif noise == "blank":
                assert all(word in (of, task.blank) for word, of in zip(text, truth, strict=True))
            else:
                assert sorted(text) == sorted(truth)
        assert words != right
    np.testing.assert_array_equal(task.there(texts).sum(axis=1), [len(text) + 1 for text in words])
    assert len(np.unique(np.asarray(clean)[np.asarray(source) == 0])) == 1


def test_a_text_written_in_turn_is_the_likeliest_after_its_own_beginning():
    task = Translation(symbols=6, length=5, width=16, autoregressive=True)
    params = task.start(jax.random.key(0))
    source, clean = task.draw(jax.random.key(1), 4)
    own = likeliest(task, params, source)
    after = [np.asarray(task.log_probs(params, source, text)) for text in (own, own.at[:, 3].set(clean[:, 3]))]
    np.testing.assert_array_equal(after[0].argmax(axis=2), own)
    np.testing.assert_allclose(after[0][:, :4], after[1][:, :4], atol=1e-5)
    assert np.abs(after[0][:, 4:] - after[1][:, 4:]).max() > 1e-3


@pytest.mark.long
def test_scores_are_those_of_the_whole_prompt_read_at_once(world):
    """The cache with candidates of unlike lengths, against one forward of each prompt."""
    model = replace(world.model, config=replace(world.model.config, max_length=2048))
    world = PretrainedWorld(model, world.tokenizer)
    problem = Problem("Add one.", "x = x + 1", ("x += 1", "x = x + 22 # more"), (True, False))
    asked = AskedModel(world)
    scores, said = asked.ask([problem], referred=True)
    for row, candidate in enumerate(problem.candidates):
        head, tail = (
            world.tokenizer.encode(part).tolist() for part in render(problem.words, candidate, problem.reference)
        )
        logits = world.logits(np.array([[*head, *tail, *asked.lead, 0]], np.int32))[0, -1]
        np.testing.assert_allclose(scores[0, row], jax.nn.log_softmax(logits)[np.array(asked.scores)], atol=1e-4)
        assert said[0][row] == world.tokenizer.decode([int(np.argmax(logits))])
