"""The claims on results made up to satisfy all of them, then spoilt one by one; what is measured, on cases that can be counted."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.merging.vlm import ANSWERS, PRESETS, TYPES, claims, figure, stage_accuracy
from experiments.subjects.scene_answerers import HeldOut, SceneSubject, ask_together, held_out
from experiments.subjects.scene_measurements import OUTLIERS, TAUS, correlation, keep_short, rare_kept
from experiments.subjects.scene_pruning import METHODS, View, drop_image, flops, group, keep_tokens
from lexinv.data.scenes import SceneConfig
from lexinv.validation import InvalidConfig

DEPTH, RATIOS = 6, ("0.5", "0.25", "0.1", "0.05")


def scored(value: float, **changed: float) -> dict[str, float]:
    return {**dict.fromkeys((*TYPES, "all"), value), **changed}


def of_seed(seed: int) -> dict:
    """Numbers as the cards expect them, a little different by seed."""
    shift = 0.002 * seed
    methods = {method: {ratio: scored(0.6 + shift, rare_kept=0.5) for ratio in RATIOS} for method in METHODS}
    for method in ("divprune", "maxsum", "kcenter"):
        methods[method] = {ratio: scored(0.9 + shift, dominant=0.8, rare_kept=0.9) for ratio in RATIOS}
    methods["cls"] = {ratio: scored(0.6 + shift, dominant=0.95 + shift, rare_kept=0.1) for ratio in RATIOS}
    layers = {
        "accuracy": [scored(value + shift) for value in (0.3, 0.4, 0.6, 0.9, 0.96, 0.962, 0.965)],
        "share": [0.6, 0.6, 0.4, 0.2, 0.1 + shift, 0.05],
        "share_by_kind": {},
        "check": {"accuracy": [0.96 + shift] * len(TAUS), "withdrawn": [0.9 + shift] * len(TAUS)},
        "adaptive": {"accuracy": [0.95] * len(TAUS), "layer": np.linspace(6, 3, len(TAUS)).tolist()},
    }
    outliers = {name: scored(0.5 + shift, outliers_kept=0.95 + shift) for name in ("divprune", "maxsum", "random")}
    outliers["filtered"] = scored(0.9, outliers_kept=0.0)
    return {
        "full": scored(0.97 + shift),
        "methods": methods,
        "closed": {method: {ratio: scored(0.8) for ratio in RATIOS} for method in ("divprune", "random")},
        "layers": {"all": layers, "first": copy.deepcopy(layers)},
        "outliers": outliers,
        "correlation": 0.1 + shift,
    }


def made_up() -> dict:
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "ratios": [float(ratio) for ratio in RATIOS],
        "depth": DEPTH,
        "chance": {"colour": 0.25, "count": 0.42, "presence": 0.5},
        "flops": {ratio: float(ratio) for ratio in RATIOS},
        "stage_flops": {name: {str(a): 10.0 for a in ANSWERS} for name in ("neither", "first", "second", "both")},
        "measured": [of_seed(seed) for seed in range(3)],
        "arms": {"scenes": {"models": "0" * 16, "seconds_elsewhere": 0.0}},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


def put(*path):
    """Sets what is at the path, but for its last member, to the last member, for every seed."""

    def change(seed: dict) -> None:
        *keys, last, value = path
        for key in keys:
            seed = seed[key]
        seed[last] = value

    return change


@pytest.mark.parametrize(
    "change, broken",
    [
        (put("full", "count", 0.89), {"model_answers_questions"}),
        (put("methods", "cls", "0.1", "rare", 0.86), {"divprune_beats_cls_on_rare", "maxsum_beats_cls_on_rare"}),
        (put("methods", "divprune", "0.1", "rare", 0.64), {"divprune_beats_cls_on_rare"}),
        (put("methods", "maxsum", "0.1", "rare", 0.64), {"maxsum_beats_cls_on_rare"}),
        (put("methods", "maxsum", "0.25", "all", 0.7), {"maxmin_and_maxsum_within_noise"}),
        (put("methods", "cls", "0.1", "dominant", 0.8), {"cls_wins_on_dominant"}),
        (put("layers", "all", "accuracy", 5, "all", 0.9), {"accuracy_flat_when_removed_late"}),
        (put("layers", "all", "accuracy", 1, "all", 0.8), {"collapse_when_removed_early"}),
        (put("layers", "all", "share", 5, 0.9), {"a_tv_falls_with_depth"}),
        (put("layers", "first", "check", "accuracy", [0.9] * len(TAUS)), {"second_stage_is_free"}),
        (put("layers", "all", "check", "withdrawn", [0.0] * len(TAUS)), {"second_stage_is_free", "threshold_barely_matters"}),
        (put("layers", "all", "check", "accuracy", [0.96, 0.94, *[0.96] * 6]), {"threshold_barely_matters"}),
        (put("correlation", -0.4), {"redundancy_independent_of_relevance"}),
        (put("closed", "divprune", "0.1", "all", 0.897), {"closing_gaps_matters"}),
        (put("outliers", "divprune", "outliers_kept", 0.7), {"maxmin_takes_outliers"}),
        (put("outliers", "filtered", "outliers_kept", 0.2), {"maxmin_takes_outliers"}),
        (put("methods", "cls", "0.5", "rare", 0.99), set()),  # not the ratio that is judged
    ],
)  # fmt: skip
def test_one_number_is_enough_to_break_a_claim(change, broken):
    results = made_up()
    for seed in results["measured"]:
        change(seed)
    assert {name for name, holds in verdicts(results).items() if holds is False} == broken


def test_one_seed_cannot_tell():
    results = made_up()
    results["measured"] = results["measured"][:1]
    assert set(verdicts(results).values()) == {None}


def test_figure_leaves_results_alone():
    results = made_up()
    before = copy.deepcopy(results)
    drawn = figure(results)
    assert [axes.get_title(loc="left") for axes in drawn.axes][4:] == [
        "all visual tokens removed",
        "rule with thresholds",
        "stages, removal always",
        "positions",
    ]
    assert len(drawn.axes[0].get_lines()) == len(METHODS) + 2
    assert results == before
    assert stage_accuracy(results)["second"] == pytest.approx(0.964)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"scenes": 0}, "scenes"),
        ({"ratios": (0.1, 0.5)}, "ratios"),
        ({"ratios": (0.5, 0.25)}, "ratios"),
        ({"ratios": (0.1, 0.001)}, "ratios"),
        ({"subject": replace(PRESETS["cpu"].subject, depth=2)}, "subject.depth"),
        ({"subject": replace(PRESETS["cpu"].subject, counts=0)}, "subject.counts, presences"),
        (
            {"subject": replace(PRESETS["cpu"].subject, data=SceneConfig(grid=4, sizes=(2, 2, 2, 2)))},
            "subject.data.sizes",
        ),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(PRESETS["cpu"], **change)
    assert error.value.field == field


def test_multiply_adds_by_hand():
    """Per layer 4 N C^2 + 2 N^2 C + 2 N C H with H = 2 C, and for each token written one row of it over what is in the cache."""
    subject = SceneSubject(depth=3, width=8, heads=2)

    def layer(n, written):
        read = 4 * n * 64 + 2 * n * n * 8 + 2 * n * 8 * 16
        return read + sum(4 * 64 + 2 * 8 * 16 + 2 * (n + r) * 8 for r in range(written))

    assert flops(subject, 10) == 3 * layer(13, 0)
    with_answer = 2 * layer(13, 5) + layer(3, 5)
    assert flops(subject, 10, removed_at=2, answer=5) == with_answer
    assert flops(subject, 10, removed_at=3) == flops(subject, 10)


def views(visual: jax.Array) -> View:
    score = jnp.tile(jnp.arange(16.0)[None] ** 2 / 100, (len(visual), 1))
    return View(visual, score, score[:, ::-1], score, jax.random.split(jax.random.key(1), len(visual)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_as_many_tokens_in_their_order(method):
    visual = jax.random.normal(jax.random.key(0), (3, 16, 8))
    kept = jax.tree.map(np.asarray, keep_tokens(method, 3, views(visual)))
    assert kept.places.shape == (3, 3) and (np.diff(kept.places, axis=1) > 0).all()
    if method == "tome":
        np.testing.assert_allclose(kept.size.sum(axis=1), 16)
        np.testing.assert_allclose(
            (kept.visual * kept.size[..., None]).sum(axis=1), np.asarray(visual).sum(axis=1), atol=1e-4
        )
    else:
        assert (kept.size == 1).all()
        np.testing.assert_allclose(kept.visual, np.take_along_axis(np.asarray(visual), kept.places[..., None], 1))
    expected = {"cls": [13, 14, 15], "text": [13, 14, 15], "column": [0, 1, 2]}
    if method in expected:
        assert kept.places[0].tolist() == expected[method]


def test_the_filter_leaves_out_long_tokens_that_diversity_takes():
    visual = 0.1 * jax.random.normal(jax.random.key(0), (2, 16, 8)) + jnp.eye(8)[:2][jnp.arange(16) % 2][None]
    long = visual.at[:, [3, 9]].set(9 * jax.random.normal(jax.random.key(1), (2, 2, 8)))
    assert {3, 9} <= set(np.asarray(keep_tokens("divprune", 5, views(long)).places[0]).tolist())
    filtered = np.asarray(keep_short(5, views(long)).places)
    assert not np.isin(filtered, [3, 9]).any() and filtered.shape == (2, 5)
    assert OUTLIERS < 16


def test_redundancy_and_relevance_that_are_the_same_correlate():
    """Four directions of which one is shared by more and more tokens."""
    visual = jnp.eye(4)[jnp.array([0, 0, 0, 1, 1, 2])][None]
    redundancy = jnp.array([2.0, 2, 2, 1, 1, 0])[None, None] / 5
    assert correlation(visual, redundancy) == pytest.approx(1, abs=1e-3)
    assert correlation(visual, -redundancy) == pytest.approx(-1, abs=1e-3)


SUBJECT = PRESETS["smoke"].subject


def scenes_of(count: int) -> HeldOut:
    return jax.jit(lambda: held_out(SUBJECT, 0, count))()


def test_types_of_questions():
    """Of one scene: rare are objects of one patch, right or wrong as given."""
    _, questions = scenes_of(5)
    right = np.zeros(questions.answer.shape, bool)
    right[:, 1:3] = True  # two of three objects of one patch
    right[:, 4] = True  # one of two counts
    found = group(SUBJECT.data, questions, right)
    assert found == {"rare": 0.6667, "dominant": 0.0, "count": 0.5, "presence": 0.0, "all": 0.3}
    owner = np.array([[0, -1, 1, 2], [3, 3, -1, 0]])
    assert rare_kept(SUBJECT.data, owner, np.array([[1, 2], [0, 1]])) == pytest.approx(2 / 6, abs=1e-4)


def test_dropping_the_image_leaves_the_words_of_every_question():
    scenes, questions = scenes_of(2)
    params = {"words": jnp.arange(SUBJECT.model.words + 1.0)[:, None] * jnp.ones((1, SUBJECT.width))}
    visual = jnp.zeros((2, SUBJECT.data.patches, SUBJECT.width))
    asked = ask_together(SUBJECT, params, visual, questions)
    text = drop_image(asked)
    assert len(scenes.owner) == 2 and text.prompt.stream.shape[1] == 1 + questions.answer.shape[1] * 2
    for before, after in zip(asked.words.ravel(), text.words.ravel(), strict=True):
        np.testing.assert_array_equal(asked.prompt.stream[:, before], text.prompt.stream[:, after])
        np.testing.assert_array_equal(asked.prompt.positions[:, before], text.prompt.positions[:, after])
    np.testing.assert_array_equal(
        np.asarray(text.prompt.positions)[0, 1:], np.tile([17, 18], questions.answer.shape[1])
    )
    hidden = np.asarray(text.apart[0])[1:] < 0  # from the words, of the system token and two words a question
    assert not hidden[:, 0].any() and hidden[0, 3] and not hidden[1, 1] and hidden.sum() == 20 * 18
