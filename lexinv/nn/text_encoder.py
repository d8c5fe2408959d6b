"""The text encoder BERT (Devlin et al. 2019) as sentence embeddings use it (Reimers and Gurevych 2019), from safetensors files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from lexinv.nn.checkpoint_directories import (
    check_all_taken,
    expect,
    gelu,
    norm_params,
    read_json,
    read_tensors,
    read_tokenizer,
    setting,
    stack,
    take,
)
from lexinv.nn.linear import layer_norm
from lexinv.nn.reduced import Reduction, run_layers
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.validation import choose, require

Params = dict[str, Any]


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A BERT encoder with its parameters {"words", "positions", "types", "norm", "norm_bias", "layers"}, layers stacked.

    tokenizer: a `tokenizers.Tokenizer`, or None where the directory has none.
    """

    config: TransformerConfig
    vocab: int
    params: Params
    tokenizer: Any

    def encode(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int32[np.ndarray, "batch time"], Bool[np.ndarray, "batch time"]]:
        """(tokens, mask) of texts with [CLS] and [SEP], cut at `length` tokens and padded to the longest; the mask is false for padding.

        Raises `InvalidConfig` without a tokenizer and for a length above the model's.
        """
        require(self.tokenizer is not None, "tokenizer.json", None, "a file in the model's directory")
        require(3 <= length <= self.config.max_length, "length", length, f"3 to {self.config.max_length}")
        require(len(texts) > 0, "texts", list(texts), "at least one text")
        ids = []
        for text in texts:
            found = self.tokenizer.encode(text).ids
            ids.append(found if len(found) <= length else [*found[: length - 1], found[-1]])
        tokens = np.zeros((len(ids), max(map(len, ids))), np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, found in enumerate(ids):
            tokens[row, : len(found)], mask[row, : len(found)] = found, True
        return tokens, mask


def embed_tokens(
    config: TransformerConfig, params: Params, tokens: Int[Array, "batch time"]
) -> Float[Array, "batch time width"]:
    """What the first layer reads: the normalised sum of the vectors of the word, its position and the first type of segment."""
    time = tokens.shape[1]
    require(time <= config.max_length, "model.max_length", config.max_length, f"at least the input's {time} positions")
    x = params["words"][tokens] + params["positions"][None, :time] + params["types"][None, :1]
    return layer_norm(x, params["norm"], params["norm_bias"], config.norm_epsilon).astype(config.dtype)


def hidden_states(
    config: TransformerConfig, params: Params, tokens: Int[Array, "batch time"], mask: Bool[Array, "batch time"]
) -> Float[Array, "levels batch time width"]:
    """The stream before the first layer and after each layer, depth + 1 levels. What the mask leaves out is attended to by nobody.

    A layer alone is `Block(config, False).apply({"params": layer}, x, None, mask)[0]`, with `layer` a slice of `params["layers"]`.
    """
    x = embed_tokens(config, params, tokens)

    def step(x: Array, layer: Params) -> tuple[Array, Array]:
        x = Block(config, False).apply({"params": layer}, x, None, mask)[0]
        return x, x

    levels = jax.lax.scan(step, x, params["layers"], unroll=min(config.unroll, config.depth))[1]
    return jnp.concatenate([x[None], levels])


def sentence_embeddings(
    config: TransformerConfig,
    params: Params,
    tokens: Int[Array, "batch time"],
    mask: Bool[Array, "batch time"],
    reductions: Sequence[Reduction | None] = (),
    proportional: bool = True,
) -> Float[Array, "batch width"]:
    """The mean of the last level over the mask, at length one; cosines are inner products of these.

    reductions, proportional: as in `lexinv.nn.reduced.run_layers`, padding having size 0. They act on LN(x + attention(x)), which is what
    BERT's MLP reads and what is added to its output. The mean is then by size, over what is left of [CLS] and [SEP] too. Reductions
    protect [CLS] if told to; [SEP] is a token like others to them, as nothing after the first layer knows its place.
    """
    if not reductions:
        return pool(hidden_states(config, params, tokens, mask)[-1], mask)
    x, size = embed_tokens(config, params, tokens), mask.astype(jnp.float32)
    hidden, size, _ = run_layers(config, params["layers"], x, size, reductions, proportional)
    return pool(hidden, size)


def pool(
    hidden: Float[Array, "batch time width"], size: Bool[Array, "batch time"] | Float[Array, "batch time"]
) -> Float[Array, "batch width"]:
    """The mean by size, or over a mask, divided by its norm, in float32. What has size 0 may be anything."""
    weight = size.astype(jnp.float32)[..., None]
    summed = jnp.sum(jnp.where(weight > 0, weight * hidden.astype(jnp.float32), 0.0), axis=1)  # the mean's direction
    return summed / jnp.maximum(jnp.linalg.norm(summed, axis=-1, keepdims=True), 1e-12)


def load_text_encoder(directory: Path) -> TextEncoder:
    """The BERT encoder in a directory with config.json and *.safetensors, such as MiniLM (the asset `minilm`), in float32.

    Its pooler and its heads are left out. Raises `InvalidConfig` as `lexinv.nn.pretrained.load_language_model`.
    """
    declared = read_json(directory / "config.json")
    choose("config.json: model_type", str(declared.get("model_type")), ["bert"])
    expect(declared, "position_embedding_type", "absolute")
    expect(declared, "is_decoder", False)
    width = setting(declared, int, "hidden_size")
    config = TransformerConfig(
        depth=setting(declared, int, "num_hidden_layers"),
        width=width,
        heads=setting(declared, int, "num_attention_heads"),
        mlp_width=setting(declared, int, "intermediate_size"),
        positions="none",  # the encoder adds them before its first norm
        max_length=setting(declared, int, "max_position_embeddings"),
        causal=False,
        attention="dot_product",
        norm="layer",
        norm_epsilon=float(setting(declared, (int, float), "layer_norm_eps", default=1e-12)),
        bias=True,
        residual="post",
        gelu=gelu(setting(declared, str, "hidden_act", default="gelu")),
    )
    vocab = setting(declared, int, "vocab_size")
    tensors = read_tensors(directory, "bert.")

    def norm(name: str, stored: str) -> dict[str, np.ndarray]:
        return norm_params(name, take(tensors, f"{stored}.weight", width), take(tensors, f"{stored}.bias", width))

    def linear(name: str, stored: str, n: int, m: int) -> dict[str, np.ndarray]:
        weight, bias = take(tensors, f"{stored}.weight", m, n).T, take(tensors, f"{stored}.bias", m)
        return {name: weight, f"{name}_bias": bias}

    def layer(index: int) -> Params:
        at = f"encoder.layer.{index}"
        attention = linear("output", f"{at}.attention.output.dense", width, width)
        for name in ("query", "key", "value"):
            attention |= linear(name, f"{at}.attention.self.{name}", width, width)
        return {
            "attention": attention,
            **norm("attention_norm", f"{at}.attention.output.LayerNorm"),
            **linear("mlp_in", f"{at}.intermediate.dense", width, config.mlp_width),
            **linear("mlp_out", f"{at}.output.dense", config.mlp_width, width),
            **norm("mlp_norm", f"{at}.output.LayerNorm"),
        }

    params: Params = {
        "words": take(tensors, "embeddings.word_embeddings.weight", vocab, width),
        "positions": take(tensors, "embeddings.position_embeddings.weight", config.max_length, width),
        "types": take(
            tensors, "embeddings.token_type_embeddings.weight", setting(declared, int, "type_vocab_size"), width
        ),
        **norm("norm", "embeddings.LayerNorm"),
        "layers": stack([layer(index) for index in range(config.depth)]),
    }
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(("pooler.", "cls."))}
    check_all_taken(rest, ("embeddings.position_ids", "embeddings.token_type_ids"))
    return TextEncoder(config, vocab, jax.tree.map(jnp.asarray, params), read_tokenizer(directory))
