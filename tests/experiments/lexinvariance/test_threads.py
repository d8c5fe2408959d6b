"""The claims on results made up to satisfy all of them, then spoilt one by one; planted faults found; what a configuration may not be."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lexinvariance.haystack_checks import SolverConfig, TokenizerConfig, fertilities, planted
from experiments.lexinvariance.threads import PRESETS, claims, figure, recovered
from experiments.subjects.thread_followers import (
    ModelsConfig,
    TaskConfig,
    by_depth,
    make_answer_loss,
    make_judge,
    measure,
)
from lexinv.data.corpora import Corpus
from lexinv.lexinvariance.threads import Limits
from lexinv.nn.language_model import initialize
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"].models
SEEDS = range(3)


def solvers() -> dict:
    lengths = np.arange(2000, 20_001, 2000)
    return {
        "characters": lengths.tolist(),
        "depths": [0.0, 25.0, 50.0, 75.0, 100.0],
        "perfect": np.ones((5, 10)).tolist(),
        "window": [(lengths * (1 - depth) <= 8000).astype(float).tolist() for depth in (0, 0.25, 0.5, 0.75, 1)],
        "middle": np.repeat([[1.0], [1.0], [0.0], [1.0], [1.0]], 10, axis=1).tolist(),
        "chains": [0.9**hops for hops in (1, 2, 4, 8)],
    }


def model(level: float, direct: float) -> dict:
    """Accuracies of three seeds: falling beyond 24 pairs, more so for longer threads, and with links where answered directly."""
    spread = 0.01 * np.arange(3)[:, None]
    chain = level - spread + np.zeros((1, 4))
    falling = level * np.array([[1.0, 1.0, 0.9 - 0.1 * links, 0.6 - 0.1 * links] for links in range(4)])
    return {
        "chains": (falling[None] - spread[:, :, None]).tolist(),
        "depths": [[[[8, 9, 10, 9, 8], [10] * 5]] * 4] * 3,
        "threads": (level - spread - [[0.0, 0.01, 0.02]]).tolist(),
        "chain forward": chain.tolist(),
        "chain backward": chain.tolist(),
        "direct forward": (direct * np.array([[1.0, 0.8, 0.6, 0.4]]) - spread).tolist(),
        "direct backward": (direct * np.array([[1.0, 0.4, 0.2, 0.1]]) - spread).tolist(),
    }


def made_up() -> dict:
    single = [[0.1, 0.05, 0.04, 0.02], [0.12, 0.04, 0.05, 0.01], [0.1, 0.05, 0.03, 0.01]]
    costs = {
        "byte": {"prose": 80.0, "code": 80.0, "digits": 80.0, "UUIDs": 80.0},
        "a": {"prose": 20.0, "code": 25.0, "digits": 50.0, "UUIDs": 70.0},
        "b": {"prose": 30.0, "code": 20.0, "digits": 40.0, "UUIDs": 50.0},
    }
    return {
        "seeds": [0, 1, 2],
        "corpora": {},
        "solvers": [solvers() for _ in SEEDS],
        "planted": {"window": 8000, "error": 0.1, "blind": 0.2, "step": 25, "hops": [1, 2, 4, 8]},
        "fertility": [costs] * 3,
        "task": {"pairs": [8, 24, 48, 96], "compared": 24, "threads": [1, 2, 8], "thread_length": 2},
        "trained_pairs": 24,
        "models": {
            "standard": model(0.98, 0.9),
            "lexinvariant": model(0.99, 0.95),
            "circuit": {"single": (0.5 + np.array(single)).tolist()},
            "plain": {"single": single},
        },
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


def test_one_seed_cannot_tell_where_an_interval_is_needed():
    results = made_up()
    for name in ("seeds", "solvers", "fertility"):
        results[name] = results[name][:1]
    results["models"] = {
        kind: {name: values[:1] for name, values in arm.items()} for kind, arm in results["models"].items()
    }
    assert {name: holds for name, holds in verdicts(results).items() if holds is not None} == {
        "ranking_by_tokens_inverts": True
    }


def set_solver(name, value):
    def spoil(results):
        for seed in results["solvers"]:
            seed[name] = value

    return spoil


def set_model(kind, name, value):
    def spoil(results):
        results["models"][kind][name] = value(np.array(results["models"][kind][name])).tolist()

    return spoil


def set_cost(name, text, value):
    def spoil(results):
        results["fertility"] = [{**seed, name: {**seed[name], text: value}} for seed in results["fertility"]]

    return spoil


def at(row, column, value):
    """An array [4, 4] that is zero but for one place, or one column where `row` is None."""
    change = np.zeros((4, 4))
    change[slice(None) if row is None else row, column] = value
    return change


LONGER = np.array([0.0, 0.5, 0.5, 0.5])  # threads of several links


@pytest.mark.parametrize(
    "spoil, broken",
    [
        (set_solver("perfect", [[1.0, 0.9]]), "solvers_scored_right"),
        (set_solver("window", [[1.0] * 10]), "solvers_scored_right"),
        (set_solver("chains", [0.8, 0.6, 0.4, 0.2]), "solvers_scored_right"),
        (set_solver("middle", [[1.0], [0.0]]), "solvers_scored_right"),
        (set_cost("b", "prose", 19.0), "ranking_by_tokens_inverts"),
        (set_cost("b", "UUIDs", 60.0), "uuid_fertility_varies"),
        (set_model("lexinvariant", "chains", lambda a: a + at(None, 3, 0.8)), "accuracy_falls_with_context"),
        (set_model("lexinvariant", "chains", lambda a: a + at(3, 2, 0.4)), "effective_context_near_trained"),
        (set_model("standard", "chain forward", lambda a: a - at(0, 3, 2.0)[0]), "direct_falls_faster_than_chain"),
        (set_model("standard", "threads", lambda a: a - [[0.0, 0.0, 0.1]]), "thread_safe"),
        (set_model("standard", "direct backward", lambda a: a + LONGER), "standard_direct_forward_above_backward"),
        (
            set_model("lexinvariant", "direct backward", lambda a: a + LONGER),
            "lexinvariant_direct_forward_above_backward",
        ),
        (set_model("lexinvariant", "direct forward", lambda a: a - 0.2), "lexinvariant_at_least_standard"),
        (set_model("lexinvariant", "chains", lambda a: a - at(0, 0, 1.2)), "lexinvariant_at_least_standard"),
        (set_model("plain", "single", lambda a: a + 0.1), "untrained_at_chance"),
    ],
)
def test_each_claim_can_fail(spoil, broken):
    results = copy.deepcopy(made_up())
    spoil(results)
    assert {name for name, holds in verdicts(results).items() if not holds} == {broken}


def test_solvers_are_found_out_as_planted():
    config = SolverConfig(window=6000, lengths=5, depths=21, hops=(1, 3, 9), repeats=400)
    found = recovered(
        {
            "solvers": [planted(config, seed) for seed in SEEDS],
            "planted": {"hops": config.hops},
        }
    )
    assert found["perfect"].mean == 1
    assert 6000 <= found["window"].mean < 8000
    assert abs(found["error"].mean - config.error) < 0.015
    assert abs(found["blind"].mean - config.blind) < 0.06


def test_tokens_are_counted_per_pair():
    config = TokenizerConfig(
        prose="accents", code="plain", tokenizers=(("byte", "plain"), ("char", "plain")), characters=800
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


def test_figure_shows_every_part():
    titles = [axes.get_title(loc="left") for axes in figure(made_up()).axes]
    assert {"Solver with a window", "One link, lexinvariant", "Tokens by text", "Every link said"} <= set(titles)


def task(**changes):
    return lambda: replace(SMOKE.task, **changes)


@pytest.mark.parametrize(
    "change, field",
    [
        (task(fewest_pairs=1), "task.fewest_pairs"),
        (task(pairs=(8, 8, 16)), "task.pairs"),
        (task(pairs=(4, 16)), "task.pairs"),
        (task(pairs=(4, 8)), "task.pairs"),
        (task(pairs=(8, 17)), "task.pairs"),
        (task(threads=(2, 4)), "task.threads"),
        (task(threads=(1, 5)), "task.threads"),
        (task(items=1), "task.items"),
        (lambda: SolverConfig(depths=1), "solvers.depths"),
        (lambda: SolverConfig(hops=(1, 26)), "solvers.hops"),
        (lambda: TokenizerConfig(characters=79), "tokenizers.characters"),
        (lambda: TokenizerConfig(tokenizers=(("byte", "kjv"),)), "tokenizers.tokenizers"),
        (lambda: replace(SMOKE, model=TransformerConfig(max_length=50)), "model.max_length"),
        (lambda: replace(SMOKE, training=replace(SMOKE.training, microbatches=2)), "training"),
        (lambda: replace(SMOKE, training=replace(SMOKE.training, mesh=MeshConfig(data=2))), "training"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    assert isinstance(SMOKE, ModelsConfig)
    with pytest.raises(InvalidConfig) as error:
        change()
    assert error.value.field == field
