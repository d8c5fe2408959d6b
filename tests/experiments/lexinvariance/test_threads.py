"""Planted faults are found, tokens counted per pair, and models asked what was meant."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lexinvariance.threads import PRESETS, inversions, recovered
from experiments.subjects.haystacks import SolverConfig, TokenizerConfig, fertilities, planted
from experiments.subjects.thread_followers import TaskConfig, by_depth, make_answer_loss, make_judge, measure
from lexinv.data.corpora import Corpus
from lexinv.lexinvariance.threads import Limits
from lexinv.nn.language_model import initialize
from lexinv.nn.lexicon import LexiconConfig

SMOKE = PRESETS["smoke"].models
SEEDS = range(3)


def test_solvers_are_found_out_as_planted():
    config = SolverConfig(window=6000, lengths=4, depths=11, hops=(1, 3, 9), repeats=100)
    found = recovered(
        {
            "solvers": [planted(config, seed) for seed in SEEDS],
            "planted": {"hops": config.hops},
        }
    )
    assert (found["perfect"] == 1).all()
    assert 6000 <= found["window"].mean() < 8000
    assert abs(found["error"].mean() - config.error) < 0.03
    assert abs(found["blind"].mean() - config.blind) < 1 / config.depths


def test_tokens_are_counted_per_pair():
    config = TokenizerConfig(
        prose="accents", code="plain", tokenizers=(("byte", "plain"), ("char:lossy", "plain")), characters=800
    )
    corpora = {
        name: Corpus(name, "0", {"test": [text * 100, text * 100]})
        for name, text in {"accents": "éé e", "plain": "if x"}.items()
    }
    costs = [fertilities(config, corpora, seed)["byte"] for seed in SEEDS]
    assert all(cost["code"] == cost["UUIDs"] == cost["digits"] == 80 for cost in costs)
    assert all(cost["prose"] == pytest.approx(120, abs=0.5) for cost in costs)


def test_depths_are_counted_in_bins():
    right, depth = np.array([[True], [False], [True], [True]]), np.array([0.0, 0.19, 0.5, 1.0])
    assert by_depth(right, depth) == [[1, 0, 1, 0, 1], [2, 0, 1, 0, 1]]


@pytest.mark.long
def test_the_loss_is_over_answers_and_the_same_key_gives_the_same_items():
    model, task = replace(SMOKE.model, depth=1), SMOKE.task
    lexicon = LexiconConfig("lexinvariant")
    params = initialize(model, lexicon, task.trained.vocab, jax.random.key(0))
    # With nothing to say the model is uniform: ln V for every answer, whatever the haystack and the padding.
    params["model"]["logit_scale"] = jnp.float32(0.0)
    loss = jax.jit(make_answer_loss(model, lexicon, task))
    batch = {"row": jnp.arange(4)}
    first, _ = loss(params, batch, jax.random.key(1))
    assert float(first) == pytest.approx(np.log(task.trained.vocab), rel=1e-5)
    params["model"]["logit_scale"] = jnp.float32(0.5)
    values = [float(loss(params, batch, jax.random.key(seed))[0]) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


@pytest.mark.long
def test_the_initial_circuit_finds_single_links_that_a_plain_model_does_not():
    task = TaskConfig(Limits(96, 12, 2, 2), 4, (12, 24), 12, (1, 2), 1, items=60)
    model = replace(PRESETS["cpu"].models.model, width=64, mlp_width=64)
    found = []
    for initialization in ("suffix_match", "normal"):
        config = replace(SMOKE, model=replace(model, initialization=initialization), task=task)
        params = initialize(config.model, LexiconConfig("lexinvariant"), 98, jax.random.key(0))
        right, depth = make_judge(config, "lexinvariant")(params, 0, pairs=12)
        assert right.shape == (60, 1) and 0 <= depth.min() < 0.2 and 0.8 < depth.max() <= 1
        found.append(right.mean())
    assert found[0] > 0.5 and found[1] < 0.25


def test_every_measure_asks_for_its_own_setting():
    asked = []

    def judge(seed, **setting):
        asked.append(setting)
        return np.full((4, setting.get("threads", 1)), setting["pairs"] <= 8), np.zeros(4)

    found = measure(judge, SMOKE, 0)
    assert found["chains"] == [[1.0, 0.0]] * 2 and found["threads"] == [1.0, 1.0]
    assert found["direct backward"] == [1.0, 1.0] and found["depths"][0] == [[4, 0, 0, 0, 0]] * 2
    several = [setting for setting in asked if setting.get("threads")]
    assert {setting["pairs"] for setting in several} == {8} and len({setting["length"] for setting in several}) == 1


def test_an_inversion_is_fewer_for_prose_and_more_for_uuids():
    costs = {
        name: {"prose": prose, "UUIDs": uuids} for name, prose, uuids in (("a", 20, 70), ("b", 30, 50), ("c", 40, 60))
    }
    assert inversions(costs) == 2  # a against b and against c
