"""The benchmark of populations: its verdicts can go either way, longer runs are scaled rightly, and its trials are real ones."""

import copy
from dataclasses import replace

import pytest

from experiments.benchmarks import population
from experiments.benchmarks.population import PRESETS, at_steps, ray_overhead, timed_trials, times_faster
from experiments.harness import record


@pytest.fixture
def results() -> dict:
    """As of a cpu run in which everything is as promised: start 10, 1 a step, end 2."""
    one, cached = [10.0, 15.0, 2.0], [6.0, 15.0, 2.0]
    return {
        "corpora": {},
        "seeds": list(range(8)),
        "steps": 16,
        "usual_steps": 31,
        "sides": {
            "runs": [one] * 8,
            "population": [[11.0, 60.0, 2.0]],
            "runs, cached": [cached] * 8,
            "population, cached": [[7.0, 60.0, 2.0]],
        },
        "trials": {"processes": [1.0, 1.0, 9.0, 1.0], "ray": [2.0, 2.5, 2.5, 30.0]},
    }


def verdicts(results: dict) -> dict[str, bool | None]:
    return {claim["name"]: claim["holds"] for claim in record.judge(population, results)}


def test_longer_runs_have_longer_steps_alone(results):
    assert at_steps(results, "runs", 16) == 8 * 27
    assert at_steps(results, "runs", 31) == 8 * (10 + 30 + 2)
    assert times_faster(results, "runs", "population") == pytest.approx(216 / 73)
    assert times_faster(results, "runs, cached", "population, cached", 31) == pytest.approx(8 * 38 / 129)


def test_ray_is_judged_by_medians(results):
    assert ray_overhead(results) == pytest.approx(1.5)


NAMES = ("population_throughput", "population_throughput_of_usual_runs", "ray_overhead")


def slow_population(results):
    results["sides"]["population"] = [[50.0, 60.0, 2.0]]


def slow_steps(results):
    results["sides"]["population"] = [[11.0, 90.0, 2.0]]


def slow_ray(results):
    results["trials"]["ray"] = [4.1] * 4


@pytest.mark.parametrize(
    "change, failing",
    [
        (lambda results: None, ()),
        (slow_population, NAMES[:2]),  # 216 against 112 seconds, and 336 against 172
        (slow_steps, NAMES[1:2]),
        (slow_ray, NAMES[2:]),
    ],
)
def test_every_claim_can_hold_and_fail(results, change, failing):
    change(results)
    assert verdicts(results) == {name: name not in failing for name in NAMES}


def test_few_members_trials_or_no_ray_cannot_tell(results):
    results["seeds"] = [0, 1]
    results["trials"]["processes"] = [1.0]
    assert set(verdicts(results).values()) == {None}
    results["trials"]["ray"] = None
    assert verdicts(results)["ray_overhead"] is None
    assert record.draw(population, results, "png").startswith(b"\x89PNG")


def test_figure_follows_results(results):
    bars = population.figure(results).axes[0].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(216 + 73 + 8 * 23 + 69)
    longer = copy.deepcopy(results)
    longer["sides"]["population"][0][1] += 7
    assert sum(bar.get_width() for bar in population.figure(longer).axes[0].patches) == pytest.approx(542 + 7)


def test_trials_that_measure_executors_finish(tmp_path, monkeypatch):
    """Executed here as a process would, without one."""
    from experiments.harness import trial

    monkeypatch.setattr(record, "packages_distributions", dict)

    def execute(folders, report):
        for folder in folders:
            trial.run_trial(folder)
            assert trial.finished(folder)
            report(folder, "running")
            report(folder, "done")

    assert len(timed_trials(replace(PRESETS["smoke"], trials=2), execute)) == 1
    assert population.seconds_per_trial(PRESETS["smoke"]) == {"processes": None, "ray": None}
