"""What is told of a finished sweep: the order of its trials, and a metric of each."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.harness import sweep_summary
from experiments.harness.config import config_hash
from experiments.harness.registry import load
from experiments.harness.sweeps import Trial
from lexinv.validation import InvalidConfig

pytestmark = pytest.mark.usefixtures("toy")


def made_up(tmp_path: Path, value, holds=True, **values) -> Trial:
    """A finished trial that measured a value."""
    config = dataclasses.replace(load("toy/line").PRESETS["smoke"], **values)
    path = tmp_path / config_hash(config)
    path.mkdir()
    (path / "results.json").write_text(json.dumps({"loss": value, "arms": {"a": [{"x": value}]}}))
    word = {True: "holds", False: "refuted", None: "open"}[holds]
    (path / "claims.json").write_text(json.dumps([{"name": "a", "verdict": word}, {"name": "b", "holds": None}]))
    (path / "environment.json").write_text(json.dumps({"wall_clock_seconds": 2.0}))
    return Trial(path, values, config, "done")


def summarize(trials, metric=None, best="lowest"):
    return sweep_summary.summarize("toy/line", "smoke", load("toy/line").PRESETS["smoke"], trials, metric, best)


def test_best_configurations_come_first(tmp_path):
    trials = [
        made_up(tmp_path, value, holds, slope=float(slope))
        for slope, (value, holds) in enumerate([([2, 4], False), ([1, 1], None), ([0, 8], True)])
    ]
    failed = Trial(tmp_path / "failed", {"slope": 9.0}, dataclasses.replace(trials[0].config, slope=9.0), "failed")

    def order(*arguments):
        return [row["values"]["slope"] for row in summarize([failed, *trials], *arguments)["trials"]]

    assert order() == [2.0, 1.0, 0.0, 9.0]
    assert order("loss") == [1.0, 0.0, 2.0, 9.0]
    assert order("loss", "highest") == [2.0, 0.0, 1.0, 9.0]
    value = summarize(trials, "loss")["trials"][1]["value"]
    # Student's t with one degree of freedom: 12.706 standard errors, which are 1 here
    assert value == {
        "mean": 3.0,
        "low": pytest.approx(3 - 12.706, abs=1e-3),
        "high": pytest.approx(3 + 12.706, abs=1e-3),
        "n": 2,
    }


def test_a_trial_without_the_metric_has_an_empty_cell_and_says_why(tmp_path):
    trials = [made_up(tmp_path, [float(slope)], slope=float(slope)) for slope in range(3)]
    (trials[1].folder / "results.json").write_text('{"arms": {}}')
    (trials[2].folder / "results.json").write_text("{")
    summary = summarize(trials, "loss")
    rows = {row["values"]["slope"]: row for row in summary["trials"]}
    assert [row["values"]["slope"] for row in summary["trials"]] == [0.0, 1.0, 2.0]
    assert rows[0.0]["value"]["mean"] == 0.0 and rows[0.0]["trouble"] is None
    assert rows[1.0]["value"] is rows[2.0]["value"] is None
    assert rows[1.0]["trouble"] == "--metric = 'loss' is not possible: known: arms"
    assert str(trials[2].folder / "results.json") in rows[2.0]["trouble"]
    (axes,) = sweep_summary.figure(summary).axes
    assert list(axes.containers[0].lines[0].get_xdata()) == [0.0]


def test_metrics_are_numbers_or_lists_over_seeds():
    given = {"mean": 1.0, "low": None, "high": None, "n": 1}
    results = {"x": 1, "arms": {"a": [{"x": [1.0, 3.0]}, {"x": given}]}, "text": "a", "matrix": [[1.0]], "none": []}
    assert sweep_summary.metric_at(results, "x") == given
    assert sweep_summary.metric_at(results, "arms.a.0.x")["mean"] == 2.0
    assert sweep_summary.metric_at(results, "arms.a.1.x") == given
    for path, message in (
        ("y", "known: x, arms"),
        ("arms.a.2.x", "a place below 2"),
        ("arms.a.-1.x", "a place below 2"),
        ("arms.a.x", "a place below 2"),
        ("x.y", "ends before y"),
        ("text", "a list of numbers"),
        ("matrix", "a list of numbers"),
        ("none", "a list of numbers"),
        ("arms", "it has a"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            sweep_summary.metric_at(results, path)
