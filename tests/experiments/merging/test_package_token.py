"""Claim C10 on made-up results; reconstruction by hand; a model of which all arms leave as many tokens."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.merging.package_token import (
    ARMS,
    JUDGED,
    PackageConfig,
    cross_entropy,
    draw,
    judge,
    reconstruction_error,
    reduced,
)
from lexinv.merging.plan import identity
from lexinv.merging.ranking import prune_by_score
from lexinv.merging.strategies import package
from lexinv.nn.vision_transformer import classify, initialize
from lexinv.validation import InvalidConfig

SPREAD = np.array([0.0, 0.004, -0.004])
NATS = {"random": 0.5, "random package": 0.4, "prune": 0.3, "package": 0.2}
RIGHT = {"random": 0.7, "random package": 0.75, "prune": 0.8, "package": 0.85}
ERROR = {"random": 0.9, "random package": 0.6, "prune": 0.5, "package": 0.3}


def made_up() -> dict:
    """The package is better everywhere; nothing is ever as good as all tokens."""
    shares = [0.5, JUDGED]
    arms = {
        name: {
            "nats": [(NATS[name] + SPREAD).tolist()] * 2,
            "accuracy": [(RIGHT[name] + SPREAD).tolist()] * 2,
            "error": [(ERROR[name] * (1 + SPREAD)).tolist()] * 2,
        }
        for name in ARMS
    }
    return {"shares": shares, "full": {"nats": (0.1 + SPREAD).tolist(), "accuracy": [0.9] * 3}, "arms": arms}


def test_the_claims_hold_on_results_that_satisfy_them():
    assert [claim.holds for claim in judge(made_up())] == [True, True]


@pytest.mark.parametrize(
    "arm, what, value",
    [
        ("package", "nats", 0.3),  # no difference from hard pruning
        ("package", "error", 0.5),
        ("random", "nats", 0.2),
        ("random", "error", 0.3),
    ],
)
def test_one_measure_is_enough_to_break_it(arm, what, value):
    measured = made_up()
    measured["arms"][arm][what][1] = (value * (1 + SPREAD)).tolist()
    assert judge(measured)[0].holds is False
    measured["arms"][arm][what][0], measured["arms"][arm][what][1] = measured["arms"][arm][what][::-1]
    assert judge(measured)[0].holds is True  # at the other share it is not judged


@pytest.mark.parametrize("arm", ["prune", "random"])
def test_accuracy_has_a_claim_of_its_own(arm):
    measured = made_up()
    measured["arms"][arm]["accuracy"][1] = (0.85 + SPREAD).tolist()
    assert [claim.holds for claim in judge(measured)] == [True, False]


def test_noise_cannot_tell():
    measured = made_up()
    measured["arms"]["package"]["nats"][1] = [0.1, 0.4, 0.15]
    assert judge(measured)[0].holds is None


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    assert cross_entropy(logits, jnp.array([1, 2])) == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2)


def test_panel_names_all_arms():
    axes = Figure().subplots()
    draw(made_up(), axes)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [*(label for label, _ in ARMS.values()), "all tokens"]


def test_reconstruction_by_hand():
    """Two images of 3 patches with opposite deviations 6, 2, 4 from the mean image. Kept: the first patch.

    Pruned, the others are taken to deviate by 6: squared errors 16 + 4 of 36 + 4 + 16. In a package, by their mean 3: 1 + 1.
    """
    mean, deviation = jnp.array([[5.0], [1.0], [-2.0]]), jnp.array([[6.0], [2.0], [4.0]])
    x = jnp.stack([mean + deviation, mean - deviation])
    scores = jnp.array([0.0, 3.0, 1.0, 2.0])  # token 0 is CLS

    def error(plan):
        return float(reconstruction_error(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), plan), x, 1))

    assert error(prune_by_score(scores, 2)) == pytest.approx(20 / 56)
    assert error(package(scores, 3)) == pytest.approx(2 / 56)
    assert error(identity(4)) == pytest.approx(0)


@pytest.mark.parametrize("arm", ARMS)
def test_arms_on_a_model(arm):
    """A budget of all tokens is the whole model, without error; a smaller one is not."""
    subject = PackageConfig().subject
    model = replace(subject.model, layers=replace(subject.model.layers, depth=1, width=8, heads=2, mlp_width=8))
    key = jax.random.key(0)
    params = initialize(model, key)
    params["head"] = jax.random.normal(key, params["head"].shape)
    pixels = jax.random.uniform(key, (3, 32, 32, 3))
    whole, nothing = reduced(model, 0, arm, model.tokens, params, pixels, key)
    some, error = reduced(model, 0, arm, 10, params, pixels, key)
    np.testing.assert_allclose(nothing, 0, atol=1e-6)
    assert 0 < float(error) < 2 and whole.shape == some.shape == (3, 10)
    np.testing.assert_allclose(whole, classify(model, params, pixels)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"shares": (0.5,)}, "shares"),
        ({"shares": (JUDGED, 0.01)}, "shares"),
        ({"shares": (JUDGED, 1.5)}, "shares"),
        ({"layer": 6}, "layer"),
        ({"images": 1}, "images"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(PackageConfig(), **change)
    assert error.value.field == f"package_token.{field}"
