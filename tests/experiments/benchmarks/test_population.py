"""The benchmarks of populations, whose trials are real ones, and of the train step: its share of a device."""

from dataclasses import replace

import jax
import pytest

from experiments.benchmarks.population import PRESETS, seconds_per_trial, timed_trials
from experiments.benchmarks.problems import Problem
from experiments.harness import record, trial
from lexinv.nn.flops import PEAK_FLOPS, train_flops
from lexinv.nn.transformer import TransformerConfig


def test_trials_that_measure_executors_finish(monkeypatch):
    """Executed here as a process would, without one."""
    monkeypatch.setattr(record, "packages_distributions", dict)

    def execute(folders, report):
        for folder in folders:
            trial.run_trial(folder)
            assert trial.finished(folder)
            report(folder, "running")
            report(folder, "done")

    assert len(timed_trials(replace(PRESETS["smoke"], trials=2), execute)) == 1
    assert seconds_per_trial(PRESETS["smoke"]) == {"processes": None, "ray": None}


def test_only_a_wide_step_is_a_share_of_a_known_peak(monkeypatch):
    model = TransformerConfig(depth=1, width=1024, heads=8, max_length=64)
    wide = Problem(model, vocab=100, batch_size=2, context=64)
    assert wide.peak_shares([1.0]) == []
    monkeypatch.setitem(PEAK_FLOPS, jax.devices()[0].device_kind, 1e12)
    assert wide.peak_shares([2.0, 4.0]) == pytest.approx([train_flops(model, 100, 64) * 128 / x / 1e12 for x in (2, 4)])
    assert replace(wide, model=replace(model, width=512)).peak_shares([1.0]) == []
