"""Two processes with two fake devices each train as one process with four does, and decide alike."""

import numpy as np
import pytest

pytestmark = pytest.mark.multidevice
STEPS, ROWS = 6, 16


@pytest.fixture(scope="module")
def one(found_by):
    return found_by("two_processes.py")[0]


@pytest.fixture(scope="module")
def two(found_by):
    return found_by("two_processes.py", 2)


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


@pytest.mark.parametrize(
    "disturbed, calls", [("resumed", STEPS - 2), ("continued", STEPS - 3), ("late", STEPS), ("damaged", STEPS - 2)]
)
def test_disturbed_run_is_bitwise_equal(two, disturbed, calls):
    for process in two:
        assert process[disturbed]["calls"] == calls
        for name in ("params", "lines"):
            assert process[disturbed][name] == process["both"][name]


def test_sigterm_to_one_process_ends_both_with_one_checkpoint(two):
    for process in two:
        assert process["ended"]["code"] == 143
        assert process["ended"]["calls"] == len(process["ended"]["losses"]) == 3  # told in the second dispatch


def test_one_process_whose_checkpoint_is_due_does_not_wait_alone(two):
    assert [process["late"]["checkpoints"] for process in two] == [["4", "6"]] * 2


def test_damage_to_one_part_is_seen_by_both_and_the_checkpoint_before_taken(two):
    assert [process["damaged"]["checkpoints"] for process in two] == [["2", "6", "damaged-4"]] * 2


def test_what_does_not_fit_the_processes_is_refused(two):
    for process in two:
        mesh, batch, rows, own = process["refused"]
        assert "data * fsdp * model of all 4 devices of the 2 processes" in mesh
        assert "the 8 rows of this process" in batch
        assert "batch_size = 6" in rows and "multiple of the mesh's data * fsdp = 4" in rows
        assert "processes = 2" in own and "not divided over a mesh" in own
