"""Autoencoders in the directory format of SAELens: `cfg.json`, `sae_weights.safetensors`, and `sparsity.safetensors` with densities.

As in SAELens 6.54; of its architectures standard, topk, gated and jumprelu. Nothing is unpickled.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lexinv.sae.inference import Threshold, check_inference, fold_norms, fold_scale, to_jumprelu
from lexinv.sae.methods import AutoencoderConfig, Params
from lexinv.validation import InvalidConfig, choose, require

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
COMMON = {"W_enc": "encoder", "W_dec": "decoder", "b_dec": "decoder_bias"}
TENSORS = {
    "standard": COMMON | {"b_enc": "encoder_bias"},
    "topk": COMMON | {"b_enc": "encoder_bias"},
    "jumprelu": COMMON | {"b_enc": "encoder_bias", "threshold": "threshold"},
    "gated": COMMON | {"b_gate": "encoder_bias", "b_mag": "magnitude_bias", "r_mag": "log_magnitude"},
}
"""Of each architecture: SAELens' names of its tensors, and ours."""
ARCHITECTURES = {"relu": "standard", "topk": "topk", "gated": "gated"}
"""Of our kinds; all others are written as jumprelu."""
FORMAT_VERSION = "6.0.0"
"""SAELens reads a directory without a version of at least 6 as the format before it, and drops the metadata."""
EPSILON = 1e-10
"""Added by SAELens to densities before the logarithm."""
OWN = "lexinv"
"""The key of the metadata under which our own config is kept, so that a round trip is exact."""


class Loaded(NamedTuple):
    """What a directory holds. `threshold` is that of `mutual`, `matryoshka` and `feature`, `k` that of `topk`: see `encode_alone`.

    densities: share of tokens with each feature. metadata: hook, model and the like, as SAELens keeps them.
    """

    config: AutoencoderConfig
    params: Params
    threshold: Float[Any, "..."] | None
    k: int | None
    densities: Float[np.ndarray, " features"] | None
    metadata: dict[str, Any]


def save_saelens(
    directory: Path,
    config: AutoencoderConfig,
    params: Params,
    threshold: Threshold | None = None,
    *,
    scale: float,
    k: int | None = None,
    densities: Float[np.ndarray, " features"] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a directory that `SAE.load_from_disk` of SAELens reads, all of it or nothing.

    relu becomes standard; topk, which needs `k`, gated and jumprelu are called the same; mutual, matryoshka and feature become jumprelu
    with their calibrated `threshold`. scale: what activations were multiplied by in training (`activation_streams.shuffled`), 1 if by
    nothing. It is folded into the weights, as the format has no place for it: what is loaded reads the activations of the model.
    metadata: JSON that SAELens shows as `sae.cfg.metadata`: model_name, hook_name, context_size, prepend_bos...
    Raises `InvalidConfig` for a directory that is not empty, and for thresholds, k, scales, shapes or numbers that do not fit.
    """
    check_inference(config, threshold, k)
    params = fold_scale(params, scale)
    present = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    require(not present, "directory", str(directory), "new or empty: nothing is overwritten")
    known = dict(metadata or {})
    for reserved in ("sae_lens_version", "sae_lens_training_version", OWN):
        require(reserved not in known, f"metadata.{reserved}", known.get(reserved), "left out: it is written here")
    architecture = ARCHITECTURES.get(config.kind, "jumprelu")
    written = to_jumprelu(config, params, threshold)[1] if architecture == "jumprelu" else params
    tensors = {theirs: np.asarray(written[ours], np.float32) for theirs, ours in TENSORS[architecture].items()}
    _check_tensors(tensors, architecture, config.width, config.features)
    own = asdict(config) | {"single_threshold": threshold is not None and jnp.ndim(threshold) == 0}
    described: dict[str, Any] = {
        "architecture": architecture,
        "d_in": config.width,
        "d_sae": config.features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if architecture == "topk":
        described |= {"k": k, "rescale_acts_by_decoder_norm": False}
    described["metadata"] = known | {"sae_lens_version": FORMAT_VERSION, "sae_lens_training_version": None, OWN: own}
    files = {CONFIG: json.dumps(described, indent=2, allow_nan=False).encode(), WEIGHTS: _serialized(tensors)}
    if densities is not None:
        require(densities.shape == (config.features,), "densities", densities.shape, f"({config.features},)")
        files[SPARSITY] = _serialized({"sparsity": np.log10(densities + EPSILON).astype(np.float32)})
    directory = directory.absolute()
    building = directory.with_name(f".{directory.name}.{os.getpid()}")
    building.mkdir(parents=True)
    try:
        for name, content in files.items():
            with open(building / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.replace(building, directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load_saelens(directory: Path, expected: Mapping[str, Any] | None = None) -> Loaded:
    """Read a directory that `save_saelens` or SAELens (`save_model`, `save_inference_model`) wrote, the format before 6.0 included.

    What has another form there is folded into the parameters: apply_b_dec_to_input = false into the biases, and topk's
    rescale_acts_by_decoder_norm into encoder and decoder; activations and reconstructions are those of SAELens. Weights of any float type
    become float32. `hook_z` only says that x is the outputs of the heads side by side, as they are expected here. Decoder rows of others
    keep their norms, although variants but relu train on with norm 1.
    expected: of the model that its activations are read from, the width as "d_in" and what the metadata has to say of it: model_name,
    hook_name, a tokenizer.
    Raises `InvalidConfig`: another width, model or site than expected; files or tensors that are missing, unreadable, of a wrong shape, too
    many or not finite; an architecture that is not known, with those that are; activations normalised in another way than "none".
    """
    described = _modern(_read_config(directory / CONFIG))
    architecture = choose("architecture", str(described.get("architecture")), TENSORS)
    width, features = _size(described, "d_in"), _size(described, "d_sae")
    known = (described.get("metadata") or {}) | {"d_in": width}
    for name, value in (expected or {}).items():
        require(known.get(name) == value, name, known.get(name), f"{value!r}, of the model that is read")
    normalised = described.get("normalize_activations", "none")
    require(normalised == "none", "normalize_activations", normalised, "'none': fold the scale into the weights first")
    reshaped = described.get("reshape_activations", "none")
    require(reshaped in ("none", "hook_z"), "reshape_activations", reshaped, "'none' or 'hook_z'")
    tensors = _read_tensors(directory / WEIGHTS)
    if architecture == "jumprelu" and "log_threshold" in tensors:  # as in checkpoints of earlier releases
        tensors["threshold"] = np.exp(tensors.pop("log_threshold"))
    for neutral in ("scaling_factor", "finetuning_scaling_factor"):
        if neutral in tensors and (tensors[neutral] == 1).all():
            del tensors[neutral]
    _check_tensors(tensors, architecture, width, features)
    params = {ours: jnp.asarray(tensors[theirs]) for theirs, ours in TENSORS[architecture].items()}
    if not described.get("apply_b_dec_to_input", True):
        params = _centred(params)
    if described.get("rescale_acts_by_decoder_norm", False):
        params = fold_norms(params)
    k = _size(described, "k") if architecture == "topk" else None
    require(k is None or k <= features, "k", k, f"at most the {features} features")
    metadata = dict(described.get("metadata") or {})
    config, threshold = _own_form(metadata.pop(OWN, None), architecture, params)
    if threshold is not None:
        del params["threshold"]
    sparsity, densities = directory / SPARSITY, None
    if sparsity.exists():
        logs = _read_tensors(sparsity).get("sparsity", np.zeros(()))
        require(logs.shape == (features,), f"{SPARSITY}: sparsity", logs.shape, f"({features},)")
        densities = np.maximum(10 ** logs.astype(np.float64) - EPSILON, 0.0)
    return Loaded(config, params, threshold, k, densities, metadata)


def _own_form(own: Any, architecture: str, params: Params) -> tuple[AutoencoderConfig, Threshold | None]:
    """The config and the threshold from our part of the metadata, if it fits the architecture; otherwise those of the plain variant."""
    features, width = params["decoder"].shape
    if own is None:
        kind: Any = next((kind for kind, name in ARCHITECTURES.items() if name == architecture), "jumprelu")
        norms = np.linalg.norm(params["decoder"], axis=1)
        free = kind == "relu" and not np.allclose(norms, 1.0, atol=1e-3)
        return AutoencoderConfig(width, features, kind, free_norms=free), None
    try:
        fields = {**own, "prefixes": tuple(own["prefixes"])}
        single = fields.pop("single_threshold")
        config = AutoencoderConfig(**fields)
    except (TypeError, KeyError) as error:
        raise InvalidConfig(f"metadata.{OWN}", own, "what `save_saelens` wrote, or nothing") from error
    sizes = (config.width, config.features) == (width, features)
    fits = sizes and ARCHITECTURES.get(config.kind, "jumprelu") == architecture
    require(fits, f"metadata.{OWN}", own, f"{architecture} with d_in = {width} and d_sae = {features}, or nothing")
    if config.method.needs != "threshold":
        return config, None
    thresholds = params["threshold"]
    return config, thresholds[0] if single and bool((thresholds == thresholds[0]).all()) else thresholds


def _modern(described: dict[str, Any]) -> dict[str, Any]:
    """The config in today's form: before 6.0 the architecture could be left out, and topk was an activation function of standard."""
    metadata = described.get("metadata")
    require(metadata is None or isinstance(metadata, dict), f"{CONFIG}: metadata", metadata, "an object")
    version = described.get("sae_lens_version") or (metadata or {}).get("sae_lens_version")
    major = str(version).split(".")[0]
    if major.isdecimal() and int(major) >= 6:
        return described
    activation = described.get("activation_fn", described.get("activation_fn_str", "relu"))
    require(activation in ("relu", "topk"), "activation_fn", activation, "'relu' or 'topk'")
    today = {"architecture": "standard", **described}
    if activation == "topk":
        today |= {"architecture": "topk", "k": (described.get("activation_fn_kwargs") or {}).get("k")}
    if today.get("normalize_activations") in (None, False):
        today["normalize_activations"] = "none"
    require(
        not today.get("finetuning_scaling_factor"),
        "finetuning_scaling_factor",
        today.get("finetuning_scaling_factor"),
        "false",
    )
    return today


def _centred(params: Params) -> Params:
    """Biases for an encoder that sees x - b_dec, where the given ones are for one that sees x."""
    with np.errstate(over="ignore"):
        shift = np.asarray(params["decoder_bias"], np.float64) @ np.asarray(params["encoder"], np.float64)
    moved = {"encoder_bias": np.asarray(params["encoder_bias"], np.float64) + shift}
    if "magnitude_bias" in params:
        ratio = np.exp(np.asarray(params["log_magnitude"], np.float64))
        moved["magnitude_bias"] = np.asarray(params["magnitude_bias"], np.float64) + ratio * shift
    return params | {name: jnp.asarray(value, jnp.float32) for name, value in moved.items()}


def _check_tensors(tensors: Mapping[str, np.ndarray], architecture: str, width: int, features: int) -> None:
    shapes = {"W_enc": (width, features), "W_dec": (features, width), "b_dec": (width,)}
    wanted = {name: shapes.get(name, (features,)) for name in TENSORS[architecture]}
    for name, shape in wanted.items():
        found = tensors[name].shape if name in tensors else "missing"
        require(found == shape, f"{WEIGHTS}: {name}", found, f"of shape {shape} for {architecture}")
        require(bool(np.isfinite(tensors[name]).all()), f"{WEIGHTS}: {name}", "not finite", "finite numbers")
    extra = sorted(set(tensors) - set(wanted))
    require(not extra, WEIGHTS, extra, f"the tensors of {architecture} alone: {', '.join(wanted)}")


def _read_config(path: Path) -> dict[str, Any]:
    require(
        path.is_file(), "directory", str(path.parent), f"a directory with {CONFIG} and {WEIGHTS}; {CONFIG} is missing"
    )
    try:
        described = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidConfig(str(path), str(error), "JSON") from error
    require(isinstance(described, dict), str(path), type(described).__name__, "an object")
    return described


def _size(described: Mapping[str, Any], field: str) -> int:
    value = described.get(field)
    require(type(value) is int and value >= 1, f"{CONFIG}: {field}", value, "a whole number of at least 1")
    return int(value)  # type: ignore[arg-type]


def _serialized(tensors: Mapping[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file, as float32; bfloat16 is read too, which safetensors' own reader for numpy leaves out."""
    from safetensors import SafetensorError, deserialize

    types = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
    require(path.is_file(), "directory", str(path.parent), f"a directory with {path.name}, which is missing")
    try:
        found = dict(deserialize(path.read_bytes()))
    except SafetensorError as error:
        raise InvalidConfig(str(path), str(error), "a whole safetensors file") from error
    for name, tensor in found.items():
        choose(f"{path.name}: type of {name}", tensor["dtype"], types)
    return {
        name: np.frombuffer(tensor["data"], types[tensor["dtype"]]).reshape(tensor["shape"]).astype(np.float32)
        for name, tensor in found.items()
    }
