"""The claims on results made up to satisfy all of them, then spoilt one by one; and what a configuration may not be."""

import copy

import jax
import numpy as np
import pytest

from experiments.lexinvariance.pac_invariance import (
    PRESETS,
    Config,
    causal_predictor,
    claims,
    draw_family,
    figure,
    needed,
    rank_counts,
)
from lexinv.lexinvariance.invariance import invariance_gap
from lexinv.lexinvariance.structural_equations import moments
from lexinv.precision import double_precision
from lexinv.validation import InvalidConfig

SEEDS, ENVIRONMENTS = 3, [2, 4, 8, 16, 32, 64]
COUNTS = rank_counts(100)


def made_up() -> dict:
    """Two sites: rank 6, four environments needed. All sites: rank n², n environments needed."""

    def ranks(limit):
        return [[min(m, limit) for m in COUNTS]] * SEEDS

    def violated(need, rank):
        share = [0.9 if m < need else 0.0 for m in ENVIRONMENTS]
        return {"share": [share] * SEEDS, "gap": [[1.0 if s else 1e-12 for s in share]] * SEEDS, "rank": [rank] * SEEDS}

    noise = 0.01 * np.arange(SEEDS)[:, None]
    stages = {
        "many": {"share": [[0.0]] * SEEDS, "gap": [[0.0]] * SEEDS, "rank": [4] * SEEDS},
        "transfer": [0.5, 0.6, 0.7],
        "risks": {
            "erm": np.add(noise, [0.8, 1.5]).tolist(),
            "irm": np.add(noise, [0.9, 1.2]).tolist(),
            "subset": [[1.0, 1.0]] * SEEDS,
            "parents": [[1.0, 1.0]] * SEEDS,
        },
        "samples": (np.array([0.3, 0.3 / np.sqrt(10), 0.03]) * (1 + noise)).tolist(),
    }
    for n in (8, 16):
        stages |= {f"rank-one-{n}": ranks(4), f"rank-two-{n}": ranks(6), f"rank-all-{n}": ranks(n**2 // 4)}
        stages |= {f"violated-two-{n}": violated(4, 6), f"violated-all-{n}": violated(n, 60)}
        stages |= {f"violated-latent-{n}": violated(4, 6)}
    fixed = {"in_degree": 2, "features": 1, "many": 16_384, "rank_environments": 100, "epsilon": 0.01, "delta": 0.05}
    return {
        "seeds": list(range(SEEDS)),
        "corpora": {},
        "variables": [8, 16],
        "latent_variables": [8, 16],
        "environments": ENVIRONMENTS,
        "shifts": [1.0, 3.0],
        "samples": [100, 1000, 10_000],
        **fixed,
        "stages": stages,
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


LATE = [[0.9, 0.9, 0.9, 0.9, 0.0, 0.0]] * SEEDS
"""Violated below 32 environments."""


@pytest.mark.parametrize(
    "path, value, broken",
    [
        (("rank-one-16", 1, -1), 5, {"one_site_spans_in_degree_plus_two"}),
        (("rank-two-16",), [[9] * len(COUNTS)] * SEEDS, {"fixed_sites_rank_does_not_grow"}),
        (("rank-all-16",), [[16] * len(COUNTS)] * SEEDS, {"all_sites_rank_grows"}),
        (("violated-two-16", "share"), LATE, {"fixed_sites_needed_does_not_grow"}),
        (("violated-all-8", "share"), LATE, {"all_sites_needed_grows"}),
        (("violated-latent-16", "share"), LATE, {"mixed_latents_need_no_more"}),
        (("violated-two-8", "gap", 2, 3), 1e-3, {"invariance_transfers_from_rank"}),
        (("many", "share"), [[0.5]] * SEEDS, {"bounds_hold"}),
        (("transfer", 1), 1.1, {"bounds_hold"}),
        (("risks", "subset"), [[1.0, 1.6]] * SEEDS, {"invariant_wins_under_shift", "invariant_risk_stays"}),
        (("risks", "parents"), [[0.7, 0.7]] * SEEDS, {"least_squares_wins_in_distribution"}),
        (("risks", "irm"), [[0.9, 1.6]] * SEEDS, {"irm_beats_least_squares_under_shift"}),
        (("samples",), [[0.3, 0.2, 0.1]] * SEEDS, {"sampled_gap_falls_as_root"}),
    ],
)
def test_each_claim_can_fail(path, value, broken):
    results = copy.deepcopy(made_up())
    place = results["stages"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert {name for name, holds in verdicts(results).items() if not holds} == broken


def test_one_seed_cannot_tell():
    results = made_up()

    def first(value):
        if isinstance(value, dict):
            return {name: first(inner) for name, inner in value.items()}
        return value[:1] if isinstance(value, list) else value

    results["stages"] = first(results["stages"])
    assert verdicts(results)["invariant_wins_under_shift"] is None
    assert verdicts(results)["fixed_sites_needed_does_not_grow"] is None


def test_needed_environments_come_after_the_last_violation():
    stage = {"share": [[0.9, 0.0, 0.5, 0.0], [0.0] * 4, [0.1] * 4]}
    np.testing.assert_array_equal(needed(stage, [1, 2, 4, 8]), [8, 1, 16])


@pytest.mark.parametrize("sites, count", [("one", 1), ("two", 2), ("all", 6)])
def test_a_family_has_its_sites_and_an_invariant_causal_predictor(sites, count):
    with double_precision():
        family = draw_family(jax.random.key(0), Config(), 7, sites)
        assert int(family.sites.sum()) == count
        assert not family.sites[family.target]
        seen = moments(family.second_moments(jax.random.key(1), 20), family.target)
        assert invariance_gap(causal_predictor(family), seen).max() < 1e-12


@pytest.mark.parametrize(
    "field, value",
    [
        ("variables", (5,)),
        ("variables", ()),
        ("latent_variables", (12, 12)),
        ("risk_variables", 30),
        ("features", 5),
        ("strength", 0.0),
        ("epsilon", 1e-9),
        ("delta", 1.0),
        ("environments", (4, 2)),
        ("samples", (0, 10)),
        ("shifts", (0.0, 2.0)),
        ("seeds", ()),
        ("restarts", 0),
    ],
)
def test_impossible_configurations_are_refused(field, value):
    with pytest.raises(InvalidConfig) as error:
        Config(**{field: value})
    assert error.value.field == field


def test_figure_names_every_size():
    drawn = figure(made_up())
    labels = {text.get_text() for axes in drawn.axes for text in axes.get_legend().get_texts()}
    assert {"n = 8", "n = 16", "IRM"} <= labels
    assert len(PRESETS["cpu"].seeds) == 20
