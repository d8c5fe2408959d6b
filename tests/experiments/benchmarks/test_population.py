"""The benchmark of populations: its trials are real ones."""

from dataclasses import replace

from experiments.benchmarks.population import PRESETS, seconds_per_trial, timed_trials
from experiments.harness import record, trial


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
