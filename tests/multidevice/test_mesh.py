"""One device equals 8 fake ones, for data-parallel, fully sharded and tensor-parallel meshes. The program runs in a process of its own."""

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
    batch, devices, no_data, no_model = results["refused"]
    assert "batch_size = 6" in batch
    assert "multiple of the mesh's data * fsdp = 4" in batch
    assert "at most the 8 devices" in devices
    assert "mesh.data = 0" in no_data
    assert "mesh.model = 0" in no_model


@pytest.mark.parametrize("mesh", ["model", "all"])
@pytest.mark.parametrize("lexicon", ["standard", "lexinvariant"])
def test_language_models_with_their_heads_apart_equal_one_device(results, lexicon, mesh):
    one, many = results[lexicon]["one"], results[lexicon][mesh]
    assert (one["devices"], many["devices"]) == (1, 8)
    assert one["compiled"] == many["compiled"] == 1
    assert_close(one, many)
    assert one["losses"][-1] != one["losses"][0]


def test_heads_and_hidden_units_stay_divided_while_training(results):
    """Width 32, 8 heads, 64 hidden units, 2 layers: divided over `model`, and of what is left the largest axis over `fsdp`."""
    whole, halved = results["lexinvariant"]["model"]["shards"], results["lexinvariant"]["all"]["shards"]
    assert whole["moments"] == whole["params"] and halved["moments"] == halved["params"]
    apart = {"query": [2, 32, 4], "output": [2, 4, 32], "query_bias": [2, 4], "output_bias": [2, 32]}
    assert {name: whole["params"]["attention"][name] for name in apart} == apart
    assert whole["params"]["mlp_in"] == [2, 32, 8] and whole["params"]["mlp_out"] == [2, 8, 32]
    assert halved["params"]["attention"]["query"] == halved["params"]["attention"]["output"] == [2, 16, 16]
    assert halved["params"]["mlp_in"] == [2, 16, 32] and halved["params"]["mlp_out"] == [2, 32, 16]


def test_resumed_run_with_heads_apart_is_bitwise_equal(results):
    resumed, undisturbed = results["lexinvariant"]["resumed"], results["lexinvariant"]["all"]
    for name in ("params", "losses", "shards"):
        assert resumed[name] == undisturbed[name]
    assert resumed["compiled"] == 0


def test_checkpoint_of_heads_apart_continues_on_another_mesh(results):
    results = results["lexinvariant"]
    assert results["other_mesh"]["devices"] == 8
    assert results["other_mesh"]["shards"]["params"]["mlp_in"] == [2, 32, 32]
    assert_close(results["one_longer"], results["other_mesh"])


def test_autoencoder_with_its_latents_apart_equals_one_device(results):
    one, many = results["autoencoder"]["one"], results["autoencoder"]["all"]
    assert many["compiled"] == 1
    assert many["shards"] == {"encoder": [4, 16], "encoder_bias": [16], "decoder": [16, 4], "decoder_bias": [4]}
    assert_close(one, many)
