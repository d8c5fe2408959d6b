"""Two processes with two fake devices each train as one process with four does, and decide alike. Every process is a program of its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.multidevice
PROGRAM = Path(__file__).parent / "two_processes.py"
STEPS, ROWS = 6, 8


def start(folder: Path, processes: int) -> list[dict]:
    """What each process found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = os.pathsep.join([str(PROGRAM.parents[2]), os.environ.get("PYTHONPATH", "")])
    running = []
    for process in range(processes):
        command = [sys.executable, str(PROGRAM), str(folder), address, str(processes), str(process)]
        with (folder / f"{process}.log").open("w") as log:
            running.append(
                subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        codes = [process.wait(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    logs = [(folder / f"{process}.log").read_text() for process in range(processes)]
    assert codes == [0] * processes, "\n".join(logs)
    return [json.loads((folder / f"{process}.json").read_text()) for process in range(processes)]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return start(tmp_path_factory.mktemp("one"), 1)[0]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return start(tmp_path_factory.mktemp("two"), 2)


@pytest.mark.parametrize("mesh", ["data", "both", "model"])
def test_two_processes_equal_one(one, two, mesh):
    assert (one["devices"], one["local"]) == (4, 4)
    for process in two:
        assert (process["devices"], process["local"]) == (4, 2)
        assert len(process[mesh]["losses"]) == STEPS
        np.testing.assert_allclose(process[mesh]["losses"], one[mesh]["losses"], rtol=1e-6)
        for ours, theirs in zip(process[mesh]["params"], one[mesh]["params"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert one[mesh]["losses"][-1] != one[mesh]["losses"][0]


def test_each_process_reads_its_rows_alone(one, two):
    assert one["data"]["gathered"] == ROWS
    assert [process["data"]["gathered"] for process in two] == [ROWS // 2] * 2
    assert [process["model"]["gathered"] for process in two] == [ROWS] * 2  # they share the work on every row


def test_parameters_stay_divided(two):
    for process in two:
        assert process["data"]["smallest_part"] == 1
        assert process["both"]["smallest_part"] == 0.5
        assert process["model"]["smallest_part"] == 0.25


def test_resumed_run_is_bitwise_equal(two):
    for process in two:
        assert process["resumed"]["calls"] == STEPS - 2
        assert process["resumed"]["params"] == process["both"]["params"]
        assert process["resumed"]["lines"] == process["both"]["lines"]


def test_sigterm_to_one_process_ends_both_with_one_checkpoint(two):
    for process in two:
        assert process["ended"]["code"] == 143
        assert process["ended"]["calls"] == len(process["ended"]["losses"]) == 3  # told in the second dispatch
        assert process["continued"]["calls"] == STEPS - 3
        assert process["continued"]["params"] == process["both"]["params"]
        assert process["continued"]["lines"] == process["both"]["lines"]


def test_one_process_whose_checkpoint_is_due_does_not_wait_alone(two):
    for process in two:
        assert process["late"]["calls"] == STEPS
        assert process["late"]["params"] == process["both"]["params"]
        assert process["late"]["checkpoints"] == ["4", "6"]


def test_damage_to_one_part_is_seen_by_both_and_the_checkpoint_before_taken(two):
    for process in two:
        assert process["damaged"]["calls"] == STEPS - 2
        assert process["damaged"]["checkpoints"] == ["2", "6", "damaged-4"]
        assert process["damaged"]["params"] == process["both"]["params"]
        assert process["damaged"]["lines"] == process["both"]["lines"]


def test_what_does_not_fit_the_processes_is_refused(two):
    for process in two:
        mesh, batch, rows = process["refused"]
        assert "data * fsdp * model of all 4 devices of the 2 processes" in mesh
        assert "the 4 rows of this process" in batch
        assert "batch_size = 6" in rows and "multiple of the mesh's data * fsdp = 4" in rows
