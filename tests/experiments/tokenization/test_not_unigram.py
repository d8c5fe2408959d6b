"""The claims on results made up to satisfy all of them, then spoilt one by one, and distances of rows that are known."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.subjects.markov_models import BINARY, LEXICON, as_tokens, draw, sized
from experiments.subjects.markov_sources import SourceConfig
from experiments.tokenization.not_unigram import FAST, PRESETS, claims, figure, next_token_rows
from lexinv.nn.language_model import initialize
from lexinv.tokenization.tokenizers import to_text, train_bpe
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]


def arm(loss: float, unigram: float, distance: float) -> dict:
    return {
        "parameters": 4000,
        "mean_length": 4.0,
        "best": 0,
        "loss": [loss, loss + 0.001, loss + 0.002],
        "excess": [0.002, 0.003, 0.004],
        "error": [0.001] * 3,
        "unigram": unigram,
        "distance": [distance, distance + 0.01, distance + 0.02],
        "quartiles": [distance - 0.1, distance, distance + 0.1],
        "map": {"tokens": ["0", "1", "01"], "marginal": [0.2, 0.3, 0.5], "rows": [[0.2, 0.3, 0.5]] * 7},
    }


def made_up() -> dict:
    sizes = {"4": arm(0.35, 0.62, 0.5), "16": arm(0.33, 0.38, 0.3), "64": arm(0.33, 0.34, 0.2)}
    found = {"entropy_rate": 0.325, "stationary_entropy": 0.693, "dictionaries": sizes}
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "learning_rates": [6e-3],
        "sources": {"fast": found, "slow": copy.deepcopy(found)},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "size, change, broken",
    [
        ("16", {"unigram": 0.3305}, "token_model_beats_unigram"),
        ("64", {"distance": [0.4, 0.5, 0.6]}, "distance_to_marginal_shrinks_with_size"),
        ("64", {"excess": [0.002, -0.0031, 0.0]}, "never_below_entropy_rate"),
    ],
)
def test_each_claim_can_fail(size, change, broken):
    results = copy.deepcopy(made_up())
    results["sources"]["slow"]["dictionaries"][size].update(change)
    assert {name for name, holds in verdicts(results).items() if not holds} == {broken}


def test_rows_of_a_uniform_model_are_uniform():
    symbols = draw(FAST, "held-out", 2000)
    tokens = as_tokens(FAST, train_bpe(to_text(symbols, BINARY), 4, BINARY), symbols, symbols, 16)
    model = sized(SMOKE.model, 4, 16)
    params = initialize(model, LEXICON, 4, jax.random.key(0))
    params["model"]["logit_scale"] = jnp.zeros(())
    found = next_token_rows(model, tokens, params, 3)
    assert found.shape == (3, 15, 4)
    np.testing.assert_allclose(found, 0.25, rtol=1e-5)


def test_figure_is_drawn_from_results_alone_and_names_every_source():
    drawn = figure(made_up())
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert titles[:3] == ["fast", "slow", "Rows against the marginal"]
    assert titles[3:] == [f"Next token, fast, d = {size}" for size in (4, 16, 64)]
    drawn.canvas.draw()


@pytest.mark.parametrize(
    "change, field",
    [
        ({"sources": ()}, "sources"),
        ({"dictionaries": (4,)}, "dictionaries"),
        ({"dictionaries": (16, 4)}, "dictionaries"),
        ({"dictionaries": (2, 4)}, "dictionaries"),
        ({"time": 1}, "time"),
        ({"rows": 0}, "rows"),
        ({"sources": (SourceConfig(1, symbols=3),)}, "sources"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
