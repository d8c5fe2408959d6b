"""Runs on meshes of 8 fake devices, killed 20 times at random moments, end as those that nobody disturbed."""

import signal

import pytest

pytestmark = pytest.mark.multidevice
MESHES = ["data", "fsdp", "model"]


@pytest.fixture(scope="module")
def results(found_by):
    return found_by("preempted.py")[0]


@pytest.fixture(scope="module")
def kills(results):
    return [kill for mesh in MESHES for kill in results[mesh]["kills"]]


def test_runs_were_killed_twenty_times_also_while_a_checkpoint_was_written(kills):
    assert len(kills) == 20
    expected = {"terminate": 143, "training": -signal.SIGKILL, "writing": -signal.SIGKILL, "starting": -signal.SIGKILL}
    assert [kill["code"] for kill in kills] == [expected[kill["kind"]] for kill in kills]
    assert sum(kill["unfinished"] for kill in kills) >= 1


def test_every_start_went_on_from_the_newest_complete_checkpoint(results):
    for mesh in MESHES:
        kills = results[mesh]["kills"]
        for kill in kills:
            assert kill["begun"] in ([kill["before"], None] if kill["kind"] == "starting" else [kill["before"]])
            assert kill["after"] > kill["before"] or kill["kind"] == "starting"
        assert results[mesh]["begun"] == kills[-1]["after"]


def test_sigterm_leaves_a_complete_checkpoint_of_the_last_step(kills):
    ended = [kill for kill in kills if kill["kind"] == "terminate"]
    assert len(ended) == 6
    for kill in ended:
        assert kill["after"] == kill["lines"] and not kill["unfinished"]


@pytest.mark.parametrize("mesh", MESHES)
def test_killed_run_ends_bitwise_as_the_undisturbed_one(results, mesh):
    """State, with the moments, and metrics."""
    assert results[mesh]["lines"] == results[mesh]["steps"] > results[mesh]["begun"] > 0
    assert results[mesh]["state_equal"]
    assert results[mesh]["metrics_equal"]


@pytest.mark.parametrize("mesh", MESHES[1:])
def test_killed_run_goes_on_on_another_mesh_within_tolerance(results, mesh):
    """`moved` is the largest deviation of each parameter, in units of 1e-5 + 1e-4 |value|."""
    assert results[mesh]["part"] < 1
    assert max(results[mesh]["moved"]) < 1
