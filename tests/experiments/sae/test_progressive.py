"""The claims on results made up to satisfy all of them, then spoilt one by one."""

import copy
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sae.progressive import KINDS, PRESETS, claims, figure, squared_error, total_variance
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
KEPT = [1, 2, 4, 8, 16]
TOPK, MULTI = [0.7, 0.5, 0.3, 0.35, 0.5], [0.7, 0.5, 0.31, 0.2, 0.1]


def seeds(row: list[float]) -> list[list[float]]:
    return [[value + shift for value in row] for shift in (0.0, 0.001, 0.002)]


def made_up() -> dict:
    fvu = {kind: seeds(TOPK) for kind in KINDS} | {"multi_topk": seeds(MULTI)}
    references = {
        "oracle": [[0.6, 0.4, 0.2, 0.05, 0.0]] * 3,
        "pursuit": [[0.7, 0.5, 0.3, 0.1, 0.02]] * 3,
        "components": [[0.9, 0.8, 0.7, 0.5, 0.3]] * 3,
    }
    l0 = {kind: [4.0] * 3 for kind in KINDS}
    return {"seeds": [0, 1, 2], "corpora": {}, "k": 4, "kept": KEPT, "fvu": fvu, "l0": l0, "references": references}


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "kind, row, broken",
    [
        ("multi_topk", [0.7, 0.5, 0.31, 0.2, 0.6], {"multi_topk_progressive"}),
        ("multi_topk", [0.7, 0.5, 0.36, 0.2, 0.1], {"multi_topk_progressive"}),
        ("topk", [0.7, 0.5, 0.3, 0.29, 0.28], {"topk_overfits_k"}),
        ("relu", [0.5, 0.5, 0.3, 0.3, 0.3], {"oracle_below_all"}),
    ],
)
def test_each_claim_can_fail(kind, row, broken):
    results = copy.deepcopy(made_up())
    results["fvu"][kind] = seeds(row)
    assert {name for name, holds in verdicts(results).items() if not holds} == broken


def test_one_seed_cannot_tell():
    results = made_up()
    results["fvu"] = {kind: rows[:1] for kind, rows in results["fvu"].items()}
    results["references"] = {name: rows[:1] for name, rows in results["references"].items()}
    assert set(verdicts(results).values()) == {None}


def test_error_with_the_largest_entries_only():
    params = {"decoder": jnp.eye(3), "decoder_bias": jnp.zeros(3)}
    codes = jnp.array([[3.0, 2.0, 1.0], [0.0, 5.0, 0.0]])
    errors = [float(squared_error(params, codes, codes, jnp.int32(k))) for k in (1, 2, 3)]
    assert errors == pytest.approx([2.5, 0.5, 0.0])
    assert total_variance(codes) == pytest.approx(
        float(np.square(np.asarray(codes) - np.mean(np.asarray(codes), axis=0)).sum() / 2)
    )


def test_figure_has_the_references():
    labels = [text.get_text() for text in figure(made_up()).axes[0].get_legend().get_texts()]
    assert labels[-3:] == ["true codes", "matching pursuit, true dictionary", "principal components"]


@pytest.mark.parametrize("change, field", [({"k": 3}, "k"), ({"k": 8}, "k"), ({"relu": -0.1}, "relu")])
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
