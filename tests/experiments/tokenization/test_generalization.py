"""The claims on results made up to satisfy all of them, then spoilt one by one."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from experiments.subjects.markov_sources import SourceConfig
from experiments.tokenization.generalization import PRESETS, best_loss, claims, figure
from lexinv.tokenization.tokenizers import characters
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]


def made_up() -> dict:
    def seed(noise: float) -> dict:
        def points(loss: float) -> list[dict]:
            return [{"loss": loss + noise, "characters_per_token": 2.0}] * 2

        return {
            "memorised_train": [0.2 + noise, 0.02 + noise],
            "memorised_test": [0.5, 0.69 + noise],
            "trap": [{"greedy": 1.2, "minimum_length": 0.6}, {"greedy": 1.05, "minimum_length": 0.05 + noise}],
            "trained": {
                "lzw": {"greedy": points(0.40), "minimum_length": points(0.39)},
                "bpe": {"greedy": points(0.37), "minimum_length": points(0.35), "merges": points(0.36)},
            },
        }

    return {
        "seeds": [0, 1, 2],
        "corpora": {},
        "source": {"entropy_rate": 0.325, "stationary_entropy": 0.693},
        "lengths": [8, 256],
        "slips": [0.1, 0.001],
        "sizes": [16, 64],
        "cyclic": [
            {"entropy_rate": 0.52, "stationary_entropy": 2.079},
            {"entropy_rate": 0.01, "stationary_entropy": 2.079},
        ],
        "trap_greedy_exact": [1.2, 1.05],
        "by_seed": [seed(noise) for noise in (0.0, 0.0005, 0.001)],
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


def spoil(path: tuple, value) -> dict:
    results = copy.deepcopy(made_up())
    for seed in results["by_seed"]:
        target = seed
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value
    return results


@pytest.mark.parametrize(
    "path, value, broken",
    [
        (("memorised_train", 1), 0.33, "memorised_dictionary_fails_at_test"),
        (("memorised_test", 1), 0.5, "memorised_dictionary_fails_at_test"),
        (("trap", 1, "minimum_length"), 0.3, "encoder_decides"),
        (("trap", 0, "greedy"), 1.3, "greedy_matches_exact_value"),
        (
            ("trained", "bpe", "minimum_length"),
            [{"loss": 0.38, "characters_per_token": 2.0}] * 2,
            "fewest_tokens_cost_least",
        ),
    ],
)
def test_each_claim_can_fail(path, value, broken):
    assert {name for name, holds in verdicts(spoil(path, value)).items() if not holds} == {broken}


def test_one_seed_cannot_tell():
    results = made_up()
    results["by_seed"] = results["by_seed"][:1]
    assert verdicts(results)["encoder_decides"] is None


def test_figure_names_every_encoder():
    labels = [text.get_text() for text in figure(made_up()).axes[2].get_legend().get_texts()]
    assert "BPE, minimum length" in labels and "LZW, greedy" in labels


def test_best_loss_of_characters_is_their_entropy():
    found = best_loss(characters("01"), "0001")
    assert found["loss"] == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert found["characters_per_token"] == 1.0


@pytest.mark.parametrize(
    "change, field",
    [
        ({"seeds": (0, 0)}, "seeds"),
        ({"lengths": (8, 100_000)}, "lengths"),
        ({"cycle": 2}, "cycle"),
        ({"slips": (0.0,)}, "slip"),
        ({"source": SourceConfig(1, symbols=3)}, "source.symbols"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
