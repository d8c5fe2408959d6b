"""The claims on results made up to satisfy all of them, then spoilt one by one; matching pursuit at a wanted sparsity."""

import copy
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.sae.recovery import PRESETS, claims, figure, pursue
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
# Lowest FVU: mutual; highest MCC: jumprelu and gated; Spearman's correlation of -FVU and MCC: -0.2.
LEVELS = {"topk": (0.3, 0.85), "mutual": (0.1, 0.8), "jumprelu": (0.2, 0.95), "gated": (0.25, 0.94)}


def kinds() -> dict:
    def metrics(fvu: float, mcc: float) -> dict:
        level = {"fvu": fvu, "mcc": mcc, "f1": mcc - 0.3, "pursuit_fvu": fvu / 2, "pursuit_f1": mcc - 0.4}
        return {name: [value, value + 0.001, value + 0.002] for name, value in level.items()}

    return {variant: metrics(*level) for variant, level in LEVELS.items()}


def made_up() -> dict:
    names = ("spare", "equal", "scarce", "hierarchical")
    reference = {"fvu": [0.05] * 3, "l0": [5.0] * 3, "f1": [0.9] * 3, "components": [0.6] * 3, "true_l0": [5.0] * 3}
    return {
        "seeds": [0, 1, 2],
        "corpora": {},
        "k": 5.0,
        "regimes": {name: kinds() for name in names},
        "references": dict.fromkeys(names, reference),
        "orthogonal": {variant: [0.995] * 3 for variant in LEVELS},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "variant, changes, broken",
    [
        ("jumprelu", {"fvu": [0.05] * 3}, {"recovery_is_not_reconstruction"}),
        (
            "mutual",
            {"mcc": [0.99] * 3},
            {"jumprelu_and_gated_recover_best", "fvu_is_a_weak_guide_to_recovery"},
        ),  # F1 still tells them apart
        ("topk", {"mcc": [0.945] * 3}, {"jumprelu_and_gated_recover_best"}),
        ("topk", {"pursuit_fvu": [2.0] * 3}, {"pursuit_reconstructs_better_and_recovers_worse"}),
        ("topk", {"pursuit_f1": [3.0] * 3}, {"pursuit_reconstructs_better_and_recovers_worse"}),
    ],
)
def test_each_claim_can_fail(variant, changes, broken):
    results = copy.deepcopy(made_up())
    results["regimes"]["spare"][variant] |= changes
    assert {name for name, holds in verdicts(results).items() if not holds} == broken


def test_one_seed_of_one_kind_breaks_the_check():
    results = made_up()
    results["orthogonal"]["gated"] = [1.0, 0.98, 1.0]
    assert [name for name, holds in verdicts(results).items() if not holds] == [
        "every_kind_recovers_orthogonal_features"
    ]


def test_pursuit_meets_the_wanted_sparsity_and_finds_orthogonal_features():
    data = SyntheticConfig(width=8, features=8, l0=2.0, orthogonal=True)
    dictionary = make_dictionary(data, jax.random.key(0))
    tokens = sample_tokens(data, dictionary, 512, jax.random.key(1))
    x, truth = tokens.activations, np.asarray(tokens.codes)
    codes = np.asarray(pursue(x, x, dictionary, float((truth != 0).sum(axis=1).mean()), 8))
    np.testing.assert_allclose(codes, truth, atol=1e-5)
    half = np.asarray(pursue(x, x, dictionary, 0.5, 8))
    assert (half != 0).sum(axis=1).mean() == pytest.approx(0.5, abs=0.01)


def test_figure_names_every_regime():
    axes = figure(made_up()).axes
    assert [panel.get_title(loc="left") for panel in axes[:4]] == ["spare", "equal", "scarce", "hierarchical"]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"k": 2.5}, "k"),
        ({"k": 17.0}, "k"),
        ({"pursuit_steps": 1}, "pursuit_steps"),
        ({"relu": -0.1}, "relu"),
        ({"variants": ("topk", "jumprelu", "gate")}, "variants"),
        ({"variants": ("topk", "mutual")}, "variants"),
        ({"check": replace(SMOKE.check, seeds=(7,))}, "check.seeds"),
        ({"orthogonal": SMOKE.spare}, "orthogonal"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
