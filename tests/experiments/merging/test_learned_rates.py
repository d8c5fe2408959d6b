"""The masked model against real removal and its gradients; the claims on made-up results, spoilt one by one; refused configurations."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.merging.learned_rates import PRESETS, claims, figure, make_loss, nearest_ratio_schedule
from experiments.merging.learned_rates_model import flops_share, learned_counts, mask_by_rank, masked_classify
from experiments.merging.methods import reductions
from experiments.merging.reduced_vision import Bench, cost
from experiments.subjects.glyph_classifiers import GLYPHS
from lexinv.merging.schedules import ratio_schedule
from lexinv.nn.vision_transformer import classify, initialize
from lexinv.validation import InvalidConfig

SMALL = PRESETS["smoke"].glyphs
SHARP = replace(SMALL.model, layers=replace(SMALL.model.layers, depth=3))
SPREAD = 0.001 * np.arange(3)


@pytest.fixture(scope="module")
def params():
    """With a head that reads, biases, and attention that is far from even."""
    found = jax.jit(initialize, static_argnums=0)(SHARP, jax.random.key(0))
    leaves, tree = jax.tree.flatten(found)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


@pytest.fixture(scope="module")
def pixels():
    return jax.random.uniform(jax.random.key(2), (4, 32, 32, 3))


def sure(*kept: int) -> jax.Array:
    """Logits that leave no doubt about the counts."""
    return 60.0 * jax.nn.one_hot(SHARP.patches - jnp.array(kept), SHARP.patches)


def test_masks_of_zeros_and_ones_are_removal(params, pixels):
    logits = sure(30, 9)
    assert learned_counts(logits).tolist() == [64, 30, 9]
    masks = [None, *[mask_by_rank(own) for own in logits]]
    masked, kept = jax.jit(lambda p, x: masked_classify(SHARP, p, x, masks))(params, pixels)
    removed = jax.jit(lambda p, x: classify(SHARP, p, x, reductions("prune_cls", (0, 34, 21), 3))[0])(params, pixels)
    whole = jax.jit(lambda p, x: classify(SHARP, p, x)[0])(params, pixels)
    np.testing.assert_array_equal(kept, np.tile([64.0, 30, 9], (4, 1)))
    np.testing.assert_allclose(masked, removed, atol=1e-5)
    assert np.abs(np.asarray(removed - whole)).max() > 1e-2  # removal does something
    unmasked, _ = jax.jit(lambda p, x: masked_classify(SHARP, p, x, [None] * 3))(params, pixels)
    np.testing.assert_allclose(unmasked, whole, atol=1e-5)


def test_counts_never_rise_and_cost_what_their_schedule_costs():
    counts = learned_counts(sure(20, 40))
    assert counts.tolist() == [64, 20, 20]
    assert float(flops_share(SHARP, counts)) == pytest.approx(cost(SHARP, (0, 44, 0)), rel=1e-6)
    assert float(flops_share(SHARP, jnp.full(3, 64.0))) == pytest.approx(1.0)


@pytest.mark.parametrize("start", [jnp.zeros((2, 64)), jnp.full(2, -0.1)], ids=["rates", "thresholds"])
def test_gradients_reach_what_is_learned_and_nothing_else(params, start):
    config = replace(PRESETS["smoke"], glyphs=replace(SMALL, model=SHARP), targets=(0.9,))
    gradient = jax.jit(jax.grad(lambda tree, key: make_loss(config, 0.9)(tree, key)[0]))
    found = gradient({"learned": start, "frozen": params}, jax.random.key(0))
    assert np.isfinite(found["learned"]).all()
    assert (np.abs(found["learned"]).reshape(2, -1).max(1) > 1e-4).all()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found["frozen"]))
    # The cross-entropy alone has a gradient in the layer whose tokens the next attention sees, and none in the last.
    alone = replace(config, penalty=1e-12)
    task = jax.jit(jax.grad(lambda tree, key: make_loss(alone, 0.9)(tree, key)[0]))
    reached = np.abs(task({"learned": start, "frozen": params}, jax.random.key(0))["learned"]).reshape(2, -1).max(1)
    assert reached[0] > 1e-6
    assert reached[1] < 1e-9


def test_the_ratio_of_equal_cost_is_found():
    bench = Bench(GLYPHS.model, [], [])
    goal = ratio_schedule(65, 6, 0.8)
    assert nearest_ratio_schedule(bench, cost(GLYPHS.model, goal)) == goal


def near(value: float) -> list[float]:
    return (value + SPREAD).tolist()


def at_target(target: float) -> dict:
    arms = {"learned": near(0.95), "ratio": near(0.9), "fixed": near(0.85)}
    course = {"steps": [1, 2], "flops": [[0.6, target]] * 3}
    tokens = [[65, 65, 30]] * 3
    return {
        "tokens": dict.fromkeys(arms, tokens),
        "flops": {name: [target, target, target + 0.001] for name in arms},
        "accuracy": {"prune_cls": dict(arms), "diffrate": dict(arms)},
        "course": course,
        "thresholds": {"accuracy": near(0.95), "flops": [target] * 3, "tokens": tokens, "course": course},
    }


def made_up() -> dict:
    return copy.deepcopy(
        {
            "corpora": {},
            "seeds": [0, 1, 2],
            "unreduced": near(0.99),
            "targets": {str(target): at_target(target) for target in (0.7, 0.5)},
        }
    )


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


RATIO = {"learned_rates_beat_ratio", "learned_rates_beat_ratio_merging"}
FIXED = {"learned_rates_beat_fixed_number", "learned_rates_beat_fixed_number_merging"}


@pytest.mark.parametrize(
    "change, broken",
    [
        (lambda f: f["accuracy"]["prune_cls"].update(ratio=near(0.95)), {"learned_rates_beat_ratio"}),
        (lambda f: f["accuracy"]["diffrate"].update(ratio=near(0.95)), {"learned_rates_beat_ratio_merging"}),
        (lambda f: f["accuracy"]["prune_cls"].update(fixed=near(0.95)), {"learned_rates_beat_fixed_number"}),
        (lambda f: f["accuracy"]["diffrate"].update(fixed=near(0.95)), {"learned_rates_beat_fixed_number_merging"}),
        (lambda f: f["flops"].update(ratio=[0.5, 0.5, 0.48]), RATIO),
        (lambda f: f["flops"].update(fixed=[0.5, 0.5, 0.52]), FIXED),
        (lambda f: f.update(flops=dict.fromkeys(f["flops"], [0.479] * 3)), {"learned_rates_hit_the_target"}),
        (lambda f: f["thresholds"].update(accuracy=near(0.961)), {"learned_rates_not_below_thresholds"}),
        (lambda f: f["thresholds"].update(flops=[0.5, 0.5, 0.49]), {"learned_rates_not_below_thresholds"}),
        (lambda f: f["thresholds"].update(flops=[0.55] * 3), set()),  # thresholds may cost more
    ],
)
def test_each_claim_can_break(change, broken):
    results = made_up()
    change(results["targets"]["0.5"])
    assert {name for name, holds in verdicts(results).items() if holds is False} == broken


def test_one_seed_cannot_tell():
    def first(tree):
        if isinstance(tree, dict):
            return {key: first(value) for key, value in tree.items()}
        return tree[:1] if isinstance(tree, list) else tree

    assert set(verdicts(first(made_up())).values()) == {None}


def test_figure_leaves_results_alone():
    results = made_up()
    before = copy.deepcopy(results)
    drawn = figure(results)
    assert len(drawn.axes) == 4
    drawn.canvas.draw()
    assert results == before


@pytest.mark.parametrize(
    "field, change",
    [
        ("targets", {"targets": ()}),
        ("targets", {"targets": (0.7, 0.7)}),
        ("targets", {"targets": (0.1,)}),
        ("targets", {"targets": (1.0,)}),
        ("penalty", {"penalty": 0.0}),
        ("temperature", {"temperature": 0.0}),
        ("learning.seeds", {"learning": replace(PRESETS["cpu"].learning, seeds=(7,))}),
        ("glyphs.model", {"glyphs": replace(GLYPHS, model=replace(GLYPHS.model, pool="mean"))}),
        ("images", {"images": 100}),
    ],
)
def test_impossible_configurations_are_refused(field, change):
    with pytest.raises(InvalidConfig, match=field):
        replace(PRESETS["cpu"], **change)
