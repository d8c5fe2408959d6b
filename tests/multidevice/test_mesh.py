"""One device equals 8 fake ones, for data-parallel and fully sharded meshes. The program runs in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.multidevice
PROGRAM = Path(__file__).parent / "eight_devices.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = os.pathsep.join([str(PROGRAM.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(PROGRAM), str(tmp_path_factory.mktemp("meshes"))]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_close(one, other):
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    for name, values in one["params"].items():
        np.testing.assert_allclose(other["params"][name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mesh", ["data", "fsdp", "both", "microbatches"])
def test_eight_devices_equal_one(results, mesh):
    assert results["one"]["devices"] == 1
    assert results[mesh]["devices"] == 8
    assert_close(results["one"], results[mesh])


@pytest.mark.parametrize("mesh", ["one", "data", "fsdp", "both", "microbatches"])
def test_one_compile_per_run(results, mesh):
    assert results[mesh]["compiled"] == 1


def test_parameters_and_moments_stay_divided_while_training(results):
    assert results["data"]["shards"] == {"in": [8, 32], "moment": [8, 32], "bias": [32]}
    assert results["fsdp"]["shards"] == {"in": [8, 4], "moment": [8, 4], "bias": [4]}
    assert results["both"]["shards"] == {"in": [8, 8], "moment": [8, 8], "bias": [8]}


def test_resumed_fully_sharded_run_is_bitwise_equal(results):
    for name in ("params", "losses", "shards"):
        assert results["resumed"][name] == results["fsdp"][name]
    assert results["resumed"]["compiled"] == 0  # restored arrays are placed as the step wants them


def test_checkpoint_of_one_device_continues_on_a_mesh(results):
    assert results["other_mesh"]["devices"] == 8
    assert_close(results["one_longer"], results["other_mesh"])


def test_what_does_not_fit_the_mesh_is_refused(results):
    batch, devices, zero = results["refused"]
    assert "batch_size = 12" in batch
    assert "multiple of the mesh's 8 devices" in batch
    assert "at most the 8 devices" in devices
    assert "mesh.data = 0" in zero
