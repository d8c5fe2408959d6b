"""One device equals 8 fake ones, for data-parallel, fully sharded and tensor-parallel meshes."""

import numpy as np
import pytest

pytestmark = pytest.mark.multidevice


@pytest.fixture(scope="module")
def results(found_by):
    return found_by("eight_devices.py")[0]


def assert_close(one, other):
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    for name, values in one["params"].items():
        np.testing.assert_allclose(other["params"][name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model, mesh",
    [(model, mesh) for model in ("standard", "lexinvariant") for mesh in ("data", "fsdp", "model", "all")]
    + [("lexinvariant", "microbatches"), ("autoencoder", "all")],
)
def test_eight_devices_equal_one_and_every_run_compiles_once(results, model, mesh):
    one, many = results[model]["one"], results[model][mesh]
    assert (one["devices"], many["devices"]) == (1, 8)
    assert one["compiled"] == many["compiled"] == 1
    assert_close(one, many)
    assert one["losses"][-1] != one["losses"][0]


def test_parameters_and_moments_stay_divided_while_training(results):
    """Width 32, 8 heads, 64 hidden units, 2 layers: divided over `model`, and of what is left the largest axis over `fsdp`."""
    apart = {"query": [2, 32, 4], "output": [2, 4, 32], "query_bias": [2, 4], "output_bias": [2, 32]}
    expected = {
        "data": {"query": [2, 32, 32], "mlp_in": [2, 32, 64], "mlp_in_bias": [2, 64]},
        "fsdp": {"query": [2, 4, 32], "mlp_in": [2, 32, 8], "mlp_out": [2, 8, 32], "mlp_in_bias": [2, 8]},
        "model": {**apart, "mlp_in": [2, 32, 8], "mlp_out": [2, 8, 32]},
        "all": {"query": [2, 16, 16], "output": [2, 16, 16], "mlp_in": [2, 16, 32], "mlp_out": [2, 32, 16]},
        "one_goes_on": {"mlp_in": [2, 32, 32]},
        "model_goes_on": {"mlp_in": [2, 32, 32]},
    }
    for mesh, parts in expected.items():
        found = results["lexinvariant"][mesh]
        assert found["parts_of_moments"] == found["parts"]
        assert {name: found["parts"][name] for name in parts} == parts, mesh
    parts = results["autoencoder"]["all"]["parts"]
    assert parts == {"encoder": [4, 16], "encoder_bias": [16], "decoder": [16, 4], "decoder_bias": [4]}


def test_resumed_run_is_bitwise_equal(results):
    resumed, undisturbed = results["lexinvariant"]["resumed"], results["lexinvariant"]["all"]
    for name in ("params", "losses", "parts"):
        assert resumed[name] == undisturbed[name]
    assert resumed["compiled"] == 0  # restored arrays are placed as the step wants them


@pytest.mark.parametrize("begun_on", ["one", "model"])
def test_checkpoint_continues_on_another_mesh(results, begun_on):
    results = results["lexinvariant"]
    assert results[f"{begun_on}_goes_on"]["devices"] == 8
    assert_close(results["longer"], results[f"{begun_on}_goes_on"])


def test_what_does_not_fit_the_mesh_is_refused(results):
    batch, devices, no_data, no_model = results["refused"]
    assert "batch_size = 6" in batch
    assert "multiple of the mesh's data * fsdp = 4" in batch
    assert "at most the 8 devices" in devices
    assert "mesh.data = 0" in no_data
    assert "mesh.model = 0" in no_model
