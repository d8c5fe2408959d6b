"""The claims on results made up to satisfy all of them, then spoilt one by one."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.tokenization.induction import PRESETS, claims, figure, predictor_nll, sequences, share_left
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
CONTEXT, SPREAD = 32, np.array([0.0, 0.001, 0.002])[:, None]


def rows(level: float) -> list[list[float]]:
    return (level + SPREAD + np.linspace(0.2, 0.0, CONTEXT)[None]).tolist()


def arm(level: float) -> dict:
    return {"nats": rows(level), "excess": [level - 0.49] * 3, "error": [0.001] * 3, "training_loss": [[0.7, 0.6]] * 3}


def made_up() -> dict:
    def found() -> dict:
        arms = {"plain": arm(0.58), "convolution": arm(0.495)}
        return {"bayes": rows(0.49), "unigram": rows(0.60), "arms": arms}

    return {"corpora": {}, "seeds": [0, 1, 2], "context": CONTEXT, "orders": {"1": found(), "2": found()}}


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "name, change, broken",
    [
        ("plain", {"nats": rows(0.60)}, {"plain_below_in_context_unigram"}),
        ("convolution", {"nats": rows(0.52)}, {"convolution_is_near_bayes"}),
        ("plain", {"nats": rows(0.495)}, {"convolution_is_nearer_than_plain"}),
        ("plain", {"excess": [0.1, -0.01, 0.1]}, {"never_below_bayes"}),
        (
            "convolution",
            {"nats": rows(0.61)},
            {"convolution_below_in_context_unigram", "convolution_is_near_bayes", "convolution_is_nearer_than_plain"},
        ),
    ],
)
def test_each_claim_can_fail(name, change, broken):
    results = made_up()
    results["orders"]["2"]["arms"][name].update(change)
    assert {claim for claim, holds in verdicts(results).items() if not holds} == broken


def test_one_seed_cannot_tell():
    results = made_up()
    for found in results["orders"].values():
        found.update(bayes=found["bayes"][:1], unigram=found["unigram"][:1])
        for model in found["arms"].values():
            model.update({key: values[:1] for key, values in model.items()})
    assert {name for name, holds in verdicts(results).items() if holds is not None} == {"never_below_bayes"}


def test_the_share_left_is_of_the_last_quarter():
    found = made_up()["orders"]["1"]
    found["arms"]["plain"]["nats"] = [
        row[:24] + [level] * 8 for row, level in zip(rows(9.0), (0.5, 0.6, 0.7), strict=True)
    ]
    found["bayes"], found["unigram"] = [[0.5] * CONTEXT] * 3, [[0.7] * CONTEXT] * 3
    np.testing.assert_allclose(share_left(found, "plain"), [0.0, 0.5, 1.0], atol=1e-9)


def test_sequences_have_a_kernel_each_which_bayes_learns_and_frequencies_do_not():
    config = replace(SMOKE, context=64, windows=400)
    windows = sequences(2, config, "test", 400).gather(np.arange(400))
    assert 0.15 < windows.mean(axis=1).std() < 0.35  # the sequences differ; coin flips would give 0.06
    bayes, unigram = (predictor_nll(windows, order, 2)[:, 48:].mean() for order in (2, 0))
    assert bayes < unigram - 0.05
    np.testing.assert_allclose(predictor_nll(windows, 2, 2)[:, :2], np.log(2), rtol=1e-6)


def test_figure_names_models_and_predictors():
    drawn = figure(made_up())
    for order, axes in zip((1, 2), drawn.axes, strict=False):
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == [
            "plain",
            "convolution on queries and keys",
            "in-context frequencies",
            f"Bayes, order {order} known",
        ]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"orders": (1, 1)}, "orders"),
        ({"orders": (0,)}, "orders"),
        ({"orders": (4,)}, "model.convolution_width"),
        ({"symbols": 1}, "symbols"),
        ({"context": 7}, "context"),
        ({"windows": 1}, "windows"),
        ({"model": replace(SMOKE.model, mixing="smear")}, "model.mixing"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
