"""Autoencoders of `dictionary_learning` (`config.json`, `ae.pt`) and `sparsify` (`cfg.json`, `sae.safetensors`), read as data.

Nothing is unpickled: see `lexinv.nn.weight_files.read_pth`. The formats are those of dictionary_learning 0.1 and sparsify 1.3; as in
`interchange.load_saelens`, what has another form there is folded into the parameters.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lexinv.nn.weight_files import read_pth
from lexinv.sae.inference import fold_norms
from lexinv.sae.interchange import Loaded, centred, read_config, read_tensors, size_of
from lexinv.sae.methods import AutoencoderConfig, Params
from lexinv.validation import choose, require

NAMES = {
    **dict.fromkeys(("encoder.weight", "W_enc"), "encoder"),
    **dict.fromkeys(("encoder.bias", "b_enc", "gate_bias"), "encoder_bias"),
    **dict.fromkeys(("decoder.weight", "W_dec"), "decoder"),
    **dict.fromkeys(("bias", "b_dec", "decoder_bias", "decoder.bias"), "decoder_bias"),
    "mag_bias": "magnitude_bias",
    "r_mag": "log_magnitude",
    "threshold": "threshold",
}
"""Theirs and ours. Matrices of linear layers, `weight`, are [out, in]."""
CLASSES: dict[str, Any] = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "mutual",
    "MatryoshkaBatchTopKSAE": "mutual",
}
"""Our kind for each `dict_class`. A Matryoshka autoencoder that is trained is one of Mutual Choice: what is nested is its loss."""
UNCENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")
BY_NORMS = ("GatedAutoEncoder", "JumpReluAutoEncoder")
"""Whose activations are those of decoder rows of norm 1, although rows have other norms."""


def load_dictionary_learning(directory: Path) -> Loaded:
    """The autoencoder of a trainer's folder; metadata: what `config.json` says of its trainer.

    BatchTopK and Matryoshka encode by the threshold that training kept. Raises `InvalidConfig` for a class that is not known, with those
    that are, and for files and tensors that are missing, of a wrong shape, too many, not finite, or not those of `torch.save`.
    """
    trainer: Any = read_config(directory / "config.json").get("trainer")
    require(isinstance(trainer, dict), "config.json: trainer", trainer, "an object")
    name = choose("dict_class", str(trainer.get("dict_class")), CLASSES)
    kind = CLASSES[name]
    tensors = read_pth(directory / "ae.pt")
    for unused in ("k", "group_sizes", *(("threshold",) if kind == "topk" else ())):
        tensors.pop(unused, None)
    config = AutoencoderConfig(size_of(trainer, "activation_dim"), size_of(trainer, "dict_size"), kind)
    own = {"threshold"} if kind == "mutual" else set(config.method.own(config))
    params = _renamed(tensors, config, own, "ae.pt")
    threshold = params.pop("threshold") if kind == "mutual" else None
    if name in UNCENTRED:
        params = centred(params)
    if name in BY_NORMS:
        params = _by_norms(params)
    return Loaded(_freed(config, params), params, threshold, _k(trainer, config), None, dict(trainer))


def load_sparsify(directory: Path) -> Loaded:
    """The autoencoder or transcoder of a hook point's folder, TopK; metadata: `cfg.json`, and the folder's name as "hookpoint".

    Raises `InvalidConfig` for another activation, for skip connections and tables of n-grams, which are not here, and for files and
    tensors as `load_dictionary_learning`.
    """
    described = read_config(directory / "cfg.json")
    for setting, allowed in {
        "activation": "topk",
        "signed": False,
        "skip_connection": False,
        "embed_skip": False,
    }.items():
        found = described.get(setting, allowed)
        require(found == allowed, setting, found, repr(allowed))
    require(not described.get("gram_lookup"), "gram_lookup", described.get("gram_lookup"), "False")
    width = size_of(described, "d_in")
    by_factor = not described.get("num_latents")
    features = width * size_of(described, "expansion_factor") if by_factor else size_of(described, "num_latents")
    transcodes = bool(described.get("transcode"))
    config = AutoencoderConfig(width, features, "topk", output=width * transcodes)
    params = _renamed(read_tensors(directory / "sae.safetensors"), config, set(), "sae.safetensors")
    if transcodes:
        params["input_bias"] = jnp.zeros(width, jnp.float32)
    metadata = described | {"hookpoint": directory.name}
    return Loaded(config, params, None, _k(described, config), None, metadata)


def _renamed(tensors: Mapping[str, np.ndarray], config: AutoencoderConfig, own: set[str], file: str) -> Params:
    """In our names and orientation, all that there are to be and no others."""
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        ours = NAMES[choose(f"{file}: tensor", name, NAMES)]
        require(ours not in found, f"{file}: {name}", ours, "one tensor of each kind")
        found[ours] = tensor.T if name.endswith(".weight") else tensor
    shapes = {"encoder": (config.width, config.features), "decoder": (config.features, config.written)}
    shapes |= {"decoder_bias": (config.written,)} | ({"threshold": ()} if config.kind == "mutual" else {})
    wanted = {"encoder", "encoder_bias", "decoder", "decoder_bias"} | own
    for name in sorted(wanted | set(found)):
        shape = shapes.get(name, (config.features,)) if name in wanted else "none"
        given = found[name].shape if name in found else "missing"
        require(given == shape, f"{file}: {name}", given, f"{shape} for {config.kind}")
        require(bool(np.isfinite(found[name]).all()), f"{file}: {name}", "not finite", "finite numbers")
    return {name: jnp.asarray(tensor, jnp.float32) for name, tensor in found.items()}


def _by_norms(params: Params) -> Params:
    """`fold_norms` of a variant with parameters of its own in the units of its activations."""
    norms = jnp.maximum(jnp.linalg.norm(params["decoder"], axis=1), 1e-8)
    if "threshold" in params:
        return fold_norms(params) | {"threshold": params["threshold"] * norms}
    scaled = {
        "decoder": params["decoder"] / norms[:, None],
        "log_magnitude": params["log_magnitude"] + jnp.log(norms),
        "magnitude_bias": params["magnitude_bias"] * norms,
    }
    return params | scaled


def _freed(config: AutoencoderConfig, params: Params) -> AutoencoderConfig:
    norms = np.linalg.norm(params["decoder"], axis=1)
    return replace(config, free_norms=config.kind == "relu" and not np.allclose(norms, 1.0, atol=1e-3))


def _k(described: Mapping[str, Any], config: AutoencoderConfig) -> int | None:
    if config.method.needs != "k":
        return None
    k = size_of(described, "k")
    require(k <= config.features, "k", k, f"at most the {config.features} features")
    return k
