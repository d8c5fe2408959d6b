"""The claims on results made up to satisfy all of them, then spoilt one by one."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lexinvariance.bayes_regret import PRESETS, Config, claims, figure, measure, slope
from lexinv.lexinvariance.bayes import regret_bound
from lexinv.precision import double_precision
from lexinv.validation import InvalidConfig

LENGTH, SEEDS = 256, 3


def made_up() -> dict:
    """L1 = 0.5 / t with a little noise over the seeds, the regret near its bound, the key found early."""
    times = np.array([1, 16, 128, LENGTH])
    noise = 1 + 0.02 * np.arange(SEEDS)[:, None]
    settings = [
        {
            "vocabulary": vocab,
            "concentration": concentration,
            "excess": -1e-12,
            "adversarial_excess": 1e-13,
            "far": [5.0, 6.0, 5.5],
            "l1": (0.5 * noise / np.arange(1, LENGTH + 1)).tolist(),
            "regret": (regret_bound(vocab, vocab) * (1 - 0.02 * noise) * np.array([0.1, 0.5, 0.9, 1.0])).tolist(),
            "accuracy": [[0.3, 0.7, 1.0, 1.0]] * SEEDS,
        }
        for vocab in (4, 6)
        for concentration in (0.3, 3.0)
    ]
    return {"seeds": list(range(SEEDS)), "corpora": {}, "times": times.tolist(), "settings": settings}


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


def flat(scale: float) -> list:
    return [[scale] * LENGTH] * SEEDS


@pytest.mark.parametrize(
    "setting, field, value, broken",
    [
        (0, "excess", 1e-6, {"regret_below_log_factorial"}),
        (2, "adversarial_excess", 0.7, {"regret_below_log_factorial"}),
        (1, "l1", flat(0.1), {"l1_falls_faster_than_published_rate", "l1_falls_faster_than_bound"}),
        (
            1,
            "l1",
            (0.5 * np.ones((SEEDS, 1)) / np.arange(1, LENGTH + 1) ** 0.4).tolist(),
            {"l1_falls_faster_than_bound"},
        ),
        (1, "regret", [[0.1, 0.5, 1.0, 2.0]] * SEEDS, {"regret_approaches_log_factorial"}),
        (3, "far", [20.0, 47.0, 60.0], {"few_positions_far_from_source"}),
        (0, "accuracy", [[0.3, 0.5, 0.9, 1.0]] * SEEDS, {"key_deciphered"}),
        (3, "accuracy", [[0.3, 0.5, 0.8, 1.0]] * SEEDS, {"key_of_nearly_uniform_source_deciphered"}),
    ],
)
def test_one_setting_is_enough_to_break_a_claim(setting, field, value, broken):
    results = made_up()
    results["settings"][setting][field] = value
    assert {name for name, holds in verdicts(results).items() if holds is False} == broken


@pytest.mark.parametrize("seen, holds", [(1, True), (2, False), (100, False), (LENGTH - 1, False)])
def test_one_position_above_the_bound_is_enough(seen, holds):
    """No two predictions are further apart than 2, and with 4 symbols the bound is 2.5 after one of them and 1.8 after two."""
    results = made_up()
    for row in results["settings"][0]["l1"]:
        row[seen] = 2.0
    assert verdicts(results)["l1_below_bound"] is holds


def test_a_mean_above_the_bound_is_enough():
    results = made_up()
    bound = np.sqrt(2 * np.log(24) / np.arange(1, LENGTH + 1))
    results["settings"][0]["l1"] = [(0.95 * bound).tolist()] * SEEDS  # its running mean is twice the bound
    assert verdicts(results)["l1_below_bound"] is False


def test_one_seed_cannot_tell_what_needs_an_interval():
    results = made_up()
    for setting in results["settings"]:
        for field in ("far", "l1", "regret", "accuracy"):
            setting[field] = setting[field][:1]
    assert verdicts(results).pop("regret_below_log_factorial") is True
    assert [holds for name, holds in verdicts(results).items() if name != "regret_below_log_factorial"] == [None] * 7


def test_slope_is_the_exponent_of_the_running_mean():
    running = np.arange(1, LENGTH + 1) ** -0.7
    l1 = np.diff(running * np.arange(1, LENGTH + 1), prepend=0)
    np.testing.assert_allclose(slope({"l1": [l1, 3 * l1]}), -0.7, atol=1e-9)


def test_figure_has_a_column_for_each_concentration():
    results = made_up()
    before = copy.deepcopy(results)
    drawn = figure(results)
    assert len(drawn.axes) == 6
    labels = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert labels == [f"$d = {vocab}$, slope ${slope(results['settings'][0]).mean():.2f}$" for vocab in (4, 6)]
    assert results == before


def test_measurements_of_drawn_and_adversarial_texts():
    """Two seeds, 30 texts of low entropy sources and 10 others, of which every second is one symbol only."""
    with double_precision():
        rngs = jnp.stack([jax.random.key(0), jax.random.key(1)])
        measured = jax.device_get(measure(rngs, 3, 0.3, 48, 30, 10))
    assert measured.l1.shape == (2, 40, 48)
    assert np.all(measured.regret <= regret_bound(3, measured.symbols) + 1e-9)
    assert np.all(measured.symbols[:, 31::2] == 1)
    assert np.all(measured.symbols[:, :, 0] == 1)
    # Nothing is known of the first symbol; in the end the key is, which is not the identity.
    assert 0.2 < measured.accuracy[:, :30, 0].mean() < 0.75
    assert measured.accuracy[:, :30, -1].mean() > 0.9
    assert measured.l1[:, :30, -8:].mean() < 0.1 * measured.l1[:, :30, :8].mean()


@pytest.mark.parametrize(
    "field, value",
    [("vocabularies", (9,)), ("concentrations", (0.0,)), ("length", 4), ("seeds", (1, 1)), ("adversarial", 0)],
)
def test_impossible_configurations_are_refused(field, value):
    with pytest.raises(InvalidConfig, match=field):
        Config(**{field: value})


def test_presets_have_seeds_enough_for_an_interval():
    assert all(len(preset.seeds) >= 3 for preset in PRESETS.values())
