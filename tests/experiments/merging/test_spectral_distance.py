"""The claims on results made up to satisfy all of them, then spoilt one by one; layouts and baselines."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from experiments.merging.spectral_distance import (
    LAYOUTS,
    METHODS,
    PRESETS,
    by_cluster,
    by_pair,
    claims,
    cluster_sizes,
    draw,
    figure,
    goal_of,
    slopes,
)
from lexinv.validation import InvalidConfig

NOISES, SEEDS = (0.3, 0.1, 0.01, 0.001), 3


def made_up() -> dict:
    """Distances 0.1 noise^2 where a method keeps the spectrum and 0.1 where it does not, a little different by seed."""
    spread = 1 + 0.05 * np.arange(SEEDS)
    vanishing, staying = np.square(NOISES)[:, None] * 0.1 * spread, np.ones((len(NOISES), 1)) * 0.1 * spread

    def runs(layout: str, depth: str, method: str) -> dict:
        if (depth, method) == ("goal", "protect") and layout in ("parity", "unequal"):
            pure = np.ones((len(NOISES), SEEDS)) - 0.6 * spread
            return {"distance": (3 * staying).tolist(), "purity": pure.tolist()}
        breaks = (
            method == "inverted"
            or (method in ("tome", "random") and layout in ("parity", "dominant"))
            or (method == "protect" and layout == "equal")
        )
        pure = np.ones((len(NOISES), SEEDS)) - breaks * 0.3 * spread
        return {"distance": (staying if breaks else vanishing).tolist(), "purity": pure.tolist()}

    layouts = {
        layout: {
            "goal": 8,
            "sizes": [32, 32],
            **{depth: {"left": 9, **{m: runs(layout, depth, m) for m in METHODS}} for depth in ("step", "goal")},
        }
        for layout in LAYOUTS
    }
    return {"corpora": {}, "seeds": list(range(SEEDS)), "noises": list(NOISES), "layouts": layouts}


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


STAYS, LINEAR = [[0.1] * SEEDS] * 4, [[0.01 * noise] * SEEDS for noise in NOISES]
SQUARE = [[0.1 * noise**2] * SEEDS for noise in NOISES]


@pytest.mark.parametrize(
    "layout, depth, method, what, value, broken",
    [
        (
            "parity",
            "step",
            "protect",
            "distance",
            STAYS,
            {"pitome_preserves_spectrum", "vanishes_with_squared_noise", "inverted_energy_worse"},
        ),
        ("dominant", "goal", "protect", "distance", LINEAR, {"vanishes_with_squared_noise"}),
        ("dominant", "goal", "tome", "distance", SQUARE, {"tome_does_not"}),
        ("parity", "step", "tome", "distance", [*STAYS[:3], SQUARE[3]], {"tome_does_not"}),
        ("parity", "step", "ordered", "distance", STAYS, {"ordered_pitome_preserves_spectrum"}),
        ("dominant", "goal", "inverted", "distance", SQUARE, {"inverted_energy_worse"}),
        ("unequal", "step", "tome", "distance", STAYS, {"tome_preserves_many_clusters"}),
        ("equal", "goal", "protect", "purity", [[1.0] * SEEDS] * 4, {"pitome_loses_on_equal_clusters"}),
        ("equal", "goal", "protect", "distance", SQUARE, {"pitome_loses_on_equal_clusters"}),
        ("parity", "goal", "protect", "distance", SQUARE, {"pitome_loses_when_iterated"}),
        ("unequal", "goal", "protect", "purity", [[1.0] * SEEDS] * 4, {"pitome_loses_when_iterated"}),
        ("dominant", "step", "tome", "distance", SQUARE, set()),  # not the depth that is judged
    ],
)
def test_one_method_is_enough_to_break_a_claim(layout, depth, method, what, value, broken):
    results = made_up()
    results["layouts"][layout][depth][method][what] = value
    assert {name for name, holds in verdicts(results).items() if holds is False} == broken


def test_one_seed_cannot_tell():
    results = made_up()
    for layout in results["layouts"].values():
        for depth in ("step", "goal"):
            for method in METHODS:
                layout[depth][method] = {k: [row[:1] for row in v] for k, v in layout[depth][method].items()}
    assert set(verdicts(results).values()) == {None}


def test_slopes_are_exponents():
    results = made_up()
    np.testing.assert_allclose(slopes(results, "parity", "step", "protect"), 2)
    np.testing.assert_allclose(slopes(results, "parity", "step", "tome"), 0, atol=1e-9)


def test_figure_leaves_results_alone():
    results = made_up()
    before = copy.deepcopy(results)
    drawn = figure(results)
    assert len(drawn.axes) == 8
    labels = [text.get_text() for text in drawn.axes[4].get_legend().get_texts()]
    assert labels == [label for label, _ in METHODS.values()]
    assert results == before


@pytest.mark.parametrize("tokens", [32, 64, 200])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tokens):
    sizes = cluster_sizes(layout, tokens)
    assert sum(sizes) == tokens and min(sizes) >= 1 and sizes[0] == max(sizes)
    assert len(set(sizes)) == 1 if layout == "equal" else sizes[0] > sizes[1]
    config = replace(PRESETS["cpu"], tokens=tokens)
    x, labels = draw(layout, config, 0.01, 0)
    assert np.bincount(labels).tolist() == sizes
    assert x.shape == (tokens, config.width)
    if layout == "parity":
        assert set(labels[0::2]) == {0} and 0 not in labels[1::2]
    assert len(sizes) <= goal_of(layout, tokens) < tokens * 7 / 8
    again, _ = draw(layout, config, 0.1, 0)
    centres = x - (again - x) * 0.01 / 0.09
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-9)


def test_baselines_merge_within_clusters():
    """Down to the clusters both find them; on the way the oracle takes the largest, the greedy one the closest."""
    labels = np.array([1, 0, 0, 2, 0, 1, 0])
    assert by_cluster(labels, 5).tolist() == [0, 1, 1, 3, 1, 5, 6]
    assert by_cluster(labels, 3).tolist() == [0, 1, 1, 3, 1, 0, 1]
    rng = np.random.default_rng(0)
    x = np.eye(3)[labels] + 0.01 * rng.normal(size=(7, 3))
    found = by_pair(x, 3)
    assert np.array_equal(found[:, None] == found[None, :], labels[:, None] == labels[None, :])
    x[3] = x[0] + 1e-6
    assert len(np.unique(by_pair(x, 6))) == 6 and by_pair(x, 6)[0] == by_pair(x, 6)[3]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"tokens": 36}, "tokens"),
        ({"tokens": 24}, "tokens"),
        ({"width": 12}, "width"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": ()}, "seeds"),
        ({"noises": (0.01, 0.1)}, "noises"),
        ({"noises": (0.3, 0.01)}, "noises"),
        ({"noises": (0.1, 0.05)}, "noises"),
        ({"noises": (0.1, 0.01, 0.0)}, "noises"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(PRESETS["cpu"], **change)
    assert error.value.field == field
