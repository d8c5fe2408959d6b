"""Directories of SAELens: what is written is read again exactly, what cannot be read is named, and SAELens does the same with them."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.flax import save_file as save_jax_file
from safetensors.numpy import load, load_file, save_file

from lexinv.sae.activation_streams import scale_to_unit
from lexinv.sae.autoencoders import decode, encode
from lexinv.sae.inference import encode_alone
from lexinv.sae.interchange import load_saelens, save_saelens
from lexinv.validation import InvalidConfig

KINDS = ("relu", "free", "gated", "jumprelu", "topk", "mutual", "feature", "matryoshka")


@pytest.fixture
def written(autoencoder):
    def write(directory: pathlib.Path, kind: str = "relu"):
        config, params, threshold, k, x = autoencoder(kind)
        save_saelens(directory, config, params, threshold, k=k, scale=1.0)
        return config, params, threshold, k, x

    return write


def rewrite(directory: pathlib.Path, change: dict, tensors=None) -> None:
    """As another tool would have written it: without our part of the metadata."""
    path = directory / "cfg.json"
    described = json.loads(path.read_text())
    del described["metadata"]["lexinv"]
    path.write_text(json.dumps({name: value for name, value in (described | change).items() if value != "absent"}))
    if tensors is not None:
        save_file(tensors, directory / "sae_weights.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_is_exact(kind, tmp_path, autoencoder):
    config, params, threshold, k, _ = autoencoder(kind)
    densities = np.linspace(0, 1, 9)
    save_saelens(
        tmp_path / "a" / "b",
        config,
        params,
        threshold,
        k=k,
        densities=densities,
        metadata={"hook_name": "h"},
        scale=1.0,
    )
    found = load_saelens(tmp_path / "a" / "b")
    assert found.config == config and found.k == k
    assert found.params.keys() == params.keys()
    for name, leaf in params.items():
        np.testing.assert_array_equal(found.params[name], leaf)
    if threshold is None:
        assert found.threshold is None
    else:
        np.testing.assert_array_equal(found.threshold, threshold)
        assert found.threshold.shape == threshold.shape
    np.testing.assert_allclose(found.densities, densities, rtol=1e-5, atol=1e-9)
    assert found.metadata["hook_name"] == "h" and not list((tmp_path / "a").glob(".*"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_on_scaled_activations_is_loaded_for_raw_ones(kind, tmp_path, autoencoder):
    """Same codes, so same L0, and reconstructions of what the model computes."""
    config, params, threshold, k, x = autoencoder(kind)
    raw = 20 * x
    scale = scale_to_unit(np.asarray(raw))
    save_saelens(tmp_path / "a", config, params, threshold, scale=scale, k=k)
    found = load_saelens(tmp_path / "a")
    wanted = encode_alone(config, params, scale * raw, threshold, k)
    codes = encode_alone(found.config, found.params, raw, found.threshold, found.k)
    np.testing.assert_allclose(codes, wanted, atol=1e-4)
    l0 = [float((z > 0).sum(axis=1).mean()) for z in (wanted, codes, encode_alone(config, params, raw, threshold, k))]
    assert l0[0] == l0[1] and (kind == "topk" or l0[2] != l0[0])
    np.testing.assert_allclose(decode(found.params, codes), decode(params, wanted) / scale, atol=1e-3)
    with pytest.raises(InvalidConfig, match="scale = 0"):
        save_saelens(tmp_path / "b", config, params, threshold, scale=0.0, k=k)


def test_names_shapes_and_thresholds_in_the_files(tmp_path, written):
    _, params, threshold, _, _ = written(tmp_path / "m", "matryoshka")
    described = json.loads((tmp_path / "m" / "cfg.json").read_text())
    assert (described["architecture"], described["d_in"], described["d_sae"]) == ("jumprelu", 6, 9)
    tensors = load_file(tmp_path / "m" / "sae_weights.safetensors")
    assert sorted(tensors) == ["W_dec", "W_enc", "b_dec", "b_enc", "threshold"]
    np.testing.assert_array_equal(tensors["threshold"], np.full(9, threshold))
    np.testing.assert_array_equal(tensors["W_enc"], params["encoder"])


def test_thresholds_of_others_become_jumprelu(tmp_path, written):
    _, params, threshold, _, x = written(tmp_path / "m", "mutual")
    rewrite(tmp_path / "m", {})
    found = load_saelens(tmp_path / "m")
    assert found.config.kind == "jumprelu" and found.threshold is None
    wanted = np.maximum((x - params["decoder_bias"][None]) @ params["encoder"] + params["encoder_bias"][None], 0)
    wanted = np.where(wanted > np.asarray(threshold), wanted, 0)
    np.testing.assert_allclose(encode(found.config, found.params, x).activations, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["relu", "gated"])
def test_an_encoder_without_the_decoder_bias(kind, tmp_path, written):
    """SAELens' apply_b_dec_to_input = false: pre-activations of x, not of x - b_dec."""
    config, params, _, _, x = written(tmp_path / "a", kind)
    rewrite(tmp_path / "a", {"apply_b_dec_to_input": False})
    found = load_saelens(tmp_path / "a")
    shifted = encode(config, params, x + params["decoder_bias"][None]).activations
    np.testing.assert_allclose(encode(found.config, found.params, x).activations, shifted, atol=1e-5)


def test_topk_by_decoder_norms(tmp_path, written):
    _, params, _, _, x = written(tmp_path / "a", "topk")
    scaled = load_file(tmp_path / "a" / "sae_weights.safetensors")
    norms = np.linspace(0.2, 3, 9, dtype=np.float32)
    scaled["W_dec"] = scaled["W_dec"] * norms[:, None]
    rewrite(tmp_path / "a", {"rescale_acts_by_decoder_norm": True}, scaled)
    found = load_saelens(tmp_path / "a")
    pre = np.asarray((x - params["decoder_bias"][None]) @ params["encoder"] + params["encoder_bias"][None]) * norms
    wanted = np.where(pre >= np.sort(pre, axis=1)[:, -2:-1], np.maximum(pre, 0), 0)
    np.testing.assert_allclose(encode_alone(found.config, found.params, x, k=found.k), wanted, atol=1e-5)


def test_the_format_before_six(tmp_path, written):
    written(tmp_path / "a", "topk")
    rewrite(
        tmp_path / "a",
        {"architecture": "absent", "k": "absent", "metadata": "absent", "normalize_activations": False}
        | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
    )
    found = load_saelens(tmp_path / "a")
    assert found.config.kind == "topk" and found.k == 3


def test_bfloat16_weights_are_read(tmp_path, written):
    _, params, _, _, _ = written(tmp_path / "a")
    names = {"W_enc": "encoder", "b_enc": "encoder_bias", "W_dec": "decoder", "b_dec": "decoder_bias"}
    save_jax_file(
        {theirs: params[ours].astype(jnp.bfloat16) for theirs, ours in names.items()},
        tmp_path / "a" / "sae_weights.safetensors",
    )
    found = load_saelens(tmp_path / "a").params
    np.testing.assert_array_equal(found["encoder"], params["encoder"].astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"architecture": "jumprelu_transcoder"}, "jumprelu_transcoder.*known: standard, topk, jumprelu, gated"),
        ({"architecture": "batchtopk"}, "known: standard, topk, jumprelu, gated"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations = 'layer_norm'"),
        ({"d_sae": 8}, r"W_enc = \(6, 9\).*\(6, 8\)"),
        ({"d_in": None}, "d_in = None"),
        ({"reshape_activations": "sideways"}, "reshape_activations"),
        ({"architecture": "jumprelu"}, "threshold = 'missing'"),
        ({"architecture": "topk"}, "k = None"),
        ({"metadata": {"sae_lens_version": "6.1.0", "lexinv": {"kind": "gated"}}}, "metadata.lexinv"),
        ({"metadata": {}, "activation_fn": "tanh-relu"}, "activation_fn = 'tanh-relu'"),
    ],
)
def test_what_cannot_be_read_is_named(change, message, tmp_path, written):
    written(tmp_path / "a")
    rewrite(tmp_path / "a", change)
    with pytest.raises(InvalidConfig, match=message):
        load_saelens(tmp_path / "a")


def test_damaged_files_are_named(tmp_path, written):
    with pytest.raises(InvalidConfig, match=r"cfg.json is missing"):
        load_saelens(tmp_path)
    written(tmp_path / "a")
    weights = tmp_path / "a" / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(InvalidConfig, match="whole safetensors file"):
        load_saelens(tmp_path / "a")
    tensors = load(whole)
    rewrite(tmp_path / "a", {}, tensors | {"b_dec": np.full(6, np.nan, np.float32)})
    with pytest.raises(InvalidConfig, match="b_dec = 'not finite'"):
        load_saelens(tmp_path / "a")
    save_file(tensors | {"W_skip": np.zeros((6, 6), np.float32)}, weights)
    with pytest.raises(InvalidConfig, match="W_skip"):
        load_saelens(tmp_path / "a")
    (tmp_path / "a" / "cfg.json").write_text("{")
    with pytest.raises(InvalidConfig, match="JSON"):
        load_saelens(tmp_path / "a")


def test_nothing_is_overwritten_and_nothing_is_left_half_written(tmp_path, written):
    config, params, _, _, _ = written(tmp_path / "a")
    with pytest.raises(InvalidConfig, match="nothing is overwritten"):
        save_saelens(tmp_path / "a", config, params, scale=1.0)
    with pytest.raises(InvalidConfig, match="not finite"):
        save_saelens(tmp_path / "b", config, params | {"decoder_bias": jnp.full(6, jnp.inf)}, scale=1.0)
    with pytest.raises(InvalidConfig, match="metadata.lexinv"):
        save_saelens(tmp_path / "b", config, params, metadata={"lexinv": 1}, scale=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch, autoencoder):
    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    config, params, _, _, _ = autoencoder("relu")
    with pytest.raises(OSError, match="no space left"):
        save_saelens(tmp_path / "a", config, params, scale=1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_saelens_reads_ours(kind, tmp_path, autoencoder):
    sae_lens, torch = pytest.importorskip("sae_lens"), pytest.importorskip("torch")
    config, params, threshold, k, x = autoencoder(kind)
    save_saelens(
        tmp_path / "a", config, params, threshold, k=k, metadata={"hook_name": "blocks.0.hook_resid_post"}, scale=1.0
    )
    sae = sae_lens.SAE.load_from_disk(tmp_path / "a")
    assert sae.cfg.metadata.hook_name == "blocks.0.hook_resid_post"
    with torch.no_grad():
        theirs = sae.encode(torch.tensor(np.asarray(x)))
        reconstruction = sae.decode(theirs)
    codes = encode_alone(config, params, x, threshold, k)
    np.testing.assert_allclose(theirs.numpy(), codes, atol=1e-5)
    np.testing.assert_allclose(reconstruction.numpy(), decode(params, codes), atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu", "topk", "topk_by_norms"])
def test_ours_reads_saelens(architecture, centred, tmp_path):
    sae_lens, torch = pytest.importorskip("sae_lens"), pytest.importorskip("torch")
    name, _, by_norms = architecture.partition("_")
    described = {"architecture": name, "d_in": 6, "d_sae": 9, "apply_b_dec_to_input": centred, "metadata": {}}
    if name == "topk":
        described |= {"k": 3, "rescale_acts_by_decoder_norm": bool(by_norms)}
    sae = sae_lens.SAE.from_dict(described)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        sae.save_model(tmp_path / "a")
        x = torch.randn(50, 6)
        codes = sae.encode(x)
        reconstruction = sae.decode(codes)
    found = load_saelens(tmp_path / "a")
    ours = encode_alone(found.config, found.params, jnp.asarray(x.numpy()), found.threshold, found.k)
    np.testing.assert_allclose(ours, codes.numpy(), atol=1e-5)
    np.testing.assert_allclose(decode(found.params, ours), reconstruction.numpy(), atol=1e-5)
    assert 0 < (np.asarray(ours) > 0).mean() < 1


@pytest.mark.parity
def test_ours_reads_a_trained_batchtopk_of_saelens(tmp_path):
    """Which SAELens writes for inference as JumpReLU."""
    sae_lens, torch = pytest.importorskip("sae_lens"), pytest.importorskip("torch")
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=6, d_sae=9, k=2.0)
    sae = sae_lens.BatchTopKTrainingSAE(config)
    sae.topk_threshold = torch.tensor(0.07, dtype=sae.topk_threshold.dtype)
    sae.save_inference_model(tmp_path / "a")
    found = load_saelens(tmp_path / "a")
    assert found.config.kind == "jumprelu"
    np.testing.assert_allclose(found.params["threshold"], 0.07, rtol=1e-6)
