"""The claims on results made up to satisfy all of them, then spoilt one by one; costs, figure, and configurations that are refused."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from experiments.merging.methods import NAMES, PARTITIONS
from experiments.merging.off_the_shelf import DRAWN, PRESETS, UNWEIGHTED, claims, figure
from experiments.merging.reduced_vision import cost
from experiments.subjects.glyph_classifiers import GLYPHS, tiny
from experiments.subjects.published_classifiers import PublishedModel
from lexinv.validation import InvalidConfig

RATIOS, FLOPS, SEEDS = (0.9, 0.8, 0.6), (0.74, 0.54, 0.31), 3
SPREAD = 0.001 * np.arange(SEEDS)


def runs(rows) -> list:
    return (np.array(rows)[:, None] + SPREAD).tolist()


def made_up() -> dict:
    """PiToMe loses least, then the others, DCT, the inverted energy; distances in the same order."""
    losses = {name: 0.02 + 0.001 * place for place, name in enumerate(NAMES)}
    losses |= {"pitome": 0.004, "tome": 0.01, "dct": 0.1, "pitome_inverted": 0.15, "prune_random": 0.2}

    def measured(name: str) -> dict:
        accuracy = [0.98 - losses[name] * factor for factor in (1, 2, 3)]
        distance = [losses[name] * factor for factor in (1, 2, 3)] if name in PARTITIONS else None
        return {
            "accuracy": runs(accuracy),
            "distance": None if distance is None else runs(distance),
            "speed": [1.1, 1.2, 1.4],
        }

    def data() -> dict:
        unweighted = {"accuracy": runs([0.9, 0.9, 0.9]), "distance": None, "speed": [1.1, 1.2, 1.4]}
        return {
            "base": (0.98 + SPREAD).tolist(),
            "ratios": list(RATIOS),
            "flops": list(FLOPS),
            "methods": {name: measured(name) for name in NAMES},
            "unweighted": {name: copy.deepcopy(unweighted) for name in UNWEIGHTED},
        }

    picture = {
        "image": np.zeros((8, 8, 3), int).tolist(),
        "label": 3,
        "groups": {name: [0, 1, 1, -1] for name in DRAWN},
    }
    return {
        "corpora": {},
        "seeds": list(range(SEEDS)),
        "unweighted_ratios": list(RATIOS),
        "subjects": {"glyphs": data(), "digits": data()},
        "pictures": [picture, picture],
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


def put(method: str, rows, what: str = "accuracy", data: str = "glyphs"):
    def change(results: dict) -> None:
        results["subjects"][data]["methods"][method][what] = runs(rows)

    return change


def put_base(results: dict) -> None:
    """Below 95 %, and everything else with it."""
    for found in results["subjects"].values():
        found["base"] = (np.array(found["base"]) - 0.05).tolist()
        for kind in ("methods", "unweighted"):
            for one in found[kind].values():
                one["accuracy"] = (np.array(one["accuracy"]) - 0.05).tolist()


def cheap(results: dict) -> None:
    results["subjects"]["digits"]["flops"] = [0.9, 0.8, 0.7]


def unweighted_wins(results: dict) -> None:
    results["subjects"]["digits"]["unweighted"]["tome"]["accuracy"] = runs([0.97, 0.97, 0.97])


def tome_wins(results: dict) -> None:
    put("tome", [0.979, 0.979, 0.979])(results)


@pytest.mark.parametrize(
    "change, broken",
    [
        (put_base, {"base_models_are_right"}),
        (tome_wins, {"pitome_not_below_tome"}),
        (put("prune_random", [0.9, 0.975, 0.4], data="digits"), {"pitome_above_random_pruning"}),
        (put("complete_graph", [0.9, 0.6, 0.55]), {"inverted_energy_worst"}),
        (put("dct", [0.9, 0.95, 0.95]), {"dct_last"}),
        (cheap, {"pitome_saves_flops"}),
        (put("pitome", [0.97, 0.968, 0.96], data="digits"), {"pitome_saves_flops"}),
        (unweighted_wins, {"proportional_attention_helps"}),
        (put("tome", [0.001, 0.001, 0.001], "distance"), {"pitome_keeps_the_spectrum_better"}),
    ],
)
def test_each_claim_can_break_alone(change, broken):
    results = made_up()
    change(results)
    assert {name for name, holds in verdicts(results).items() if holds is False} == broken


def test_a_spectrum_that_tells_nothing_breaks_its_claim():
    results = made_up()
    for name in PARTITIONS:
        found = results["subjects"]["digits"]["methods"][name]
        found["distance"] = (1 - np.array(found["distance"])).tolist()
    assert verdicts(results)["spectrum_tells_accuracy"] is False
    assert verdicts(results)["pitome_keeps_the_spectrum_better"] is False


def test_another_variant_of_pitome_may_carry_a_claim():
    results = made_up()
    put("pitome", [0.9, 0.9, 0.3])(results)
    put("pitome_ordered", [0.979, 0.979, 0.979])(results)
    put("pitome_ordered", [0.979, 0.979, 0.979], data="digits")(results)
    claim = {claim.name: claim for claim in claims(results)}["pitome_not_below_tome"]
    assert claim.holds
    assert NAMES["pitome_ordered"][0] in claim.statement


def test_one_seed_cannot_tell():
    results = made_up()
    for found in results["subjects"].values():
        found["base"] = found["base"][:1]
        for kind in ("methods", "unweighted"):
            for one in found[kind].values():
                for what in ("accuracy", "distance"):
                    one[what] = one[what] and [row[:1] for row in one[what]]
    assert set(verdicts(results).values()) == {None}


def test_figure_leaves_results_alone():
    results = made_up()
    before = copy.deepcopy(results)
    drawn = figure(results)
    assert len(drawn.axes) == 4 + 2 * (1 + len(DRAWN))
    assert results == before


def test_a_published_model_has_a_panel_of_its_own():
    results = made_up()
    results["subjects"]["DeiT-S"] = copy.deepcopy(results["subjects"]["digits"])
    assert len(figure(results).axes) == 5 + 2 * (1 + len(DRAWN))
    put("prune_random", [0.999, 0.9, 0.9], data="DeiT-S")(results)
    assert verdicts(results)["pitome_above_random_pruning"] is False


def test_cost_is_relative_to_the_unreduced_model():
    model = GLYPHS.model
    assert cost(model, (0,) * 6) == 1
    # 4 N C^2 + 2 N^2 C + 2 M C H of a layer with C = 48, H = 192, by hand.
    full = 4 * 65 * 48**2 + 2 * 65**2 * 48 + 2 * 65 * 48 * 192
    less = 4 * 65 * 48**2 + 2 * 65**2 * 48 + 2 * 33 * 48 * 192
    assert cost(model, (0, 0, 0, 0, 0, 32)) == pytest.approx((5 * full + less) / (6 * full))


@pytest.mark.parametrize(
    "field, change",
    [
        ("methods", {"methods": (*NAMES, "best")}),
        ("methods", {"methods": ("tome", "pitome")}),
        ("few", {"few": ("tome", "tome")}),
        ("ratios", {"ratios": (0.6, 0.9)}),
        ("ratios", {"ratios": (0.95, 0.9)}),
        ("ratios", {"ratios": (1.0, 0.6)}),
        ("digit_ratios", {"digit_ratios": (0.5,)}),
        ("picture_ratio", {"picture_ratio": 0.5}),
        ("images", {"images": 100}),
        ("test_digits", {"test_digits": 0}),
        ("spectra", {"spectra": 65}),
        ("repeats", {"repeats": 0}),
        ("published.name", {"published": (PublishedModel("digits", "weights", 3),)}),
        ("published.images", {"published": (PublishedModel("DeiT", "weights", 3, images=100),)}),
        ("digits.training.seeds", {"glyphs": tiny(GLYPHS, (5, 6))}),
    ],
)
def test_impossible_configurations_are_refused(field, change):
    with pytest.raises(InvalidConfig, match=field):
        replace(PRESETS["cpu"], **change)
