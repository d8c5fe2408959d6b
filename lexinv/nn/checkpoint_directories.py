"""Model directories in Hugging Face's format: config.json, *.safetensors, tokenizer.json. Read as data: nothing is unpickled."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig, choose, require

INDEX = "model.safetensors.index.json"

Tensors = dict[str, np.ndarray]
Params = dict[str, Any]


class Parts(NamedTuple):
    """A language model as its file has it, under our names.

    output: its table where it is untied. read_scale: what the model multiplies the vector of a token by that it reads.
    """

    config: TransformerConfig
    transformer: Params
    table: np.ndarray
    output: np.ndarray | None
    read_scale: float = 1.0


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; `InvalidConfig` names the file if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig("file", str(file), f"a JSON file ({error})") from None
    require(isinstance(found, dict), "file", str(file), "a JSON object")
    return found


def setting(config: dict[str, Any], kind: type | tuple[type, ...], *names: str, default: Any = None) -> Any:
    """The first of the entries `names` of a config.json that is not null. Raises `InvalidConfig` if it is missing or not of `kind`."""
    value = next((config[name] for name in names if config.get(name) is not None), default)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    kinds = kind if isinstance(kind, tuple) else (kind,)
    require(fits, f"config.json: {names[0]}", value, f"a value of type {' or '.join(k.__name__ for k in kinds)}")
    return value


def expect(config: dict[str, Any], name: str, *allowed: Any) -> None:
    """Raise `InvalidConfig` if an entry of config.json is there and is none of `allowed`: the model would compute something else."""
    require(
        name not in config or config[name] in allowed, f"config.json: {name}", config.get(name), f"one of {allowed}"
    )


def read_tensors(directory: Path, prefix: str) -> Tensors:
    """All tensors of a directory by name, `prefix` taken off: of the files that the index lists, or of the only *.safetensors file.

    Floating-point tensors come as float32. Raises `InvalidConfig` where there is no such file, several without an index, an index that
    names something outside of the directory, or a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    tensors: Tensors = {}
    for file in _files(directory):
        try:
            with safe_open(file, framework="flax") as opened:
                for name in opened.keys():  # noqa: SIM118  # not a mapping
                    once = name.removeprefix(prefix) not in tensors
                    require(once, "tensor", name, f"once in the files of {directory}, with or without {prefix!r}")
                    tensor = np.asarray(opened.get_tensor(name))
                    tensors[name.removeprefix(prefix)] = (
                        tensor.astype(np.float32) if tensor.dtype.kind in "fV" else tensor
                    )
        except (OSError, SafetensorError) as error:
            raise InvalidConfig("file", str(file), f"a safetensors file ({error})") from None
    return tensors


def _files(directory: Path) -> list[Path]:
    if (directory / INDEX).exists():
        names = sorted({str(name) for name in setting(read_json(directory / INDEX), dict, "weight_map").values()})
        for name in names:
            inside = name.endswith(".safetensors") and name == Path(name).name and "\\" not in name
            require(inside, INDEX, name, "the name of a .safetensors file in the same directory")
            require((directory / name).is_file(), INDEX, name, f"a file in {directory}")
        return [directory / name for name in names]
    files = sorted(directory.glob("*.safetensors"))
    require(
        len(files) == 1, "directory", str(directory), f"one *.safetensors file or {INDEX}; it has {len(files)} files"
    )
    return files


def take(tensors: Tensors, name: str, *shape: int) -> Float[np.ndarray, "..."]:
    """Remove a tensor and return it. Raises `InvalidConfig` if it is missing, of another shape, of integers, or not finite."""
    found = tensors.pop(name, None)
    if found is None:
        near = ", ".join(sorted(tensors)[:5])
        raise InvalidConfig("tensor", name, f"missing from the checkpoint, which has still {near}...")
    require(found.shape == shape, f"tensor {name}", found.shape, f"shape {shape}, after config.json")
    require(found.dtype == np.float32, f"tensor {name}", str(found.dtype), "floating-point numbers, not quantised ones")
    require(bool(np.isfinite(found).all()), f"tensor {name}", "NaN or infinity", "finite numbers")
    return found


def check_all_taken(tensors: Tensors, ignored: tuple[str, ...]) -> None:
    """Raise `InvalidConfig` for a tensor that was not taken and whose name ends with none of `ignored`."""
    for name in tensors:
        require(name.endswith(ignored), "tensor", name, "a tensor of this architecture")


def read_tokenizer(directory: Path) -> Any:
    """The `tokenizers.Tokenizer` of tokenizer.json, without padding or truncation; None where there is no such file."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        return None
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        raise InvalidConfig("file", str(file), f"a tokenizer of the library tokenizers ({error})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tables(
    tensors: Tensors, table: str, head: str, shape: tuple[int, int], tied: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """The token embedding and, where the output is untied, its table. Of tied tensors a file may hold either, or both if they are alike.

    Raises `InvalidConfig` where they are unlike although the configuration ties them (by default, too): Hugging Face's loaders then drop
    the head or use it, after their version.
    """
    if tied and table not in tensors and head in tensors:
        return take(tensors, head, *shape), None
    found = take(tensors, table, *shape)
    if not tied:
        return found, take(tensors, head, *shape)
    if head in tensors:
        alike = np.array_equal(take(tensors, head, *shape), found)
        allowed = f"false: {head} in the file is unlike {table}; write which is meant into config.json"
        require(alike, "config.json: tie_word_embeddings", tied, allowed)
    return found, None


def gelu(name: str) -> Any:
    """Which GELU a Hugging Face activation is. Raises `InvalidConfig` for another function."""
    known = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh"}
    return known[choose("config.json: activation", name, known)]


def norm_params(name: str, gain: np.ndarray, offset: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters of a layer normalisation under our names."""
    return {name: gain, f"{name}_bias": offset}


def stack(layers: list[Params]) -> Params:
    """One tree per layer to one tree with a leading axis of layers."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
