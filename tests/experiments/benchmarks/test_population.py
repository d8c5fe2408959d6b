"""The benchmark of populations: longer runs are scaled rightly, and its trials are real ones."""

from dataclasses import replace

import pytest

from experiments.benchmarks.population import PRESETS, at_steps, seconds_per_trial, timed_trials, times_faster
from experiments.harness import record, trial


def test_longer_runs_have_longer_steps_alone():
    sides = {"runs": [[10.0, 15.0, 2.0]] * 7 + [[11.0, 15.0, 2.0]], "population": [[11.0, 60.0, 2.0]]}
    results = {"steps": 16, "sides": sides}
    assert at_steps(results, "runs", 16).tolist() == [27.0] * 7 + [28.0]
    assert at_steps(results, "runs", 31).tolist() == [42.0] * 7 + [43.0]
    assert times_faster(results, ("runs", "population"), 16).mean() == pytest.approx((7 * 27 + 28) / 73)
    assert times_faster(results, ("runs", "population"), 31).mean() == pytest.approx((7 * 42 + 43) / 133)


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
