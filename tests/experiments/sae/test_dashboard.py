"""The claims on results made up to satisfy all of them, then spoilt one by one."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.sae.dashboard import PRESETS, claims, figure
from experiments.subjects.activation_autoencoders import ranks_shown
from lexinv.validation import InvalidConfig


def made_up() -> dict:
    densities = (0.3 * (ranks_shown(64) + 1.0) ** -0.6).tolist()
    shares = [{"features": 0.8 + s, "directions": 0.5, "tokens": 0.2} for s in (0.0, 0.01, 0.02)]
    spread = {"features": [0, 1, 5], "directions": [2, 2, 1], "tokens": [6, 0, 0]}
    return {
        "seeds": [0, 1, 2],
        "corpora": {},
        "arms": {},
        "page": "features.html",
        "features": 64,
        "shown": [
            {"feature": 3, "group": group, "rank": rank, "density": 0.3 * rank**-0.6}
            for rank, group in enumerate(("densest", "sparsest", "“import”", "“self”"), start=1)
        ],
        "raised": 20,
        "chance": 0.01,
        "specific": shares,
        "spread": [spread] * 3,
        "next_raised": [0.3, 0.31, 0.32],
        "next_raised_by_others": [0.1] * 3,
        "densities": [densities] * 3,
        "live": [64] * 3,
        "alpha": [0.6] * 3,
        "zipf_r2": [0.97, 0.98, 0.99],
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "changes, broken",
    [
        ({"specific": [{"features": 0.45, "directions": 0.3, "tokens": 0.2}] * 3}, {"features_are_specific"}),
        ({"specific": [{"features": 0.8, "directions": 0.8, "tokens": 0.2}] * 3}, {"more_specific_than_directions"}),
        ({"next_raised": [0.05, 0.1, 0.2]}, {"logit_effects_foretell"}),
        ({"densities": [np.exp(-0.1 * ranks_shown(64)).tolist()] * 3}, {"densities_follow_zipf"}),
    ],
)
def test_each_claim_can_fail(changes, broken):
    assert {name for name, holds in verdicts(made_up() | changes).items() if not holds} == broken


def test_figure_marks_the_features_of_the_page_and_names_searches_once():
    axes = figure(made_up()).axes
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert labels == ["all features", "Zipf, alpha = 0.60", "densest", "sparsest", "searched for"]
    assert len(axes[0].lines) == 6


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"passages": 1}, "passages"),
        ({"passages": 500}, "passages"),
        ({"shown": 0}, "shown"),
        ({"search": ("a", "")}, "search"),
        ({"subject": replace(PRESETS["smoke"].subject, model="minilm")}, "subject.model"),
        (
            {"autoencoders": replace(PRESETS["smoke"].autoencoders, variants=("topk", "mutual"))},
            "autoencoders.variants",
        ),
    ],
)
def test_impossible_configurations_are_refused(changes, field):
    with pytest.raises(InvalidConfig) as error:
        replace(PRESETS["smoke"], **changes)
    assert error.value.field == field
