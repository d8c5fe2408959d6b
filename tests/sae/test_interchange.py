"""Directories of SAELens: what is written is read again exactly, what cannot be read is named, and SAELens does the same with them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.flax import save_file as save_jax_file
from safetensors.numpy import load_file, save_file

from lexinv.sae.activation_streams import scale_to_unit
from lexinv.sae.autoencoders import decode, encode
from lexinv.sae.inference import encode_alone
from lexinv.sae.interchange import load_saelens, save_saelens
from lexinv.sae.methods import METHODS
from lexinv.validation import InvalidConfig

KINDS = (*METHODS, "free")
NAMES = {"W_enc": "encoder", "b_enc": "encoder_bias", "W_dec": "decoder", "b_dec": "decoder_bias"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models" / "a"


@pytest.fixture
def written(folder, autoencoder):
    """A function of the kind and of options of `save_saelens`, which gives config, parameters, threshold, k and data of what it wrote."""

    def write(kind="relu", scale=1.0, **options):
        config, params, threshold, k, _ = made = autoencoder(kind)
        save_saelens(folder, config, params, threshold, k=k, scale=scale, **options)
        return made

    return write


def rewrite(folder, change, tensors=None):
    """As another tool would have written it: without our part of the metadata."""
    path = folder / "cfg.json"
    described = json.loads(path.read_text())
    del described["metadata"]["lexinv"]
    path.write_text(json.dumps({name: value for name, value in (described | change).items() if value != "absent"}))
    if tensors is not None:
        save_file(tensors, folder / "sae_weights.safetensors")


def encoded(found, x):
    """Codes of a loaded autoencoder."""
    return encode_alone(found.config, found.params, x, found.threshold, found.k)


def pre_activations(params, x):
    encoder, bias, centre = (np.asarray(params[name]) for name in ("encoder", "encoder_bias", "decoder_bias"))
    return (np.asarray(x) - centre) @ encoder + bias


def test_an_autoencoder_of_another_model_is_refused(folder, written):
    config, *_ = written(metadata={"model_name": "smollm2", "hook_name": "blocks.9", "tokenizer": "a"})
    own = {"model_name": "smollm2", "hook_name": "blocks.9", "tokenizer": "a", "d_in": config.width}
    assert load_saelens(folder, own).metadata["hook_name"] == "blocks.9"
    for name, other in (("hook_name", "blocks.10"), ("tokenizer", "b"), ("d_in", config.width + 1), ("layer", 9)):
        with pytest.raises(InvalidConfig) as error:
            load_saelens(folder, own | {name: other})
        assert error.value.field == name and repr(other) in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_is_exact(kind, folder, written):
    densities = np.linspace(0, 1, 9)
    config, params, threshold, k, _ = written(kind, densities=densities, metadata={"hook_name": "h"})
    found = load_saelens(folder)
    assert found.config == config and found.k == k
    assert found.params.keys() == params.keys()
    for name, leaf in params.items():
        np.testing.assert_array_equal(found.params[name], leaf)
    np.testing.assert_array_equal(found.threshold, threshold, strict=True)
    np.testing.assert_allclose(found.densities, densities, rtol=1e-5, atol=1e-9)
    assert found.metadata["hook_name"] == "h" and list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_on_scaled_activations_is_loaded_for_raw_ones(kind, folder, written, autoencoder):
    """Same codes, so same L0, and reconstructions of what the model computes."""
    raw = 20 * autoencoder(kind)[-1]
    scale = scale_to_unit(np.asarray(raw), 2.0)
    config, params, threshold, k, _ = written(kind, scale)
    found = load_saelens(folder)
    wanted, codes = encode_alone(config, params, scale * raw, threshold, k), encoded(found, raw)
    np.testing.assert_allclose(codes, wanted, atol=1e-4)
    l0 = [float((z > 0).sum(axis=1).mean()) for z in (wanted, codes, encode_alone(config, params, raw, threshold, k))]
    assert l0[0] == l0[1] and (kind == "topk" or l0[2] != l0[0])
    np.testing.assert_allclose(decode(found.params, codes), decode(params, wanted) / scale, atol=1e-3)


def test_thresholds_of_others_become_jumprelu(folder, written):
    _, params, threshold, _, x = written("mutual")
    rewrite(folder, {})
    found = load_saelens(folder)
    assert found.config.kind == "jumprelu" and found.threshold is None
    pre = pre_activations(params, x)
    np.testing.assert_allclose(encoded(found, x), np.where(pre > threshold, pre, 0), atol=1e-6)


@pytest.mark.parametrize("kind", ["relu", "gated"])
def test_an_encoder_without_the_decoder_bias(kind, folder, written):
    """SAELens' apply_b_dec_to_input = false: pre-activations of x, not of x - b_dec."""
    config, params, _, _, x = written(kind)
    rewrite(folder, {"apply_b_dec_to_input": False})
    shifted = encode(config, params, x + params["decoder_bias"][None]).activations
    np.testing.assert_allclose(encoded(load_saelens(folder), x), shifted, atol=1e-5)


def test_topk_by_decoder_norms(folder, written):
    _, params, _, _, x = written("topk")
    scaled, norms = load_file(folder / "sae_weights.safetensors"), np.linspace(0.2, 3, 9, dtype=np.float32)
    scaled["W_dec"] = scaled["W_dec"] * norms[:, None]
    rewrite(folder, {"rescale_acts_by_decoder_norm": True}, scaled)
    pre = pre_activations(params, x) * norms
    wanted = np.where(pre >= np.sort(pre, axis=1)[:, -2:-1], np.maximum(pre, 0), 0)
    np.testing.assert_allclose(encoded(load_saelens(folder), x), wanted, atol=1e-5)


def test_the_format_before_six(folder, written):
    written("topk")
    gone = dict.fromkeys(("architecture", "k", "metadata"), "absent") | {"normalize_activations": False}
    rewrite(folder, gone | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}})
    found = load_saelens(folder)
    assert found.config.kind == "topk" and found.k == 3


def test_bfloat16_weights_are_read(folder, written):
    params = written()[1]
    halves = {theirs: params[ours].astype(jnp.bfloat16) for theirs, ours in NAMES.items()}
    save_jax_file(halves, folder / "sae_weights.safetensors")
    np.testing.assert_array_equal(load_saelens(folder).params["encoder"], halves["W_enc"].astype(jnp.float32))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"architecture": "jumprelu_transcoder"}, "jumprelu_transcoder.*known: standard, topk, jumprelu, gated"),
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
def test_what_cannot_be_read_is_named(change, message, folder, written):
    written()
    rewrite(folder, change)
    with pytest.raises(InvalidConfig, match=message):
        load_saelens(folder)


DAMAGE = {
    "cfg.json is missing": lambda config, weights: config.unlink(),
    "JSON": lambda config, weights: config.write_text("{"),
    "whole safetensors file": lambda config, weights: weights.write_bytes(weights.read_bytes()[:-10]),
    "b_dec = 'not finite'": lambda config, weights: save_file(
        load_file(weights) | {"b_dec": np.full(6, np.nan, np.float32)}, weights
    ),
    "W_skip": lambda config, weights: save_file(load_file(weights) | {"W_skip": np.zeros((6, 6))}, weights),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_files_are_named(message, folder, written):
    written()
    DAMAGE[message](folder / "cfg.json", folder / "sae_weights.safetensors")
    with pytest.raises(InvalidConfig, match=message):
        load_saelens(folder)


def test_nothing_is_overwritten_and_nothing_is_left_half_written(folder, written, monkeypatch):
    (config, params, *_), other = written(), folder.with_name("b")
    for target, change, options, message in (
        (folder, {}, {}, "nothing is overwritten"),
        (other, {"decoder_bias": jnp.full(6, jnp.inf)}, {}, "not finite"),
        (other, {}, {"metadata": {"lexinv": 1}}, "metadata.lexinv"),
        (other, {}, {"scale": 0.0}, "scale = 0"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            save_saelens(target, config, params | change, **{"scale": 1.0} | options)

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        save_saelens(other, config, params, scale=1.0)
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_saelens_reads_ours(kind, folder, written):
    sae_lens, torch = pytest.importorskip("sae_lens"), pytest.importorskip("torch")
    config, params, threshold, k, x = written(kind, metadata={"hook_name": "blocks.0.hook_resid_post"})
    sae = sae_lens.SAE.load_from_disk(folder)
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
def test_ours_reads_saelens(architecture, centred, folder):
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
        sae.save_model(folder)
        x = torch.randn(50, 6)
        codes = sae.encode(x)
        reconstruction = sae.decode(codes)
    found = load_saelens(folder)
    ours = encoded(found, jnp.asarray(x.numpy()))
    np.testing.assert_allclose(ours, codes.numpy(), atol=1e-5)
    np.testing.assert_allclose(decode(found.params, ours), reconstruction.numpy(), atol=1e-5)
    assert 0 < (np.asarray(ours) > 0).mean() < 1


@pytest.mark.parity
def test_ours_reads_a_trained_batchtopk_of_saelens(folder):
    """Which SAELens writes for inference as JumpReLU."""
    sae_lens, torch = pytest.importorskip("sae_lens"), pytest.importorskip("torch")
    sae = sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(d_in=6, d_sae=9, k=2.0))
    sae.topk_threshold = torch.tensor(0.07, dtype=sae.topk_threshold.dtype)
    sae.save_inference_model(folder)
    found = load_saelens(folder)
    assert found.config.kind == "jumprelu"
    np.testing.assert_allclose(found.params["threshold"], 0.07, rtol=1e-6)
