"""Files of dictionary_learning and of sparsify against what their autoencoders compute, written out in NumPy."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from lexinv.sae.autoencoders import decode
from lexinv.sae.inference import encode_alone
from lexinv.sae.other_formats import CLASSES, load_dictionary_learning, load_sparsify
from lexinv.validation import InvalidConfig

WIDTH, FEATURES, K = 6, 9, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, WIDTH)).astype(np.float32) + 0.3
W, V = (RNG.normal(size=shape).astype(np.float32) for shape in ((WIDTH, FEATURES), (FEATURES, WIDTH)))
B, R, M, T = (RNG.normal(size=FEATURES).astype(np.float32) for _ in range(4))
C = RNG.normal(size=WIDTH).astype(np.float32)
NORMS = np.linalg.norm(V, axis=1)


def relu(values):
    return np.maximum(values, 0)


def largest(values):
    return np.where(values >= np.sort(values, axis=1)[:, [-K]], values, 0)


LINEAR = {"encoder.weight": W.T, "decoder.weight": V.T}
MATRICES = {"W_enc": W, "b_enc": B, "W_dec": V, "b_dec": C}
GATE, PRE = (X - C) @ W + B, X @ W + B
WRITTEN = {
    "AutoEncoder": (LINEAR | {"encoder.bias": B, "bias": C}, relu(GATE), 1.0),
    "AutoEncoderNew": (LINEAR | {"encoder.bias": B, "decoder.bias": C}, relu(PRE), 1.0),
    "GatedAutoEncoder": (
        LINEAR | {"decoder_bias": C, "r_mag": R, "gate_bias": B, "mag_bias": M},
        (GATE > 0) * relu(np.exp(R) * ((X - C) @ W) + M) * NORMS,
        NORMS,
    ),
    "JumpReluAutoEncoder": (MATRICES | {"threshold": np.abs(T)}, relu(PRE * (np.abs(T) < PRE)) * NORMS, NORMS),
    "AutoEncoderTopK": (
        LINEAR | {"encoder.bias": B, "b_dec": C, "k": np.int64(K), "threshold": np.float32(0.1)},
        largest(relu(GATE)),
        1.0,
    ),
    "BatchTopKSAE": (
        LINEAR | {"encoder.bias": B, "b_dec": C, "k": np.int64(K), "threshold": np.float32(0.7)},
        relu(GATE) * (GATE > 0.7),
        1.0,
    ),
    "MatryoshkaBatchTopKSAE": (
        MATRICES | {"k": np.int64(K), "threshold": np.float32(0.7), "group_sizes": np.array([3, 6])},
        relu(GATE) * (GATE > 0.7),
        1.0,
    ),
}
"""By class: the tensors, the activations, and what the decoder divides them by."""


def write(folder, name, tensors):
    torch = pytest.importorskip("torch")
    torch.save({key: torch.tensor(np.asarray(value)) for key, value in tensors.items()}, folder / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": WIDTH, "dict_size": FEATURES, "k": K, "layer": 3, "lm_name": "a/b"}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))


@pytest.mark.parametrize("name", CLASSES)
def test_dictionary_learning(name, tmp_path):
    tensors, wanted, divisor = WRITTEN[name]
    write(tmp_path, name, tensors)
    found = load_dictionary_learning(tmp_path)
    codes = encode_alone(found.config, found.params, jnp.asarray(X), found.threshold, found.k)
    np.testing.assert_allclose(codes, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decode(found.params, codes), wanted / divisor @ V + C, rtol=1e-3, atol=1e-4)
    assert found.metadata["layer"] == 3 and 0 < (np.asarray(codes) > 0).mean() < 1


@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify(transcode, tmp_path):
    save_file({"encoder.weight": W.T.copy(), "encoder.bias": B, "W_dec": V, "b_dec": C}, tmp_path / "sae.safetensors")
    described = {"d_in": WIDTH, "num_latents": FEATURES, "k": K, "activation": "topk", "transcode": transcode}
    (tmp_path / "cfg.json").write_text(json.dumps(described))
    found = load_sparsify(tmp_path)
    codes = encode_alone(found.config, found.params, jnp.asarray(X), found.threshold, found.k)
    np.testing.assert_allclose(codes, largest(relu(PRE if transcode else GATE)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decode(found.params, codes), np.asarray(codes) @ V + C, rtol=1e-4, atol=1e-5)
    assert found.config.output == (WIDTH if transcode else 0) and found.metadata["hookpoint"] == tmp_path.name
    for change in ({"activation": "groupmax"}, {"skip_connection": True}, {"k": FEATURES + 1}, {"gram_lookup": True}):
        (tmp_path / "cfg.json").write_text(json.dumps(described | change))
        with pytest.raises(InvalidConfig, match=next(iter(change))):
            load_sparsify(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path):
    tensors = WRITTEN["AutoEncoder"][0]
    for name, changed, message in (
        ("IdentityDict", tensors, "dict_class.*IdentityDict.*AutoEncoderTopK"),
        ("AutoEncoder", tensors | {"W_skip": V}, "W_skip"),
        ("AutoEncoder", tensors | {"bias": C[:3]}, r"decoder_bias = \(3,\)"),
        ("JumpReluAutoEncoder", tensors, "threshold = 'missing'"),
        ("AutoEncoder", tensors | {"bias": C * np.nan}, "not finite"),
    ):
        write(tmp_path, name, changed)
        with pytest.raises(InvalidConfig, match=message):
            load_dictionary_learning(tmp_path)
