"""The claims on results made up to satisfy all of them, then spoilt one by one."""

import copy
from dataclasses import replace

import pytest

from experiments.sae.allocation import KINDS, PRESETS, WIDENED, claims, figure
from lexinv.validation import InvalidConfig

FVU = {"topk": 0.5, "mutual": 0.4, "mutual_zipf": 0.39, "feature_uniform": 0.45, "feature_zipf": 0.3}


def made_up() -> dict:
    def metrics(kind: str) -> dict:
        spread = (0.0, 0.001, 0.002)
        level = {"fvu": FVU[kind], "mcc": 0.9, "under_used": 0.1 if kind == "mutual_zipf" else 0.2}
        found = {name: [value + (s if kind == "topk" else 0.0) for s in spread] for name, value in level.items()}
        return found | {mode: [0.0 if kind.startswith("feature") else 0.3] * 3 for mode in ("dead", "threshold_dead")}

    regimes = {name: {kind: metrics(kind) for kind in KINDS} for name in ("spare", "scarce", "offset")}

    def by_width(kind: str) -> dict:
        dead = [[0.0] * 3] * 2 if kind.startswith("feature") else [[0.1, 0.1, 0.11], [0.5, 0.52, 0.51]]
        return {"dead": dead, "threshold_dead": dead, "fvu": [[0.5] * 3, [0.4] * 3]}

    references = {name: {"components": [0.8] * 3, "pursuit": [0.2] * 3} for name in regimes}
    wide = {"widths": [48, 96], "true_features": 96, "by_width": {kind: by_width(kind) for kind in WIDENED}}
    return {"seeds": [0, 1, 2], "corpora": {}, "k": 5.0, "regimes": regimes, "references": references, **wide}


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "regime, kind, metric, values, broken",
    [
        ("spare", "feature_uniform", "dead", [0.0, 0.0, 0.01], {"feature_choice_no_dead"}),
        ("scarce", "feature_zipf", "threshold_dead", [0.0, 0.02, 0.0], {"feature_choice_no_dead"}),
        ("scarce", "mutual_zipf", "under_used", [0.3] * 3, {"zipf_not_worse"}),
        ("spare", "mutual_zipf", "dead", [0.4] * 3, {"zipf_not_worse"}),
        ("scarce", "mutual", "fvu", [0.51] * 3, {"mutual_below_topk_in_every_regime"}),
        ("spare", "feature_uniform", "fvu", [0.29] * 3, {"zipf_budgets_beat_uniform_ones"}),
        (
            "spare",
            "feature_zipf",
            "fvu",
            [0.6] * 3,
            {"feature_choice_reconstructs_better", "zipf_budgets_beat_uniform_ones"},
        ),
        ("offset", "feature_zipf", "fvu", [0.44] * 3, {"feature_choice_survives_an_offset"}),
    ],
)
def test_each_claim_can_fail(regime, kind, metric, values, broken):
    results = copy.deepcopy(made_up())
    results["regimes"][regime][kind][metric] = values
    assert {name for name, holds in verdicts(results).items() if not holds} == broken


@pytest.mark.parametrize("kind, dead", [("topk", [0.5] * 3), ("mutual", [0.9] * 3), ("feature_zipf", [0.0, 0.01, 0.0])])
def test_the_claim_on_widths_can_fail(kind, dead):
    results = made_up()
    results["by_width"][kind]["dead"] = [dead, results["by_width"][kind]["dead"][1]]
    broken = {name for name, holds in verdicts(results).items() if not holds}
    assert broken == {"dead_features_grow_with_width_but_not_of_feature_choice"}


def test_one_seed_cannot_tell():
    results = made_up()
    results["seeds"] = [0]
    for kinds in results["regimes"].values():
        for metrics in kinds.values():
            for name in metrics:
                metrics[name] = metrics[name][:1]
    assert verdicts(results)["mutual_below_topk_in_every_regime"] is None


def test_figure_names_every_regime():
    axes = figure(made_up()).axes
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["spare", "scarce", "offset"]


def test_a_batch_too_small_for_feature_choice_is_refused():
    smoke = PRESETS["smoke"]
    with pytest.raises(InvalidConfig) as error:
        replace(smoke, training=replace(smoke.training, batch=8))
    assert error.value.field == "k"
