"""The Llama form (Touvron et al. 2023) as checkpoints have it: Llama, Mistral, Qwen 2 and 3, under Hugging Face's or GGUF's names."""

from typing import Any

import numpy as np

from lexinv.nn.checkpoint_directories import (
    Params,
    Parts,
    Tensors,
    check_all_taken,
    expect,
    setting,
    stack,
    tables,
    take,
)
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import choose

KINDS = ("llama", "mistral", "qwen2", "qwen3")

NAMES = {
    "layer": "layers",
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp_gate": "mlp.gate_proj",
    "mlp_in": "mlp.up_proj",
    "mlp_out": "mlp.down_proj",
    "final_norm": "norm",
    "table": "embed_tokens",
    "output_table": "lm_head",
}
"""What Hugging Face calls our arrays, without the first `model.`."""

GGUF_NAMES = {
    "layer": "blk",
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "query_norm": "attn_q_norm",
    "key_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "mlp_gate": "ffn_gate",
    "mlp_in": "ffn_up",
    "mlp_out": "ffn_down",
    "final_norm": "output_norm",
    "table": "token_embd",
    "output_table": "output",
}


def llama(
    declared: dict[str, Any], tensors: Tensors, names: dict[str, str] = NAMES, interleaved: bool = False
) -> Parts:
    """`declared` is a config.json of Hugging Face. Linear layers are stored [out, in].

    interleaved: queries and keys are stored for rotary planes of neighbouring channels, as in GGUF files of `llama`; ours are halves.
    """
    kind = choose("config.json: model_type", str(declared.get("model_type")), KINDS)
    rope = declared.get("rope_parameters") or {}
    for name, allowed in (
        ("hidden_act", ("silu",)),
        ("rope_scaling", (None,)),
        ("attention_bias", (False, None)),
        ("mlp_bias", (False, None)),
        ("use_sliding_window", (False, None)),
    ):
        expect(declared, name, *allowed)
    expect(rope, "rope_type", "default")
    width, heads = setting(declared, int, "hidden_size"), setting(declared, int, "num_attention_heads")
    tied = setting(declared, bool, "tie_word_embeddings", default=False)
    config = TransformerConfig(
        depth=setting(declared, int, "num_hidden_layers"),
        width=width,
        heads=heads,
        head_width=setting(declared, int, "head_dim", default=width // max(heads, 1)),
        key_heads=setting(declared, int, "num_key_value_heads", default=heads),
        head_norm=kind == "qwen3",
        attention_bias=kind == "qwen2",
        mlp_width=setting(declared, int, "intermediate_size"),
        gate="silu",
        positions="rope",
        rotary_base=float(setting(declared | rope, (int, float), "rope_theta", default=10_000.0)),
        window=setting(declared, int, "sliding_window", default=0) if kind == "mistral" else 0,
        max_length=setting(declared, int, "max_position_embeddings"),
        output="tied" if tied else "untied",
        norm_epsilon=float(setting(declared, (int, float), "rms_norm_eps", default=1e-6)),
    )
    dim, inner, outer = config.head_dim, heads * config.head_dim, config.keys_and_values * config.head_dim

    def layer(index: int) -> Params:
        def of(name: str, *shape: int, part: str = "weight") -> np.ndarray:
            return take(tensors, f"{names['layer']}.{index}.{names[name]}.{part}", *shape)

        def halves(name: str, array: np.ndarray) -> np.ndarray:
            """Rows of one plane after those of the other, head by head."""
            if not interleaved or name not in ("query", "key"):
                return array
            return array.reshape(-1, dim // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)

        attention = {"output": of("output", width, inner).T}
        for name, rows in (("query", inner), ("key", outer), ("value", outer)):
            attention[name] = halves(name, of(name, rows, width)).T
            if config.attention_bias:
                attention[f"{name}_bias"] = halves(name, of(name, rows, part="bias"))
        if config.head_norm:
            attention |= {name: of(name, dim) for name in ("query_norm", "key_norm")}
        return {
            "attention": attention,
            "attention_norm": of("attention_norm", width),
            "mlp_norm": of("mlp_norm", width),
            "mlp_gate": of("mlp_gate", config.mlp_width, width).T,
            "mlp_in": of("mlp_in", config.mlp_width, width).T,
            "mlp_out": of("mlp_out", width, config.mlp_width).T,
        }

    layers = stack([layer(index) for index in range(config.depth)])
    transformer = {"layers": layers, "final_norm": take(tensors, f"{names['final_norm']}.weight", width)}
    shape = (setting(declared, int, "vocab_size"), width)
    table, output = tables(tensors, f"{names['table']}.weight", f"{names['output_table']}.weight", shape, tied)
    check_all_taken(tensors, (".rotary_emb.inv_freq",))
    return Parts(config, transformer, table, output)
