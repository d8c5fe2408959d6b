"""The claims on results made up to satisfy all of them, then spoilt one by one."""

import copy
from dataclasses import replace

import pytest

from experiments.subjects.markov_sources import SourceConfig
from experiments.tokenization.unigram_loss import (
    NAMES,
    PRESETS,
    claims,
    figure,
    remaining,
)
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
CURVES = {
    "blocks": [0.60, 0.50, 0.46],
    "lzw": [0.55, 0.45, 0.40],
    "bpe": [0.50, 0.40, 0.35],
    "sequential_bpe": [0.50, 0.41, 0.38],
    "unigram": [None, 0.42, None],
}


def made_up() -> dict:
    def seed(noise: float) -> dict:
        curves = {kind: [None if x is None else x + noise for x in curve] for kind, curve in CURVES.items()}
        return curves | {"blocks": CURVES["blocks"]}

    seeds = [seed(noise) for noise in (0.0, 0.001, 0.002)]
    exact = {kind: (CURVES[kind] if kind in ("blocks", "lzw") else [None] * 3) for kind in NAMES}
    source = {
        "entropy_rate": 0.325,
        "stationary_entropy": 0.693,
        "block_formula": CURVES["blocks"],
        "order": 1,
        "lzw_bound": [None, 1.0, 0.6],
        "loss": seeds,
        "exact": [exact] * 3,
        "own_loss": [0.324, 0.325, 0.326],
    }
    point = {"entropy_rate": 0.3, "stationary_entropy": 0.69, "lzw": 0.4, "lzw_bound": 0.5, "sequential_bpe": 0.4}
    points = [point, point | {"lzw": 0.6, "lzw_bound": None}]
    weak = source | {"entropy_rate": 0.35, "stationary_entropy": 0.699}
    return {
        "seeds": [0, 1, 2],
        "corpora": {},
        "sizes": [4, 16, 64],
        "sources": {"made up": source, "weak": weak},
        "first_order": [points],
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


def with_losses(kind: str, size: int, value: float) -> dict:
    results = copy.deepcopy(made_up())
    for seed in results["sources"]["made up"]["loss"]:
        seed[kind] = list(seed[kind])
        seed[kind][size] = value
    return results


@pytest.mark.parametrize(
    "kind, size, value, broken",
    [
        ("blocks", 1, 0.51, {"block_matches_formula"}),
        ("sequential_bpe", 2, 0.66, {"bpe_within_bound"}),
        (
            "bpe",
            2,
            0.55,
            {
                "tokens_close_half_of_the_gap",
                "tokens_close_half_of_the_gap_everywhere",
                "loss_falls_with_every_size",
            },
        ),
        ("lzw", 2, 0.465, {"lzw_beats_blocks", "loss_falls_with_every_size"}),
        ("bpe", 1, 0.51, {"loss_falls_with_every_size"}),
        ("bpe", 0, 0.70, {"smallest_dictionary_beats_characters"}),
        ("unigram", 1, 0.325, {"never_below_entropy_rate"}),
    ],
)
def test_each_claim_can_fail(kind, size, value, broken):
    assert {name for name, holds in verdicts(with_losses(kind, size, value)).items() if not holds} == broken


def test_a_loss_above_its_bound_is_noticed_on_curves_and_random_sources():
    results = copy.deepcopy(made_up())
    results["first_order"][0][0] |= {"lzw": 0.51, "sequential_bpe": 0.61}
    assert verdicts(results)["lzw_within_bound"] is False and verdicts(results)["bpe_within_bound"] is False
    results = copy.deepcopy(made_up())
    results["sources"]["made up"]["lzw_bound"] = [None, None, 0.39]
    assert verdicts(results)["lzw_within_bound"] is False


def test_bounds_above_the_entropy_of_characters_prove_nothing():
    results = copy.deepcopy(made_up())
    results["first_order"] = [[{**results["first_order"][0][0], "stationary_entropy": 0.45}]]
    for source in results["sources"].values():
        source["order"] = 2
    assert verdicts(results)["lzw_within_bound"] is None and verdicts(results)["bpe_within_bound"] is None


def test_sources_where_characters_are_cheap_are_judged_apart():
    results = with_losses("bpe", 2, 0.35)
    results["sources"]["weak"]["stationary_entropy"] = 0.36
    assert {name for name, holds in verdicts(results).items() if not holds} >= {
        "tokens_close_half_of_the_gap_everywhere"
    }
    assert verdicts(results)["tokens_close_half_of_the_gap"] is True


def test_remaining_is_a_share_of_the_gap():
    source = made_up()["sources"]["made up"]
    assert remaining(source, "lzw")[0] == pytest.approx((0.40 - 0.325) / (0.693 - 0.325))


def test_figure_has_a_panel_for_each_source():
    axes = figure(made_up()).axes
    assert [panel.get_title(loc="left") for panel in axes] == ["made up", "weak"]
    assert "bound for LZW" in [text.get_text() for text in axes[0].get_legend().get_texts()]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"seeds": ()}, "seeds"),
        ({"sizes": (16, 4)}, "sizes"),
        ({"sources": (SourceConfig(symbols=5),)}, "sizes"),
        ({"unigram_sizes": (17,)}, "unigram_sizes"),
        ({"characters": 0}, "characters"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field


def test_degenerate_sources_are_refused():
    with pytest.raises(InvalidConfig, match="p = 1.0"):
        SourceConfig(1, p=1.0)
