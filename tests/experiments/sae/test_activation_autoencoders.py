"""Autoencoders on the activations of a made-up model: codes, reconstructions and what is measured of them."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects.activation_autoencoders import (
    AutoencodersConfig,
    judge,
    own_exponents,
    train_variant,
)
from experiments.subjects.language_subjects import HeldOut
from experiments.subjects.sparse_activations import TrainingConfig, warn_off_target
from lexinv.sae.activation_streams import ComputedActivations
from lexinv.sae.budgets import zipf_budgets
from lexinv.sae.densities import ranks_shown
from lexinv.sae.training import OptimizerConfig

CONFIG = AutoencodersConfig(
    ("mutual", "feature_zipf", "jumprelu"),
    features=16,
    k=2.0,
    curve=(1.0, 2.0),
    training=TrainingConfig(10, 32, OptimizerConfig(warmup_steps=2), held_out=4, steps_per_dispatch=10, seeds=(0, 1)),
)


@pytest.fixture(scope="module")
def subject():
    """256 rows far from the origin, of scale 100."""
    rows = (100 * np.random.default_rng(0).normal(size=(256, 8)) + 500).astype(np.float32)
    losses = np.random.default_rng(1).random(128).astype(np.float32)
    source = ComputedActivations(8, np.array([64, 64, 64, 64]), lambda index: rows[64 * index : 64 * index + 64])
    held_out = [HeldOut(rows[:128], losses), HeldOut(rows[128:], losses)]
    return SimpleNamespace(width=8, source=source, calibration=rows[:128], held_out=held_out, identity="made-up")


@pytest.fixture(scope="module")
def population(subject, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEXINV_CACHE", str(tmp_path_factory.mktemp("cache")))
        workspace = Workspace(Path(tmp_path_factory.mktemp("run")), "hash", False)

        def train(variant, alphas=()):
            return train_variant(variant, CONFIG, subject, workspace, alphas)

        yield train("mutual"), train


@pytest.fixture(scope="module")
def trained(population):
    return population[0][0]


def test_mutual_choice_is_trained_along_its_curve(population, subject):
    for k, members in zip((2, 4), population[0], strict=True):
        assert [(one.codes(subject.calibration) > 0).sum() for one in members] == pytest.approx([k * 128] * 2, abs=1)


def test_feature_choice_spends_by_each_seeds_own_exponent(population):
    mutual, train = population
    alphas = own_exponents(mutual[0])
    ((first, second),) = train("feature_zipf", [0.0, 1.0])
    assert all(0 <= alpha < 3 for alpha in alphas) and alphas[0] != alphas[1]
    assert set(first.state.statistics.budgets.tolist()) == {4}
    assert second.state.statistics.budgets.tolist() == zipf_budgets(64, 16, 32, 1.0).tolist()


def test_jumprelu_that_ends_off_its_target_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_off_target(2.15, 2.0)
    with pytest.warns(UserWarning, match="its target is 2"):
        warn_off_target(2.25, 2.0)


def test_seeds_differ(trained):
    first, second = trained
    assert not np.allclose(first.state.params["decoder"], second.state.params["decoder"])


def test_edit_reconstructs_in_the_activations_own_scale(trained, subject):
    one, rows = trained[0], subject.held_out[0].rows
    params = one.state.params
    expected = (one.codes(rows) @ np.asarray(params["decoder"]) + np.asarray(params["decoder_bias"])) / one.scale
    found = np.asarray(one.edit()(one.extra, rows.reshape(4, 32, 8)))
    np.testing.assert_allclose(found.reshape(-1, 8), expected, rtol=1e-4)
    assert abs(found.mean() - 500) < 50


def test_judging_agrees_with_codes_and_reconstructions(trained, subject):
    one, held_out = trained[0], subject.held_out[0]
    found = judge(one, held_out, 32)
    codes, rebuilt = one.codes(held_out.rows), np.asarray(one.edit()(one.extra, held_out.rows))
    assert found["l0"] == pytest.approx((codes > 0).sum(axis=1).mean(), abs=1e-4)
    expected = np.square(held_out.rows - rebuilt).sum() / np.square(held_out.rows - held_out.rows.mean(axis=0)).sum()
    assert found["fvu"] == pytest.approx(expected, rel=1e-3)
    assert found["densities"] == sorted(found["densities"], reverse=True)
    assert len(found["densities"]) == len(ranks_shown(16))
    assert -1 <= found["harder_more"] <= 1 and len(found["l0_by_loss"]) == 10
    assert judge(one, held_out._replace(losses=None), 32)["harder_more"] is None
