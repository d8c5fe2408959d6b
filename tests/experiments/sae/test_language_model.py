"""The claims on results made up to satisfy all of them, then spoilt one by one."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from experiments.sae.language_model import PRESETS, Config, claims, figure
from experiments.subjects.activation_autoencoders import ranks_shown
from lexinv.validation import InvalidConfig

EXPONENTIAL = (0.3 * np.exp(-0.01 * ranks_shown(512))).tolist()
FVU = {"topk": 0.3, "mutual": 0.25, "mutual_zipf": 0.25, "feature_zipf": 0.28}


def made_up() -> dict:
    def metrics(kind: str, predicts: bool) -> dict:
        def seeds(value: float) -> list[float]:
            return [value, value + 0.001, value + 0.002]

        found = {name: seeds(FVU[kind]) for name in ("fvu", "batch_fvu")}
        found |= {
            "l0": seeds(16.2),
            "batch_l0": [16.0] * 3,
            "zipf_r2": seeds(0.97),
            "alpha": seeds(0.5),
            "output": seeds(4.1),
        }
        dead = 0.0 if kind in ("feature_zipf", "mutual_zipf") else 0.01
        found |= {name: [dead] * 3 for name in ("dead", "batch_dead", "batch_under_used")}
        densities = 0.3 * (ranks_shown(512) + 1.0) ** -0.5
        return found | {
            "densities": [densities.tolist()] * 3,
            "harder_more": seeds(0.1) if predicts else [None] * 3,
            "l0_by_loss": [np.linspace(10, 20, 10).tolist()] * 3 if predicts else [None] * 3,
        }

    def model(predicts: bool) -> dict:
        return {
            "width": 128,
            "features": 512,
            "k": 16.0,
            "predicts": predicts,
            "outputs": {"clean": [4.0] * 3, "zero": [8.0] * 3, "mean": [7.5] * 3},
            "references": {"components": [0.5] * 3, "random": [0.6] * 3},
            "variants": {kind: metrics(kind, predicts) for kind in FVU},
        }

    return {"seeds": [0, 1, 2], "corpora": {}, "arms": {}, "models": {"own": model(True), "minilm": model(False)}}


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "model, kind, metric, values, broken",
    [
        ("minilm", "mutual", "batch_fvu", [0.2, 0.25, 0.35], {"mutual_below_topk"}),
        ("own", "feature_zipf", "batch_dead", [0.0, 0.0, 0.01], {"feature_choice_no_dead"}),
        ("minilm", "mutual_zipf", "batch_under_used", [0.02] * 3, {"zipf_not_worse"}),
        ("own", "mutual_zipf", "batch_dead", [0.02] * 3, {"zipf_not_worse"}),
        ("minilm", "mutual", "l0", [17.0] * 3, {"threshold_mode_l0"}),
        ("own", "mutual", "output", [4.5] * 3, {"ce_recovered"}),
        ("minilm", "mutual", "densities", [EXPONENTIAL] * 3, {"densities_follow_zipf"}),
        ("own", "feature_zipf", "dead", [0.0, 0.0, 0.01], {"feature_choice_no_dead"}),
        ("own", "mutual", "harder_more", [-0.1, 0.0, 0.1], {"harder_tokens_use_more"}),
    ],
)
def test_each_claim_can_fail(model, kind, metric, values, broken):
    results = copy.deepcopy(made_up())
    results["models"][model]["variants"][kind][metric] = values
    assert {name for name, holds in verdicts(results).items() if not holds} == broken


def test_one_seed_cannot_tell():
    results = made_up()
    results["seeds"] = [0]
    for model in results["models"].values():
        for group in (model["outputs"], *model["variants"].values()):
            for name in group:
                group[name] = group[name][:1]
    found = verdicts(results)
    assert found.pop("feature_choice_no_dead") is True
    assert set(found.values()) == {None}


def test_figure_has_a_row_for_each_model():
    axes = figure(made_up()).axes
    assert len(axes) == 8
    assert [axes[i].get_title(loc="left") for i in (0, 4)] == [
        "Own language model: D = 128, F = 512",
        "MiniLM: D = 128, F = 512",
    ]


def test_impossible_configurations_are_refused():
    smoke = PRESETS["smoke"].subjects[0]
    with pytest.raises(InvalidConfig) as error:
        Config((smoke, smoke))
    assert error.value.field == "subjects"
    with pytest.raises(InvalidConfig) as error:
        Config((replace(smoke, autoencoders=replace(smoke.autoencoders, variants=("topk",))),))
    assert error.value.field == "autoencoders.variants"
    with pytest.raises(InvalidConfig) as error:
        replace(smoke.subject, layer=2)
    assert error.value.field == "subject.layer"
    with pytest.raises(InvalidConfig) as error:
        replace(smoke.subject.own, training=replace(smoke.subject.own.training, seeds=(0, 1)))
    assert error.value.field == "own.training.seeds"
