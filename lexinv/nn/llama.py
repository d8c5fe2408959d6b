"""The Llama form (Touvron et al. 2023) as checkpoints have it: Llama, Mistral, Qwen 2 and 3, Gemma 3.

From tensors under Hugging Face's names or, but for Gemma, GGUF's.
"""

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
from lexinv.validation import choose, require

KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")

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

GEMMA_NAMES = NAMES | {
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}

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
    gemma = kind == "gemma3_text"
    if gemma:
        names, declared = GEMMA_NAMES, {"head_dim": 256, "tie_word_embeddings": True, **declared}
    rope = (declared.get("rope_scaling") or {}) | (declared.get("rope_parameters") or {})
    within = rope.get("sliding_attention") or {"rope_theta": declared.get("rope_local_base_freq")}
    rope = rope.get("full_attention") or rope
    for name, allowed in (
        ("hidden_act", ("silu",)),
        ("hidden_activation", ("gelu_pytorch_tanh",)),
        ("final_logit_softcapping", (None,)),
        ("attn_logit_softcapping", (None,)),
        ("use_bidirectional_attention", (False, None)),
        ("attention_bias", (False, None)),
        ("mlp_bias", (False, None)),
        ("use_sliding_window", (False, None)),
    ):
        expect(declared, name, *allowed)
    expect(within, "rope_type", "default")
    width, heads = setting(declared, int, "hidden_size"), setting(declared, int, "num_attention_heads")
    tied = setting(declared, bool, "tie_word_embeddings", default=False)
    depth = setting(declared, int, "num_hidden_layers")
    head_width = setting(declared, int, "head_dim", default=width // max(heads, 1))
    base = float(setting(declared | rope, (int, float), "rope_theta", default=1e6 if gemma else 1e4))
    config = TransformerConfig(
        depth=depth,
        width=width,
        heads=heads,
        head_width=head_width,
        key_heads=setting(declared, int, "num_key_value_heads", default=heads),
        head_norm=gemma or kind == "qwen3",
        attention_bias=kind == "qwen2",
        mlp_width=setting(declared, int, "intermediate_size"),
        gate="gelu" if gemma else "silu",
        residual="sandwich" if gemma else "pre",
        positions="rope",
        rotary_base=base,
        rotary_divisors=rotary_divisors(rope, head_width // 2, base, tensors),
        window_rotary_base=float(setting(within, (int, float), "rope_theta", default=1e4)),
        window=setting(declared, int, "sliding_window", default=0) if gemma or kind == "mistral" else 0,
        global_layers=global_layers(declared, depth) if gemma else (),
        max_length=setting(declared, int, "max_position_embeddings"),
        output="tied" if tied else "untied",
        norm_epsilon=float(setting(declared, (int, float), "rms_norm_eps", default=1e-6)),
    )
    scale = setting(declared, (int, float), "query_pre_attn_scalar", default=256) if gemma else head_width
    require(scale > 0, "config.json: query_pre_attn_scalar", scale, "a positive number")
    above = np.float32(gemma)  # Gemma's gains are stored less 1
    dim, inner, outer = config.head_dim, heads * config.head_dim, config.keys_and_values * config.head_dim

    def layer(index: int) -> Params:
        def of(name: str, *shape: int, part: str = "weight") -> np.ndarray:
            return take(tensors, f"{names['layer']}.{index}.{names[name]}.{part}", *shape)

        def gain(name: str, size: int = width) -> np.ndarray:
            return of(name, size) + above

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
            # Scores are over the root of `scale`, ours of a head's width: the difference is a factor of the queries.
            queries = np.float32((dim / scale) ** 0.5)
            attention |= {"query_norm": queries * gain("query_norm", dim), "key_norm": gain("key_norm", dim)}
        norms = ("attention_norm", "mlp_norm", *(("attention_out_norm", "mlp_out_norm") if gemma else ()))
        return {
            "attention": attention,
            **{name: gain(name) for name in norms},
            "mlp_gate": of("mlp_gate", config.mlp_width, width).T,
            "mlp_in": of("mlp_in", config.mlp_width, width).T,
            "mlp_out": of("mlp_out", width, config.mlp_width).T,
        }

    layers = stack([layer(index) for index in range(config.depth)])
    final = take(tensors, f"{names['final_norm']}.weight", width) + above
    transformer = {"layers": layers, "final_norm": final}
    shape = (setting(declared, int, "vocab_size"), width)
    table, output = tables(tensors, f"{names['table']}.weight", f"{names['output_table']}.weight", shape, tied)
    check_all_taken(tensors, (".rotary_emb.inv_freq",))
    return Parts(config, transformer, table, output, width**0.5 if gemma else 1.0)


def rotary_divisors(rope: dict[str, Any], planes: int, base: float, tensors: Tensors) -> tuple[float, ...]:
    """What the frequency of each plane is divided by: one factor, or Llama 3's rule; GGUF files of that hold the numbers themselves.

    By the rule planes that turn at least `high_freq_factor` times in the original context are kept, those that turn at most
    `low_freq_factor` times get the whole factor, and between the two frequencies are interpolated (Grattafiori et al. 2024).
    """
    if "rope_freqs.weight" in tensors:
        return tuple(take(tensors, "rope_freqs.weight", planes).tolist())
    known = ("default", "linear", "llama3")
    kind = choose("config.json: rope_type", str(rope.get("rope_type", rope.get("type", "default"))), known)
    if kind == "default":
        return ()
    factor = setting(rope, (int, float), "factor")
    if kind == "linear":
        return (float(factor),) * planes
    low, high = (setting(rope, (int, float), f"{name}_freq_factor") for name in ("low", "high"))
    require(low < high, "config.json: low_freq_factor", low, f"below high_freq_factor = {high}")
    length = setting(rope, int, "original_max_position_embeddings")
    turns = length * base ** (-np.arange(planes) / planes) / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return tuple((1 / (kept + (1 - kept) / factor)).tolist())


def global_layers(declared: dict[str, Any], depth: int) -> tuple[int, ...]:
    """The layers of Gemma without a window: those that the configuration names, or by default every sixth."""
    every = setting(declared, int, "sliding_window_pattern", "_sliding_window_pattern", default=6)
    require(every >= 1, "config.json: sliding_window_pattern", every, "a positive integer")
    kinds = declared.get("layer_types") or [
        "sliding_attention" if (index + 1) % every else "full_attention" for index in range(depth)
    ]
    found = tuple(index for index, kind in enumerate(kinds) if kind == "full_attention")
    known = len(kinds) == depth and set(kinds) <= {"sliding_attention", "full_attention"} and len(found) > 0
    allowed = f"sliding_attention or full_attention for each of {depth} layers, the second at least once"
    require(known, "config.json: layer_types", kinds, allowed)
    return found
