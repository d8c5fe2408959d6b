"""The metrics file: exact numbers, valid JSON, and the cut on resumption."""

import errno
import math
import os
import resource

import numpy as np
import pytest

from lexinv.training.metrics import MetricsLog, read_metrics, read_speed, write_speed
from lexinv.validation import InvalidConfig


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


@pytest.mark.parametrize("checkpoint", [5, 7])
@pytest.mark.parametrize("end", [b'{"step": 8, "lo', bytes(20) + b"\n"], ids=["killed while writing", "damaged"])
def test_a_resumed_file_equals_an_undisturbed_one(tmp_path, end, checkpoint):
    write(tmp_path / "whole.jsonl", 0, 9)
    write(tmp_path / "resumed.jsonl", 0, 7)
    with (tmp_path / "resumed.jsonl").open("ab") as file:
        file.write(end)
    write(tmp_path / "resumed.jsonl", checkpoint, 9)
    assert (tmp_path / "resumed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_lines_that_are_lost_before_the_checkpoint_are_told(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, 0, 4)
    path.write_bytes(path.read_bytes().replace(b'"step": 3', b'"step": x'))
    with pytest.raises(InvalidConfig, match=r"m\.jsonl' is not possible: lines of JSON; line 3 is damaged"):
        read_metrics(path)
    with pytest.warns(
        UserWarning, match=r"m\.jsonl ends, or is damaged, after step 2: .* checkpoint of step 4 are lost"
    ):
        write(path, 4, 5)
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 5]


def test_the_file_that_could_not_be_written_is_named(tmp_path):
    log, limits = MetricsLog(tmp_path / "m.jsonl", 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        for act in (lambda: log.write(1, {"loss": 0.5}), log.flush, log.close):
            with pytest.raises(OSError, match=r"m\.jsonl") as caught:
                act()
            assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_damaged_speed_is_named_and_left_out(tmp_path):
    speed = {"tokens_per_second": 12.5, "utilisation": None, "steps_per_dispatch": 20}
    write_speed(tmp_path, speed)
    assert read_speed(tmp_path / "speed.json") == speed
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]
    os.truncate(tmp_path / "speed.json", 20)
    with pytest.warns(UserWarning, match=r"speed\.json is damaged"):
        assert read_speed(tmp_path / "speed.json") is None
