"""GGUF files: tensors dequantised to float32, and the configuration and the tokenizer that their fields hold."""

from pathlib import Path
from typing import Any

import numpy as np

from lexinv.nn.checkpoint_directories import Tensors
from lexinv.validation import InvalidConfig, choose, require

ARCHITECTURES = ("llama", "qwen2", "qwen3")

_SETTINGS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
}
"""By Hugging Face's names, those of the fields after the architecture."""

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    "gpt-2": None,
    "smollm": None,  # and digits alone
    "llama-bpe": rf"{_LETTERS}\p{{N}}{{1,3}}{_OTHERS}",
    "qwen2": rf"{_LETTERS}\p{{N}}{_OTHERS}",
}
"""By `tokenizer.ggml.pre`: the regular expression of the words that merges stay inside of; None for GPT-2's."""

_CONTROL, _USER_DEFINED = 3, 4


def gguf_file(path: Path) -> Path | None:
    """`path` if it is a GGUF file, or the only one in it where it is a directory without config.json; None for other directories."""
    if path.suffix == ".gguf":
        return path
    files = [] if (path / "config.json").exists() else sorted(path.glob("*.gguf"))
    require(len(files) <= 1, "directory", str(path), f"config.json or one *.gguf file; it has {len(files)} of these")
    return files[0] if files else None


def read_gguf(file: Path) -> tuple[dict[str, Any], Tensors]:
    """(fields, tensors in float32) of a file. Its quantised blocks are what they stand for, rounded as the file has them.

    Raises `InvalidConfig` for a damaged file, without the package `gguf`, and for a quantisation that it does not read.
    """
    try:
        import gguf
    except ImportError:
        raise InvalidConfig("file", str(file), "read with the package gguf: pip install gguf") from None
    try:
        reader = gguf.GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the library raises whatever a damaged file leads it into
        raise InvalidConfig("file", str(file), f"a whole GGUF file ({error})") from None
    tensors: Tensors = {}
    for tensor in reader.tensors:
        kind = f"tensor {tensor.name}"
        require(tensor.name not in tensors, kind, tensor.name, "once in the file")
        try:
            tensors[tensor.name] = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError:
            allowed = "F32, F16, BF16 or a quantisation that the package gguf reads"
            raise InvalidConfig(kind, tensor.tensor_type.name, allowed) from None
    return fields, tensors


def gguf_config(fields: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    """The fields as the config.json that Hugging Face would have, see `lexinv.nn.llama.llama`."""
    kind = choose("general.architecture", str(fields.get("general.architecture")), ARCHITECTURES)
    scaling = fields.get(f"{kind}.rope.scaling.type", "none")
    require(scaling == "none", f"{kind}.rope.scaling.type", scaling, "'none'")
    declared = {name: fields.get(f"{kind}.{stored}") for name, stored in _SETTINGS.items()}
    whole = declared["head_dim"] or (declared["hidden_size"] or 0) // (declared["num_attention_heads"] or 1)
    turned = fields.get(f"{kind}.rope.dimension_count", whole)
    require(turned == whole, f"{kind}.rope.dimension_count", turned, f"all {whole} channels of a head")
    return declared | {
        "model_type": kind,
        "vocab_size": len(tensors.get("token_embd.weight", ())),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
    }


def gguf_tokenizer(fields: dict[str, Any]) -> Any:
    """The byte-level BPE of the fields as a `tokenizers.Tokenizer`; None where the file has none.

    Raises `InvalidConfig` for another kind of tokenizer, and for words that are split in a way that is not known.
    """
    if "tokenizer.ggml.tokens" not in fields:
        return None
    choose("tokenizer.ggml.model", str(fields.get("tokenizer.ggml.model")), ["gpt2"])
    split = choose("tokenizer.ggml.pre", str(fields.get("tokenizer.ggml.pre")), _SPLITS)
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields.get("tokenizer.ggml.merges", [])]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    try:
        model = models.BPE(vocabulary, merges, ignore_merges=split == "llama-bpe")
    except Exception as error:  # the library raises nothing more special
        raise InvalidConfig(
            "tokenizer.ggml.merges", len(merges), f"merges of pieces of the vocabulary ({error})"
        ) from None
    tokenizer = Tokenizer(model)
    words = _SPLITS[split]
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split == "smollm" else []
    steps += [pre_tokenizers.Split(Regex(words), "isolated")] if words else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    kinds = fields.get("tokenizer.ggml.token_type", [])
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        marked = [piece for piece, found in zip(pieces, kinds, strict=False) if found == kind]
        tokenizer.add_tokens([AddedToken(piece, normalized=False, special=special) for piece in marked])
    return tokenizer
