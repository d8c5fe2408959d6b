"""Successive halving against the rule written out, and sweeps that are halved: what is stopped early can be finished later."""

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.harness.halving import Halving, losses
from lexinv.validation import InvalidConfig

optuna = pytest.importorskip("optuna", reason="the extra cluster is not installed")


def write(folder: Path, values, name="model") -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"step": step, "loss": value}) for step, value in enumerate(values, 1))
    (folder / name / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("factor", [2, 3])
def test_a_trial_goes_on_if_it_is_among_the_best_that_reached_its_rung(tmp_path, factor):
    first, draw = 4, random.Random(factor)
    halving, reached = Halving(factor, first), {}
    running = {tmp_path / str(i): [draw.random() for _ in range(first * factor**2)] for i in range(12)}
    ends = []
    for folder, values in running.items():
        rung, expected = first, None
        while rung <= len(values) and expected is None:
            loss = np.mean(values[rung - max(rung // 10, 1) : rung])
            others = reached.setdefault(rung, [])
            others.append(loss)
            if sorted(others).index(loss) >= max(len(others) // factor, 1):
                expected = {"updates": rung, "loss": pytest.approx(loss)}
            write(folder, values[: rung - 1])
            assert halving.stops(folder) is None  # one update before the rung
            write(folder, values[:rung])
            assert halving.stops(folder) == expected
            assert halving.stops(folder) is None  # said once
            rung *= factor
        ends.append(expected is None)
    assert 0 < sum(ends) < len(ends)


def test_losses_are_of_all_trainings_in_their_order_and_of_all_seeds(tmp_path):
    write(tmp_path, [[1.0, 3.0], [2.0, None]], "b")
    file = tmp_path / "b/metrics.jsonl"
    file.write_text(file.read_text().replace("[2.0, null]", "null") + '{"step": 2, "evaluation": {"loss": 9}}\n{"step"')
    os.utime(file, (1, 1))
    write(tmp_path, [0.5], "a/seed-1")
    assert losses(tmp_path) == [2.0, float("inf"), 0.5]


@pytest.mark.long
def test_stopped_trials_stay_so_until_they_are_wanted(cli, toy):
    sweep = ("sweep", "toy/learning", "smoke", "--workspace", "s", "--grid", "slope=0.5,2,3")
    halving = ("--halving", "2", "--first-rung", "10")
    code, out, err = cli(*sweep, *halving)
    assert (code, err) == (0, "")
    assert "1 of 3 trials are finished, 2 were stopped early" in out
    stopped = {json.loads(path.read_text())["loss"] for path in Path("s/trials").glob("*/stopped.json")}
    assert stopped == {2.0, 3.0}
    summary = json.loads(Path("s/summary.json").read_text())
    assert [row["status"] for row in summary["trials"]] == ["done", "stopped", "stopped"]
    started = {path: path.read_bytes() for path in Path("s/trials").glob("*/log.txt")}
    assert "2 were stopped early" in cli(*sweep, *halving)[1]
    assert {path: path.read_bytes() for path in started} == started  # nothing was started again
    toy.touch()
    code, out, _ = cli(*sweep)
    assert code == 0 and "3 of 3 trials are finished:" in out
    assert not list(Path("s/trials").glob("*/stopped.json"))


def test_optuna_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InvalidConfig, match="cluster"):
        Halving(2, 10)
