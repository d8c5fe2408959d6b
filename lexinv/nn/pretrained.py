"""Pretrained language models, read from their safetensors files into our `LanguageModel`: GPT-2 and GPT-NeoX (Pythia)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from lexinv.nn.checkpoint_directories import (
    Tensors,
    check_all_taken,
    expect,
    read_json,
    read_tensors,
    read_tokenizer,
    setting,
    take,
)
from lexinv.nn.language_model import Params
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import choose, require


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


def load_language_model(directory: Path) -> Pretrained:
    """The GPT-2 or GPT-NeoX model in a directory with config.json and *.safetensors, in float32.

    Raises `InvalidConfig`, before anything is compiled, for another architecture or a variant that we do not compute, for a tensor that is
    missing, unexpected, misshapen or not finite, and for files that cannot be read.
    """
    declared = read_json(directory / "config.json")
    kind = choose("config.json: model_type", str(declared.get("model_type")), _LOADERS)
    return _LOADERS[kind](directory, declared)


def _load_gpt2(directory: Path, declared: dict[str, Any]) -> Pretrained:
    """Radford et al. 2019. Linear layers are stored [in, out]; query, key and value one after another."""
    expect(declared, "scale_attn_weights", True)
    expect(declared, "scale_attn_by_inverse_layer_idx", False)
    expect(declared, "add_cross_attention", False)
    width = setting(declared, int, "n_embd")
    tied = setting(declared, bool, "tie_word_embeddings", default=True)
    config = TransformerConfig(
        depth=setting(declared, int, "n_layer"),
        width=width,
        heads=setting(declared, int, "n_head"),
        mlp_width=setting(declared, int, "n_inner", default=4 * width),
        positions="learned",
        max_length=setting(declared, int, "n_positions"),
        output="tied" if tied else "untied",
        norm="layer",
        norm_epsilon=float(setting(declared, (int, float), "layer_norm_epsilon", default=1e-5)),
        bias=True,
        gelu=gelu(setting(declared, str, "activation_function", default="gelu_new")),
    )
    vocab = setting(declared, int, "vocab_size")
    tensors = read_tensors(directory, "transformer.")

    def layer(index: int) -> Params:
        def of(name: str, *shape: int) -> np.ndarray:
            return take(tensors, f"h.{index}.{name}", *shape)

        qkv, qkv_bias = of("attn.c_attn.weight", width, 3 * width), of("attn.c_attn.bias", 3 * width)
        attention = {"output": of("attn.c_proj.weight", width, width), "output_bias": of("attn.c_proj.bias", width)}
        for part, name in enumerate(("query", "key", "value")):
            span = slice(part * width, (part + 1) * width)
            attention |= {name: qkv[:, span], f"{name}_bias": qkv_bias[span]}
        return {
            "attention": attention,
            **norm_params("attention_norm", of("ln_1.weight", width), of("ln_1.bias", width)),
            **norm_params("mlp_norm", of("ln_2.weight", width), of("ln_2.bias", width)),
            "mlp_in": of("mlp.c_fc.weight", width, config.mlp_width),
            "mlp_in_bias": of("mlp.c_fc.bias", config.mlp_width),
            "mlp_out": of("mlp.c_proj.weight", config.mlp_width, width),
            "mlp_out_bias": of("mlp.c_proj.bias", width),
        }

    transformer = {
        "layers": stack([layer(index) for index in range(config.depth)]),
        "positions": take(tensors, "wpe.weight", config.max_length, width),
        **norm_params("final_norm", take(tensors, "ln_f.weight", width), take(tensors, "ln_f.bias", width)),
    }
    table, output = _tables(tensors, "wte.weight", "lm_head.weight", (vocab, width), tied)
    check_all_taken(tensors, (".attn.bias", ".attn.masked_bias"))
    return _pretrained(directory, declared, config, transformer, table, output)


def _load_gpt_neox(directory: Path, declared: dict[str, Any]) -> Pretrained:
    """Black et al. 2022. Linear layers are stored [out, in]; the rows of the fused matrix go by head, then by query, key, value."""
    rope = declared.get("rope_parameters") or {}
    expect(declared, "rope_scaling", None)
    expect(rope, "rope_type", "default")
    expect(rope, "rope_theta", 10_000, None)
    expect(declared, "rope_theta", 10_000, None)
    expect(declared, "rotary_emb_base", 10_000, None)
    expect(declared, "attention_bias", True)
    width, heads = setting(declared, int, "hidden_size"), setting(declared, int, "num_attention_heads")
    shares = {
        "rotary_pct": declared.get("rotary_pct"),
        "partial_rotary_factor": declared.get("partial_rotary_factor"),
        "rope_parameters.partial_rotary_factor": rope.get("partial_rotary_factor"),
    }
    said = {name: share for name, share in shares.items() if share is not None}
    require(len(set(said.values())) <= 1, "config.json", said, "one share of the channels under all its names")
    tied = setting(declared, bool, "tie_word_embeddings", default=False)
    config = TransformerConfig(
        depth=setting(declared, int, "num_hidden_layers"),
        width=width,
        heads=heads,
        mlp_width=setting(declared, int, "intermediate_size"),
        positions="rope",
        rotary_share=float(setting(shares, (int, float), *shares, default=0.25)),
        max_length=setting(declared, int, "max_position_embeddings"),
        output="tied" if tied else "untied",
        norm="layer",
        norm_epsilon=float(setting(declared, (int, float), "layer_norm_eps", default=1e-5)),
        bias=True,
        residual="parallel" if setting(declared, bool, "use_parallel_residual", default=True) else "pre",
        gelu=gelu(setting(declared, str, "hidden_act", default="gelu")),
    )
    vocab = setting(declared, int, "vocab_size")
    tensors = read_tensors(directory, "gpt_neox.")

    def layer(index: int) -> Params:
        def of(name: str, *shape: int) -> np.ndarray:
            return take(tensors, f"layers.{index}.{name}", *shape)

        weight = of("attention.query_key_value.weight", 3 * width, width)
        qkv = weight.reshape(heads, 3, config.head_dim, width).swapaxes(0, 1)
        biases = of("attention.query_key_value.bias", 3 * width).reshape(heads, 3, config.head_dim).swapaxes(0, 1)
        attention = {
            "output": of("attention.dense.weight", width, width).T,
            "output_bias": of("attention.dense.bias", width),
        }
        for part, name in enumerate(("query", "key", "value")):
            attention |= {name: qkv[part].reshape(width, width).T, f"{name}_bias": biases[part].reshape(width)}
        norms = {
            name: (of(f"{stored}.weight", width), of(f"{stored}.bias", width))
            for name, stored in (("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm"))
        }
        return {
            "attention": attention,
            **norm_params("attention_norm", *norms["attention_norm"]),
            **norm_params("mlp_norm", *norms["mlp_norm"]),
            "mlp_in": of("mlp.dense_h_to_4h.weight", config.mlp_width, width).T,
            "mlp_in_bias": of("mlp.dense_h_to_4h.bias", config.mlp_width),
            "mlp_out": of("mlp.dense_4h_to_h.weight", width, config.mlp_width).T,
            "mlp_out_bias": of("mlp.dense_4h_to_h.bias", width),
        }

    final = [take(tensors, f"final_layer_norm.{part}", width) for part in ("weight", "bias")]
    layers = stack([layer(index) for index in range(config.depth)])
    transformer = {"layers": layers, **norm_params("final_norm", *final)}
    table, output = _tables(tensors, "embed_in.weight", "embed_out.weight", (vocab, width), tied)
    check_all_taken(tensors, (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"))
    return _pretrained(directory, declared, config, transformer, table, output)


_LOADERS: dict[str, Callable[[Path, dict[str, Any]], Pretrained]] = {"gpt2": _load_gpt2, "gpt_neox": _load_gpt_neox}


def _tables(
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


def _pretrained(
    directory: Path,
    declared: dict[str, Any],
    config: TransformerConfig,
    transformer: Params,
    table: np.ndarray,
    output: np.ndarray | None,
) -> Pretrained:
    vocab = len(table)
    bos = setting(declared, int, "bos_token_id", "eos_token_id")
    require(0 <= bos < vocab, "config.json: bos_token_id", bos, f"0 to {vocab - 1}")
    # Our logits are divided by sqrt(width), theirs are plain inner products.
    model = {"transformer": transformer, "bos": table[bos], "logit_scale": np.float32(config.width**0.5)}
    params: Params = {"model": model, "table": table} | ({} if output is None else {"output_table": output})
    return Pretrained(config, LexiconConfig(), vocab, jax.tree.map(jnp.asarray, params), read_tokenizer(directory))
