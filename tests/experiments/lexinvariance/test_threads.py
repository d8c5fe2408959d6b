"""Tokens are counted per pair, and followers trained and asked for what was meant."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lexinvariance.threads import PRESETS, inversions
from experiments.subjects.thread_followers import STANDARD, make_answer_loss, make_judge
from experiments.subjects.token_costs import TokenizerConfig, fertilities
from lexinv.data.corpora import Corpus
from lexinv.lexinvariance.threads import Limits
from lexinv.nn.language_model import initialize

SMOKE = PRESETS["smoke"].followers
SEEDS = range(3)


def test_tokens_are_counted_per_pair():
    config = TokenizerConfig(
        prose="accents", code="plain", tokenizers=(("byte", "plain"), ("char:lossy", "plain")), characters=800
    )
    corpora = {
        name: Corpus(name, "0", {"test": [text * 100, text * 100]})
        for name, text in {"accents": "éé e", "plain": "if x"}.items()
    }
    costs = [fertilities(config, corpora, seed, {})["byte"] for seed in SEEDS]
    assert all(cost["code"] == cost["UUIDs"] == cost["digits"] == 80 for cost in costs)
    assert all(cost["prose"] == pytest.approx(120, abs=0.5) for cost in costs)


@pytest.mark.long
def test_the_loss_is_over_answers_and_the_same_key_gives_the_same_items():
    config = replace(SMOKE, model=replace(SMOKE.model, depth=1))
    params = initialize(config.model, STANDARD, config.limits.vocab, jax.random.key(0))
    # With nothing to say the model is uniform: ln V for every answer, whatever the haystack and the padding.
    params["model"]["logit_scale"] = jnp.float32(0.0)
    loss = jax.jit(make_answer_loss(config))
    batch = {"row": jnp.arange(4)}
    first, _ = loss(params, batch, jax.random.key(1))
    assert float(first) == pytest.approx(np.log(config.limits.vocab), rel=1e-5)
    params["model"]["logit_scale"] = jnp.float32(0.5)
    values = [float(loss(params, batch, jax.random.key(seed))[0]) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


@pytest.mark.long
def test_the_initial_circuit_finds_single_links_that_a_plain_model_does_not():
    limits = Limits(96, 12, 2, 2)
    model = replace(PRESETS["cpu"].followers.model, width=64, mlp_width=64)
    found = []
    for initialization in ("suffix_match", "normal"):
        config = replace(SMOKE, model=replace(model, initialization=initialization), limits=limits, items=60)
        params = initialize(config.model, STANDARD, limits.vocab, jax.random.key(0))
        judge = make_judge(config)
        found.append(judge(params, 0, 1, "forward"))
        assert judge(params, 0, 1, "forward") == found[-1]
    assert found[0] > 0.5 and found[1] < 0.25


def test_an_inversion_is_fewer_for_prose_and_more_for_uuids():
    costs = {
        name: {"prose": prose, "UUIDs": uuids} for name, prose, uuids in (("a", 20, 70), ("b", 30, 50), ("c", 40, 60))
    }
    assert inversions(costs) == 2  # a against b and against c
