"""Pretrained language models, read from their files into our `LanguageModel`.

GPT-2, GPT-NeoX (Pythia), Llama, Mistral, Qwen 2 and 3, Gemma 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from lexinv.nn.checkpoint_directories import Params, Parts, Tensors, read_json, read_tensors, read_tokenizer, setting
from lexinv.nn.gguf_files import gguf_config, gguf_file, gguf_tokenizer, read_gguf
from lexinv.nn.gpt import gpt2, gpt_neox
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.llama import GGUF_NAMES, KINDS, llama
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig, choose, require


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A language model with its parameters: what `make_nll`, `make_logits`, `make_activations`, `make_spliced_nll` take.

    params: {"model", "table"} and, where the output is untied, {"output_table"}. The vector of BOS is that of the token with which the
    model's own training texts begin, so a sequence needs no such token of its own.
    tokenizer: a `tokenizers.Tokenizer`, or None where the directory has none.
    """

    config: TransformerConfig
    lexicon: LexiconConfig
    vocab: int
    params: Params
    tokenizer: Any

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """The ids of a text, without special tokens. Raises `InvalidConfig` without a tokenizer."""
        require(self.tokenizer is not None, "tokenizer.json", None, "a file in the model's directory")
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)


_FAMILIES: dict[str, tuple[str, Callable[[dict[str, Any], Tensors], Parts]]] = {
    "gpt2": ("transformer.", gpt2),
    "gpt_neox": ("gpt_neox.", gpt_neox),
    **dict.fromkeys(KINDS, ("model.", llama)),
}
"""By model_type: what the names of tensors may begin with, and how they are read."""


def load_language_model(path: Path) -> Pretrained:
    """The model in a directory with config.json and *.safetensors, or in a GGUF file or the only one of a directory, in float32.

    Raises `InvalidConfig`, before anything is compiled, for another architecture or a variant that we do not compute, for a tensor that is
    missing, unexpected, misshapen, not finite or of a quantisation that is not read, and for files that cannot be read.
    """
    try:
        file = gguf_file(path)
        if file is not None:
            fields, tensors = read_gguf(file)
            declared = gguf_config(fields, tensors)
            parts = llama(declared, tensors, GGUF_NAMES, interleaved=declared["model_type"] == "llama")
            return _pretrained(declared, parts, gguf_tokenizer(fields))
        declared = read_json(path / "config.json")
        kind = choose("config.json: model_type", str(declared.get("model_type")), _FAMILIES)
        prefix, read = _FAMILIES[kind]
        return _pretrained(declared, read(declared, read_tensors(path, prefix)), read_tokenizer(path))
    except InvalidConfig as error:
        raise InvalidConfig(error.field, error.value, f"{error.allowed} (in {path})") from None


def _pretrained(declared: dict[str, Any], parts: Parts, tokenizer: Any) -> Pretrained:
    config, transformer, table, output, read_scale = parts
    vocab = len(table)
    bos = setting(declared, int, "bos_token_id", "eos_token_id")
    require(0 <= bos < vocab, "config.json: bos_token_id", bos, f"0 to {vocab - 1}")
    # Our logits are divided by sqrt(width), theirs are plain inner products, with a tied table before it is scaled for reading.
    scale = config.width**0.5 / (read_scale if output is None else 1.0)
    table = table if read_scale == 1.0 else np.float32(read_scale) * table
    model = {"transformer": transformer, "bos": table[bos], "logit_scale": np.float32(scale)}
    params: Params = {"model": model, "table": table} | ({} if output is None else {"output_table": output})
    return Pretrained(config, LexiconConfig(), vocab, jax.tree.map(jnp.asarray, params), tokenizer)
