"""The metrics file: exact numbers, valid JSON, and the cut on resumption."""

import json
import math

import numpy as np

from lexinv.training.metrics import MetricsLog, read_metrics


def write(path, start, stop):
    log = MetricsLog(path, start)
    for step in range(start + 1, stop + 1):
        log.write(step, {"loss": np.float32(1 / step)})
    log.flush()
    log.close()


def test_numbers_are_exact_and_non_finite_ones_null(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl", 0)
    log.write(1, {"loss": np.array([0.1, np.nan], np.float32), "evaluation": {"nll": math.inf, "name": "a"}})
    log.close()
    (line,) = read_metrics(tmp_path / "m.jsonl")
    assert line == {"step": 1, "loss": [float(np.float32(0.1)), None], "evaluation": {"nll": None, "name": "a"}}


def test_a_resumed_file_equals_an_undisturbed_one(tmp_path):
    write(tmp_path / "whole.jsonl", 0, 9)
    write(tmp_path / "resumed.jsonl", 0, 7)
    with (tmp_path / "resumed.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    write(tmp_path / "resumed.jsonl", 5, 9)
    assert (tmp_path / "resumed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_damaged_lines_are_cut_off(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, 0, 3)
    with path.open("ab") as file:
        file.write(bytes(20) + b"\n")
    write(path, 3, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
