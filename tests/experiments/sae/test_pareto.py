"""The claims on results made up to satisfy all of them, then spoilt one by one."""

import copy
from dataclasses import replace

import pytest

from experiments.sae.pareto import PRESETS, at_l0, claims, figure
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
KS = [2.0, 5.0, 8.0]


def setting(l0: float, fvu: float, mcc: float, correlation: float) -> dict:
    def seeds(value: float) -> list[float]:
        return [value, value + 0.001, value + 0.002]

    found = {"fvu": fvu, "mcc": mcc, "correlation": correlation, "dead": 0.1, "threshold_l0": l0}
    return {**{name: seeds(value) for name, value in found.items()}, "l0": [l0] * 3}


def made_up() -> dict:
    levels = {
        "topk": (0.3, 0.95, 0.0),
        "mutual": (0.2, 0.8, 0.9),
        "jumprelu": (0.25, 0.9, 0.9),
        "gated": (0.26, 0.9, 0.9),
    }
    variants = {
        name: [setting(k, fvu / k, mcc, correlation) for k in KS] for name, (fvu, mcc, correlation) in levels.items()
    }
    references = {"components": [[0.9, 0.7, 0.5]] * 3, "pursuit": [[0.1, 0.05, 0.01]] * 3}
    return {"seeds": [0, 1, 2], "corpora": {}, "ks": KS, "true_l0": 5.0, "variants": variants, "references": references}


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


def spoil(variant: str, index: int, metric: str, value: float) -> dict:
    results = copy.deepcopy(made_up())
    results["variants"][variant][index][metric] = [value] * 3
    return results


@pytest.mark.parametrize(
    "variant, index, metric, value, broken",
    [
        ("mutual", 1, "correlation", 0.5, {"mutual_follows_difficulty"}),
        ("mutual", 0, "threshold_l0", 2.2, {"threshold_mode_l0"}),
        ("gated", 1, "fvu", 0.03, {"mutual_below_jumprelu_and_gated"}),
    ],
)
def test_each_claim_can_fail(variant, index, metric, value, broken):
    assert {name for name, holds in verdicts(spoil(variant, index, metric, value)).items() if not holds} == broken


def test_one_value_of_k_may_break_the_order_but_not_two():
    results = spoil("mutual", 0, "fvu", 0.9)
    assert verdicts(results)["mutual_below_topk"] is True
    results["variants"]["mutual"][2]["fvu"] = [0.01, 0.9, 0.01]  # one seed is enough
    assert verdicts(results)["mutual_below_topk"] is False


def test_a_tuned_baseline_below_mutual_choice_is_seen():
    results = spoil("jumprelu", 1, "fvu", 0.01)
    assert verdicts(results)["mutual_below_jumprelu_and_gated"] is False


def test_metrics_are_interpolated_in_the_logarithm_of_l0():
    arms = {"relu": [setting(8.0, 0.2, 0, 0), setting(2.0, 0.6, 0, 0)]}
    assert at_l0(arms, "relu", "fvu", 4.0) == pytest.approx([0.4, 0.401, 0.402])
    assert at_l0(arms, "relu", "fvu", 1.0) == pytest.approx([0.6, 0.601, 0.602])


def test_figure_has_the_references():
    labels = [text.get_text() for text in figure(made_up()).axes[0].get_legend().get_texts()]
    assert labels == ["TopK", "Mutual Choice", "JumpReLU", "Gated", "oracle: matching pursuit", "principal components"]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"ks": (0.2,)}, "ks"),
        ({"ks": (2.0, 20.0)}, "ks"),
        ({"ks": (2.5,)}, "ks"),
        ({"relu": (-0.1,)}, "relu"),
        ({"variants": ("topk", "mutal")}, "variants"),
        ({"variants": ("mutual", "relu")}, "variants"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
