"""GPT-2 and GPT-NeoX (Pythia) as their checkpoints have them: the configuration, and the tensors under our names."""

from typing import Any

import numpy as np

from lexinv.nn.checkpoint_directories import (
    Params,
    Parts,
    Tensors,
    check_all_taken,
    expect,
    gelu,
    norm_params,
    setting,
    stack,
    tables,
    take,
)
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import require


def gpt2(declared: dict[str, Any], tensors: Tensors) -> Parts:
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
    table, output = tables(tensors, "wte.weight", "lm_head.weight", (vocab, width), tied)
    check_all_taken(tensors, (".attn.bias", ".attn.masked_bias"))
    return Parts(config, transformer, table, output)


def gpt_neox(declared: dict[str, Any], tensors: Tensors) -> Parts:
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
    table, output = tables(tensors, "embed_in.weight", "embed_out.weight", (vocab, width), tied)
    check_all_taken(tensors, (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"))
    return Parts(config, transformer, table, output)
