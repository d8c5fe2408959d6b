"""The claims on results made up to satisfy all of them, then spoilt one by one; schedules, variants, scenes and rankings."""

import copy
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.merging import majority_group, needle_questions, pruned_vision, pruning_search, selection_quality
from experiments.merging.attention_rankings import REFERENCES, VOTES, ranks_above
from experiments.merging.majority_group import MajorityConfig, stationary_ratio
from experiments.merging.needle_questions import NeedleConfig
from experiments.merging.pruned_vision import METHODS, PROGRAMS, SUBJECTS, beyond_errors, flops_share, solve_schedule
from experiments.merging.pruning import PRESETS, claims, figure
from experiments.merging.selection_quality import BOUNDS, SELECTIONS, SelectionConfig
from experiments.subjects.glyph_classifiers import GLYPHS, tiny
from lexinv.merging.pagerank import importance
from lexinv.validation import InvalidConfig

SEEDS, LAYERS = 3, 4
SPREAD = 0.001 * np.arange(SEEDS)
BUDGETS = np.array([0.9, 0.7, 0.6, 0.5])
MODEL = GLYPHS.model


def column(value: float) -> list[float]:
    return (value + SPREAD).tolist()


def rows(value: float, slope: float = 0.0) -> list[list[float]]:
    """[seeds, budgets]: `value` at all FLOPs, less `slope` for each share saved."""
    return (value - slope * (1 - BUDGETS)[None] + np.outer(SPREAD, np.arange(1, 5))).tolist()


LOSSES = {
    "full": 0.10,
    "unfiltered": 0.10,
    "no_similarity": 0.12,
    "mean": 0.14,
    "importance_first": 0.14,
    "prune_cls": 0.3,
    "column": 0.2,
    "tome": 0.05,
    "prune_random": 0.6,
}


def made_up() -> dict:
    """Accuracy falls with the FLOPs saved at the rate of LOSSES; the S-stage is worth more on the large glyph."""
    large = LOSSES | {"no_similarity": 0.2, "column": 0.3}
    sweep = {
        subject: {
            method: {"accuracy": rows(1, loss + 0.001 * place), "glyph": rows(1 if method == "unfiltered" else 0.5)}
            for place, (method, loss) in enumerate(losses.items())
        }
        for subject, losses in (("small", LOSSES), ("large", large))
    }
    votes = np.full((SEEDS, LAYERS, len(VOTES)), 0.8) + SPREAD[:, None, None]
    votes[:, -1, -1] = 0.6 - SPREAD
    ranking = {
        "pagerank": votes.tolist(),
        "filtered": votes.tolist(),
        **{name: (np.full((SEEDS, LAYERS), 0.7) - SPREAD[:, None]).tolist() for name in REFERENCES},
    }
    search = {
        "configurations": [[[0, 9, 9], 0.3]] * 3,
        "calibration": [column(0.8), column(0.9), column(0.7)],
        "accuracy": [column(0.8), (0.85 + 2 * SPREAD).tolist(), column(0.7)],
    }
    majority = {
        "shares": [0.5, 0.8, 0.95],
        "ratio": {"alone": [column(v) for v in (2, 0.9, 0.5)], "after_similarity": [column(v) for v in (3, 1.2, 0.6)]},
        "predicted": {
            "alone": [[v] * SEEDS for v in (2, 0.9, 0.5)],
            "after_similarity": [[v] * SEEDS for v in (3, 1.2, 0.6)],
        },
    }
    majority["ratio"]["after_similarity"] = (np.array(majority["ratio"]["after_similarity"]) + SPREAD).tolist()
    covered = {
        "divprune": (0.83, 0.15, 16),
        "kcenter": (0.8, 0.15, 16),
        "maxsum": (0.3, 0.6, 15),
        "tome": (0.02, 0.9, 6),
    }
    covered |= {"random": (0.04, 0.97, 5), "top": (0.03, 1.04, 1)}

    def qualities(closest: float, radius: float, hit: float) -> dict:
        return {"closest": column(closest), "radius": column(radius), "coverage": column(0.1), "hit": [hit] * SEEDS}

    flat = {"divprune": 0.51, "random": 0.53}
    selection = {
        "clusters": 16,
        "kept": 16,
        "tokens": 249,
        "clustered": {method: qualities(*covered[method]) for method in SELECTIONS},
        "unstructured": {method: qualities(0.5, flat.get(method, 0.52), 0) for method in SELECTIONS},
        "optimality": {
            name: {"mean": 0.9, "worst": bound + 0.1, "random": 0.5, "histogram": [0] * 19 + [9]}
            for name, bound in BOUNDS.items()
        },
    }
    selection["unstructured"]["random"]["radius"] = (0.53 + 2 * SPREAD).tolist()
    rare = {"divprune": 0.99, "maxsum": 0.98, "cls": 0.2, "column": 0.2, "random": 0.3, "tome": 0.6}

    def answered(value: float) -> list:
        return [[value + s * 0.1, value + s * 0.1] for s in SPREAD]

    needle = {
        "kept": [0.1, 0.05],
        "outliers": 16,
        "plain": {
            method: {"rare": answered(value), "large": answered(0.9 if method == "cls" else 0.6)}
            for method, value in rare.items()
        },
        "with_outliers": {"divprune": {"rare": answered(0.5), "large": answered(0.8)}},
    }
    return {
        "corpora": {},
        "seeds": list(range(SEEDS)),
        "arms": {},
        "kept_flops": BUDGETS.tolist(),
        "schedules": [[0, 9, 9]] * 4,
        "whole": dict.fromkeys(SUBJECTS, column(1.0)),
        "sweep": sweep,
        "ranking": dict.fromkeys(SUBJECTS, ranking),
        "search": search,
        "majority": majority,
        "selection": selection,
        "needle": needle,
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


OPPOSED = {"head_filter_helps", "published_limits_do_not_carry_over"}
"""Either the filter helps, or it does not: both cannot hold."""


def test_all_claims_hold_on_results_that_satisfy_them():
    holds = verdicts(made_up())
    assert {name for name, held in holds.items() if not held} == {"published_limits_do_not_carry_over"}
    results = made_up()
    results["sweep"]["small"]["full"]["accuracy"] = rows(0.9, 0.1)
    assert verdicts(results)["published_limits_do_not_carry_over"]


FLAT = column(0.8)


@pytest.mark.parametrize(
    "path, value, broken",
    [
        (
            "sweep small prune_cls accuracy",
            rows(1, 0.09),
            {"full_above_cls_and_random", "all_heads_above_cls_and_random"},
        ),
        ("sweep small full accuracy", rows(0.98, 0.3), {"full_above_cls_and_random"}),
        (
            "sweep large no_similarity accuracy",
            rows(1, 0.1),
            {"similarity_stage_helps_large_objects", "similarity_stage_adds_most_on_large_objects"},
        ),
        (
            "sweep small no_similarity accuracy",
            rows(1, 0.25),
            {"similarity_stage_adds_most_on_large_objects", "pagerank_above_column_mean"},
        ),
        ("sweep large importance_first accuracy", rows(1.05, 0.0), {"i_prime_s_i_not_below_i_s"}),
        ("sweep large column accuracy", rows(1, 0.2), {"pagerank_above_column_mean"}),
        ("sweep small mean accuracy", rows(1, 0.1), {"root_mean_square_helps"}),
        ("sweep large mean accuracy", rows(1, 0.1), {"root_mean_square_helps"}),
        ("sweep small tome accuracy", rows(1, 0.2), {"tome_above_at_half"}),
        ("sweep small unfiltered glyph", rows(0.5), {"keeps_the_object"}),
        ("ranking large column", [[0.9] * LAYERS] * SEEDS, {"votes_rank_better_than_one_step"}),
        ("ranking small pagerank", [[[0.8] * len(VOTES)] * LAYERS] * SEEDS, {"iterating_deep_layers_hurts"}),
        ("search accuracy", [FLAT, FLAT, FLAT], {"search_beats_default"}),
        ("search calibration", [FLAT, column(0.7), FLAT], {"search_beats_default"}),
        ("majority ratio alone", [column(v) for v in (2, 0.95, 0.5)], {}),
        ("majority predicted alone", [[v] * SEEDS for v in (2, 0.9, 0.6)], {"two_groups_are_a_chain"}),
        ("selection clustered divprune hit", [16, 16, 15], {"divprune_hits_all_clusters"}),
        ("selection clustered random hit", [9, 9, 9], {"divprune_hits_all_clusters"}),
        ("selection clustered maxsum closest", column(0.84), {"divprune_widest_closest_pair"}),
        ("selection unstructured top radius", column(0.6), {"diversity_needs_redundancy"}),
        (
            "selection unstructured random radius",
            column(0.8),
            {"diversity_needs_redundancy", "redundancy_makes_the_gain"},
        ),
        (
            "selection optimality",
            {n: {"mean": 0.9, "worst": 0.3, "random": 0.5} for n in BOUNDS},
            {"greedy_within_bound"},
        ),
        ("selection optimality closest_pair mean", 0.7, {"greedy_near_optimum"}),
        ("needle plain cls rare", [[0.98, 0.9]] * SEEDS, {"divprune_keeps_needles"}),
        ("needle plain maxsum rare", [[1.01, 0.9]] * SEEDS, {"maxmin_not_below_maxsum_on_needles"}),
        ("needle plain cls large", [[0.6, 0.9]] * SEEDS, {"importance_serves_large_objects"}),
        ("needle with_outliers divprune rare", [[0.9, 0.97]] * SEEDS, {"outliers_take_the_budget"}),
    ],
)
def test_one_number_is_enough_to_break_a_claim(path, value, broken):
    results = made_up()
    *where, last = [{"closest_pair": "closest pair, chord"}.get(part, part) for part in path.split()]
    found = results
    for part in where:
        found[part] = copy.copy(found[part])  # subjects share theirs
        found = found[part]
    found[last] = value
    assert {name for name, holds in verdicts(results).items() if holds is False} - OPPOSED == set(broken)


def test_a_majority_that_does_not_win_breaks_its_claims():
    results = made_up()
    results["majority"]["ratio"]["alone"] = [column(v) for v in (2, 1.1, 1.05)]
    results["majority"]["predicted"]["alone"] = [[v] * SEEDS for v in (2, 1.1, 1.05)]
    broken = {name for name, holds in verdicts(results).items() if holds is False}
    assert broken - OPPOSED == {
        "majority_overwhelms",
        "similarity_stage_lifts_the_object",
        "similarity_stage_restores_the_ranking",
    }


def test_two_budgets_beyond_two_errors():
    """Means 0.02, 0.02 and 0 with standard errors 0.001, 0.02 and 0.001: one budget alone is not enough."""
    steady, wild = 0.02 + 0.001 * np.array([-1, 0, 1]), 0.02 + 0.04 * np.array([-1, 0, 1])
    nothing = 0.001 * np.array([-1, 0, 1])
    assert beyond_errors(np.stack([steady, wild, nothing], 1)) is False
    assert beyond_errors(np.stack([steady, steady, nothing], 1)) is True
    assert beyond_errors(-np.stack([steady, steady, steady], 1)) is False
    assert beyond_errors(np.stack([steady, steady], 1)[:1]) is None
    assert beyond_errors(steady[:, None]) is None


def test_figure_leaves_results_alone():
    results = made_up()
    before = copy.deepcopy(results)
    drawn = figure(results)
    assert len(drawn.axes) == 8
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == [label for label, _ in METHODS.values()] + ["not pruned"]
    assert results == before


@pytest.mark.parametrize("flops", PRESETS["cpu"].kept_flops)
def test_schedules_reach_their_flops(flops):
    """By hand: a block of N tokens, M after its attention, costs 4 N C^2 + 2 N^2 C + 2 M C H."""
    schedule = solve_schedule(MODEL, flops, {1: 1.0, 3: 2.0})
    assert [i for i, removed in enumerate(schedule) if removed] == [1, 3]
    width, hidden = MODEL.layers.width, MODEL.layers.mlp_width
    left, spent = 65, 0
    for removed in schedule:
        spent += 4 * left * width**2 + 2 * left**2 * width + 2 * (left - removed) * width * hidden
        left -= removed
    whole = 6 * (4 * 65 * width**2 + 2 * 65**2 * width + 2 * 65 * width * hidden)
    assert flops_share(MODEL, schedule) == pytest.approx(spent / whole)
    assert spent / whole == pytest.approx(flops, abs=0.01)
    rho = (64 - schedule[1]) / 64
    assert (64 - schedule[1] - schedule[3]) / (64 - schedule[1]) == pytest.approx(rho**2, abs=0.03)


def test_drawn_configurations_cost_what_they_should():
    drawn = pruning_search.draw_prunings(MODEL, 0.6, 5, 0)
    assert len(set(drawn)) == 5
    assert all(
        abs(flops_share(MODEL, pruning.schedule) - 0.6) <= 0.01 and 0 <= pruning.similar <= 0.5 for pruning in drawn
    )
    assert drawn == pruning_search.draw_prunings(MODEL, 0.6, 5, 0) != pruning_search.draw_prunings(MODEL, 0.6, 5, 1)


def test_every_method_is_one_variant_of_a_program():
    assert sorted(METHODS) == sorted(method for methods in PROGRAMS.values() for method in methods)


def test_variants_of_the_ranking():
    """The first is the library's importance; without the filter a constant head counts; the mean over heads has mean 1."""
    attention = jax.nn.softmax(jax.random.normal(jax.random.key(0), (3, 7, 7)), axis=2).at[2].set(1 / 7)
    full, unfiltered, mean = (pruned_vision.rank(jnp.int32(variant), attention, 3, None) for variant in range(3))
    np.testing.assert_allclose(full, importance(attention, 3), rtol=1e-6)
    np.testing.assert_allclose(unfiltered, importance(attention, 3, None, 0.0, 100.0), rtol=1e-6)
    assert np.abs(np.asarray(full - unfiltered)).max() > 0.01
    assert np.all(np.asarray(unfiltered) >= np.asarray(mean) - 1e-6)
    assert np.abs(np.asarray(unfiltered - mean)).max() > 1e-3
    assert float(mean.mean()) == pytest.approx(1, rel=1e-5)


def test_pairs_in_order():
    """By hand: of 2 x 3 pairs, glyph 3 is above all, glyph 1 above one, level with one and below one."""
    scores = jnp.array([3.0, 1, 0, 1, 2, 9])
    first, second = jnp.array([1, 1, 0, 0, 0, 0]) == 1, jnp.array([0, 0, 1, 1, 1, 0]) == 1
    assert float(ranks_above(scores, first, second)) == pytest.approx(4.5 / 6)
    assert float(ranks_above(jnp.zeros(6), first, second)) == 0.5


def test_two_groups_by_hand():
    """The ratio is (backgrounds + objects * e^2) / (objects + backgrounds * e), as detailed balance gives it."""
    e = np.e
    assert stationary_ratio(40, 160) == pytest.approx((160 + 40 * e**2) / (40 + 160 * e))
    assert stationary_ratio(30, 170) < 1 < stationary_ratio(50, 150)
    quiet = MajorityConfig(tokens=40, shares=(0.5, 0.9), noise=0.0, seeds=(0,))
    found = majority_group.measure(quiet)
    for arm in ("alone", "after_similarity"):
        np.testing.assert_allclose(found["ratio"][arm], found["predicted"][arm], rtol=1e-3)


def test_scenes_and_outliers():
    config = NeedleConfig(tokens=80, scenes=1, seeds=(0,))
    scene, spoilt = (needle_questions.draw_scene(config, outliers, 0, 0) for outliers in (0, 16))
    same = (scene.tokens[:, None] == spoilt.tokens[None]).all(2).any(1)
    assert same.sum() == 80 - 16
    cosine = scene.tokens @ scene.identities.T
    assert ((cosine > 0.5).sum(0) == config.objects).all()
    answer = scene.values[scene.attributes]
    for number in range(len(config.objects)):
        mine = scene.tokens[cosine[:, number] > 0.5]
        assert (mine @ answer[number] > 0.5).all()


def test_the_readout_answers_from_what_is_kept():
    config = NeedleConfig(tokens=80, kept=(0.95, 0.2, 0.1), scenes=1, seeds=(0,))
    scene = needle_questions.draw_scene(config, 0, 0, 0)
    for method, all_right in (("divprune", True), ("random", False)):
        right = jax.jit(partial(needle_questions.answers, config, method))(scene, jax.random.key(0))
        assert np.asarray(right)[1].all() == all_right


def test_qualities_of_tokens_without_noise():
    """Copies of orthonormal centres: DivPrune keeps one of each, 1 apart, and covers all; importance only the largest cluster."""
    config = SelectionConfig(sizes=(6, 3, 1, 1), noise=0.0, width=8, kept=4, seeds=(0,))
    x, centres = (jnp.asarray(part) for part in selection_quality.draw_tokens(config, True, 0))
    for method, expected in (("divprune", [1, 0, 0, 4]), ("top", [0, 1, 5 / 11, 1])):
        found = jax.jit(partial(selection_quality.qualities, method, 4))(x, centres, jax.random.key(0))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"layers": (3, 1)}, "layers"),
        ({"layers": (5,)}, "layers"),
        ({"layers": ()}, "layers"),
        ({"kept_flops": (0.6, 0.7)}, "kept_flops"),
        ({"kept_flops": (0.9, 0.8)}, "kept_flops"),
        ({"kept_flops": (0.7, 0.2)}, "kept_flops"),
        ({"kept_flops": (0.7, 0.4)}, "kept_flops"),
        ({"similar": 0.6}, "similar"),
        ({"searched": 0}, "searched"),
        ({"large": tiny(GLYPHS)}, "large.model, training.seeds"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(PRESETS["cpu"], **change)
    assert error.value.field == field


@pytest.mark.parametrize(
    "config, change, field",
    [
        (MajorityConfig(), {"shares": (0.9, 0.5)}, "majority.shares"),
        (MajorityConfig(), {"shares": (0.5, 1.0)}, "majority.shares"),
        (MajorityConfig(), {"dropped": 0.7}, "majority.dropped"),
        (SelectionConfig(), {"width": 8}, "selection.width"),
        (SelectionConfig(), {"kept": 1}, "selection.kept"),
        (SelectionConfig(), {"chosen": 13}, "selection.chosen, few"),
        (NeedleConfig(), {"kept": (0.5, 0.25)}, "needle.kept"),
        (NeedleConfig(), {"objects": (4, 2)}, "needle.objects"),
        (NeedleConfig(), {"tokens": 40}, "needle.tokens"),
        (NeedleConfig(), {"width": 16}, "needle.width"),
    ],
)
def test_impossible_parts_are_refused(config, change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(config, **change)
    assert error.value.field == field
