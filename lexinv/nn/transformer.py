"""A Transformer, causal or bidirectional, with the positions and the query-key mixing that our experiments compare.

The layers of GPT-2, GPT-NeoX, Llama, Qwen, Gemma 3 and BERT are configurations of it, see `lexinv.nn.pretrained` and
`lexinv.nn.text_encoder`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lexinv.nn.attention import Implementation
from lexinv.nn.linear import RMS_EPSILON
from lexinv.nn.pattention import attend_parameters
from lexinv.nn.positions import linear_bias, relative_bias
from lexinv.nn.reweighting import Kind, by_rows
from lexinv.nn.self_attention import Attention, Change, dense, norm
from lexinv.nn.sharding import divide_rows
from lexinv.nn.slots import Past, run_after
from lexinv.validation import require

RELATIVE_BUCKETS = 32


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices of a Transformer.

    head_width: channels of a head; 0 for width / heads. key_heads: heads of keys and values, each read by heads / key_heads heads of
        queries (Ainslie et al. 2023); 0 for as many as of queries. head_norm: queries and keys are normalised head by head.
    attention_kind, sharpness: what scores are and how they become weights, see `lexinv.nn.reweighting.row_weights`.
    positions: rotary, learned absolute, T5 relative bias, ALiBi, or none. rotary_share: the part of each head that is rotated.
        rotary_base: one over the lowest frequency, as nearly as there are many planes. rotary_divisors: see `lexinv.nn.positions.rotate`.
    window: how many times attention sees, the present one among them; 0 for all before it. Every layer looks `window` - 1 further back.
    global_layers: the indices of those that see all times nevertheless; none for a window in every layer. The layers with a window then
        rotate by `window_rotary_base`, without divisors (Gemma Team 2025, section 2).
    mixing: what queries and keys see of the tokens before them. `smear` mixes each key with the one before it (Olsson et al. 2022);
        `convolution` is a depthwise causal convolution on queries and keys (So et al. 2021).
    initialization: see `lexinv.nn.initialization`.
    output: how a language model turns its last vector h into logits, see `lexinv.nn.language_model.LanguageModel`.
    norm: root-mean-square or layer normalisation (Ba et al. 2016), the second with an offset. bias: linear layers have one.
    attention_bias: of these, queries, keys and values alone have one. layer_scale: what attention and MLP add is multiplied by a learned
        vector (Touvron et al. 2021).
    residual: where a layer normalises. `pre`: the inputs of attention and MLP. `parallel`: the same, but both read the layer's input (Wang
        and Komatsuzaki 2021). `post`: the sums (Vaswani et al. 2017); there is no final norm then. `sandwich`: inputs and outputs of both.
    gelu: by its tanh approximation, or exact (Hendrycks and Gimpel 2016). gate: the hidden units of the MLP are products of a linear map
        and of SiLU or GELU of another one (Shazeer 2020), instead of GELU of one.
    parameter_pairs: attention's linear maps are attention to so many learned keys and values each, and the MLP is to four times as many, of
        `mlp_width` none (`lexinv.nn.pattention`); 0 for matrices. scale_pairs: the number whose square root scales their scores; 0 for
        `parameter_pairs`.
    unroll: layers written out per iteration of the scan over layers; `depth` writes all of them out (faster on the CPU when shallow).
    remat: recompute each layer in the backward pass.
    """

    depth: int = 4
    width: int = 128
    heads: int = 4
    mlp_width: int = 512
    positions: Literal["rope", "learned", "relative", "alibi", "none"] = "rope"
    max_length: int = 512
    causal: bool = True
    window: int = 0
    mixing: Literal["none", "smear", "convolution"] = "none"
    convolution_width: int = 5
    initialization: Literal["normal", "gpt2", "mimetic", "suffix_match"] = "normal"
    output: Literal["matrix", "tied", "untied"] = "matrix"
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Implementation = "auto"
    unroll: int = 1
    remat: bool = False
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = RMS_EPSILON
    bias: bool = False
    residual: Literal["pre", "parallel", "post", "sandwich"] = "pre"
    rotary_share: float = 1.0
    gelu: Literal["tanh", "exact"] = "tanh"
    head_width: int = 0
    key_heads: int = 0
    head_norm: bool = False
    rotary_base: float = 10_000.0
    rotary_divisors: tuple[float, ...] = ()
    window_rotary_base: float = 10_000.0
    global_layers: tuple[int, ...] = ()
    attention_bias: bool = False
    gate: Literal["none", "silu", "gelu"] = "none"
    layer_scale: bool = False
    parameter_pairs: int = 0
    scale_pairs: int = 0
    attention_kind: Kind = "softmax"
    sharpness: float = 0.0

    def __post_init__(self):
        for holds, field, allowed in self._checks():
            require(holds, f"model.{field}", getattr(self, field), allowed)

    def _checks(self) -> Iterator[tuple[bool, str, str]]:
        for field in ("depth", "width", "heads", "mlp_width", "max_length", "convolution_width", "unroll"):
            yield getattr(self, field) > 0, field, "a positive integer"
        divided = self.head_width > 0 or self.width % self.heads == 0
        yield divided, "heads", f"a divisor of model.width = {self.width}"
        yield self.head_width >= 0, "head_width", "0 for width / heads, or a positive integer"
        grouped = self.key_heads >= 0 and self.heads % self.keys_and_values == 0
        yield grouped, "key_heads", f"0, or a divisor of model.heads = {self.heads}"
        for field in ("rotary_base", "window_rotary_base"):
            yield getattr(self, field) > 0, field, "a positive number"
        turned = self.positions == "rope"
        yield not turned or self.head_dim % 2 == 0, "heads", "rotary positions need an even width per head"
        yield turned or self.rotary_share == 1.0, "rotary_share", "1, unless model.positions = 'rope'"
        paired = 0.0 < self.rotary_share <= 1.0 and self.rotary_dim > 0 and self.rotary_dim % 2 == 0
        yield paired or not turned, "rotary_share", f"a share of {self.head_dim} that is a positive even number"
        planes = self.rotary_dim // 2 if turned else 0
        divided = len(self.rotary_divisors) in (0, planes) and all(divisor > 0 for divisor in self.rotary_divisors)
        yield divided, "rotary_divisors", f"none, or {planes} positive numbers"
        for field in ("parameter_pairs", "scale_pairs"):
            yield getattr(self, field) >= 0, field, "0, or a positive integer"
        plain = not (self.bias or self.attention_bias) and self.gate == "none" and self.initialization == "normal"
        allowed = "0, unless there are neither biases nor a gate, and model.initialization = 'normal'"
        yield plain or not self.parameter_pairs, "parameter_pairs", allowed
        yield self.parameter_pairs > 0 or not self.scale_pairs, "scale_pairs", "0, unless model.parameter_pairs"
        yield self.norm_epsilon > 0, "norm_epsilon", "a positive number"
        yield self.sharpness == 0 or self.sharpness >= 1, "sharpness", "0 for none, or a power of at least 1"
        softmax = not by_rows(self.attention_kind, self.sharpness)
        unbiased = self.positions not in ("relative", "alibi") and self.attention == "auto"
        allowed = "a softmax without sharpness, for positions by biases or attention other than 'auto'"
        yield softmax or unbiased, "attention_kind", allowed
        yield self.window >= 0, "window", "0 for all times before, or a positive number of times"
        yield self.causal or not self.window, "window", "0, unless model.causal"
        among = set(self.global_layers) <= set(range(self.depth)) and (self.window > 0 or not self.global_layers)
        yield among, "global_layers", f"none, or with model.window some of 0 to {self.depth - 1}"
        matched = self.initialization != "suffix_match" or self.mixing == "convolution"
        yield matched, "initialization", "suffix_match initialises model.mixing = 'convolution'"
        fields = ("norm", "bias", "residual", "rotary_share", "head_width", "key_heads", "head_norm", "attention_bias")
        fields = (*fields, "gate", "layer_scale")
        changed = [name for name in fields if getattr(self, name) != getattr(type(self), name)]
        free, named = self.initialization in ("normal", "gpt2"), " and ".join(changed)
        allowed = f"'normal' or 'gpt2' unless model.{named} have their defaults"
        yield free or not changed, "initialization", allowed
        yield free or self.output == "matrix", "output", f"'matrix', which {self.initialization} initialises"

    @property
    def head_dim(self) -> int:
        return self.head_width or self.width // self.heads

    @property
    def keys_and_values(self) -> int:
        """How many heads of them there are."""
        return self.key_heads or self.heads

    @property
    def rotary_dim(self) -> int:
        """How many channels of each head are rotated."""
        return int(self.head_dim * self.rotary_share)


class Block(nn.Module):
    """One layer, by default `x + attention(norm(x))`, then `x + mlp(norm(x))`; returns (x, intermediates).

    `change(site, activations)` may replace what flows through the sites `residual_in`, `queries` and `keys` [batch, time, heads, dim],
    `attention_output`, `residual_middle`, `mlp_output`, `residual_out`; at `residual_middle` also by fewer tokens, unless the residual is
    parallel. The intermediates are those after it. sees_all: whether the layer is one of `config.global_layers`, where there are any.
    past: what attention sees before x, and writes x into.
    """

    config: TransformerConfig
    capture: bool

    @nn.compact
    def __call__(
        self,
        x: Array,
        bias: Array | None,
        mask: Array | None = None,
        sees_all: Array | None = None,
        change: Change = lambda site, activations: activations,
        past: Past | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        config = self.config
        post, parallel, sandwich = (config.residual == name for name in ("post", "parallel", "sandwich"))
        attention_norm, mlp_norm = (norm(self, f"{name}_norm", x.dtype, config.width) for name in ("attention", "mlp"))
        x = change("residual_in", divide_rows(x))
        mixer = Attention(config, name="attention")
        normed = x if post else attention_norm(x)
        attended, intermediates = mixer(normed, bias, mask, sees_all, self.capture, change, past)
        if sandwich:
            attended = norm(self, "attention_out_norm", x.dtype, config.width)(attended)
        attended = change("attention_output", self._scaled("attention", attended))
        middle = change("residual_middle", attention_norm(x + attended) if post else x + attended)
        read = middle if post else mlp_norm(x if parallel else middle)
        fed = self._fed(read)
        if sandwich:
            fed = norm(self, "mlp_out_norm", x.dtype, config.width)(fed)
        fed = change("mlp_output", self._scaled("mlp", fed))
        out = change("residual_out", mlp_norm(middle + fed) if post else middle + fed)
        if self.capture:
            intermediates |= {"residual_in": x, "attention_output": attended, "residual_middle": middle}
            intermediates |= {"mlp_output": fed, "residual_out": out}
        return out, intermediates

    def _fed(self, read: Array) -> Array:
        config = self.config
        if config.parameter_pairs:
            return attend_parameters(self, "mlp", read, config.width, times=4)
        hidden = dense(self, "mlp_in", read, config.width, config.mlp_width)
        if config.gate == "none":
            hidden = nn.gelu(hidden, approximate=config.gelu == "tanh")
        else:
            gate = dense(self, "mlp_gate", read, config.width, config.mlp_width)
            open_share = nn.silu(gate) if config.gate == "silu" else nn.gelu(gate, approximate=config.gelu == "tanh")
            hidden = open_share * hidden
        return dense(self, "mlp_out", hidden, config.mlp_width, config.width, (2 * config.depth) ** -0.5)

    def _scaled(self, name: str, x: Array) -> Array:
        if not self.config.layer_scale:
            return x
        return x * self.param(f"{name}_scale", nn.initializers.ones, x.shape[-1:]).astype(x.dtype)[None, None]


class Transformer(nn.Module):
    """The stack of layers and the final norm, on vectors.

    Parameters of the layers are stacked along a leading axis of length `depth`, whether or not the scan is unrolled.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time width"],
        capture: bool = False,
        edit: tuple[int, Change] | None = None,
        mask: Bool[Array, "batch time"] | None = None,
        pasts: Sequence[Past] | None = None,
    ) -> tuple[Float[Array, "batch time width"], dict[str, Any]]:
        """Returns (normalised final residual stream, intermediates), both in the compute dtype.

        With `capture`, intermediates holds for each layer (leading axis `depth`) `residual_in`, `residual_middle`, `residual_out`,
        `attention_weights`, `attention_output`, `mlp_output`; otherwise it is empty.
        edit: (index of a layer, what its activations go through, see `Block`). Intermediates are then those of this layer alone, without
            the leading axis.
        mask: false where attention sees no key, for padding. Raises `InvalidConfig` for a mask where the model is causal.
        pasts: of each layer, for a model whose `layers` are a list (`lexinv.nn.cache`); intermediates are {"slots": those of each} then.
        """
        config = self.config
        time = x.shape[1]
        require(time <= config.max_length, "model.max_length", config.max_length, f"at least the {time} positions of x")
        require(mask is None or not config.causal, "model.causal", config.causal, "false where a mask is given")
        x = x.astype(config.dtype)
        bias = None
        if config.positions == "learned":
            table = self.param("positions", nn.initializers.normal(0.02), (config.max_length, config.width))
            x = x + (table[None, :time] if pasts is None else table[pasts[0].positions]).astype(x.dtype)
        elif config.positions == "relative":
            table = self.param("relative_bias", nn.initializers.zeros, (RELATIVE_BUCKETS, config.heads))
            bias = relative_bias(table, time, config.causal)
        elif config.positions == "alibi":
            bias = linear_bias(config.heads, time)
        intermediates: Any
        layers = self.get_variable("params", "layers")
        if pasts is not None:
            x, intermediates = run_after(pasts, Block(config, False, parent=None), layers, x, _sees_all(config))
        elif edit is not None:
            x, intermediates = _edited_layers(config, layers, capture, edit, x, bias, mask)
        else:
            x, intermediates = _every_layer(config, capture)(x, bias, mask, _sees_all(config))
        x = divide_rows(x)
        if config.residual != "post":
            x = norm(self, "final_norm", x.dtype, config.width)(x)
        return x, intermediates


def _every_layer(config: TransformerConfig, capture: bool) -> Any:
    """The submodule `layers`: one scan over stacked parameters."""
    layer = nn.remat(Block, prevent_cse=False) if config.remat else Block
    axes: Any = (nn.broadcast, nn.broadcast, 0)  # Flax annotates in_axes too narrowly
    stack = nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=axes,
        length=config.depth,
        unroll=min(config.unroll, config.depth),
    )
    return stack(config, capture, name="layers")


def _sees_all(config: TransformerConfig) -> Bool[Array, " depth"] | None:
    return jnp.array([i in config.global_layers for i in range(config.depth)]) if config.global_layers else None


def _edited_layers(config, layers, capture, edit, x, bias, mask):
    """The same with the stacked parameters `layers`, in three parts: the layers before the edited one, itself, those after it."""
    index, change = edit
    layers = (layers, _sees_all(config))

    def run(x: Array, start: int, stop: int) -> Array:
        def step(x: Array, layer: Any) -> tuple[Array, None]:
            return Block(config, False, parent=None).apply({"params": layer[0]}, x, bias, mask, layer[1])[0], None

        part = jax.tree.map(lambda leaf: leaf[start:stop], layers)
        return jax.lax.scan(step, x, part, unroll=min(config.unroll, stop - start))[0] if start < stop else x

    x = run(x, 0, index)
    layer, sees_all = jax.tree.map(lambda leaf: leaf[index], layers)
    x, intermediates = Block(config, capture, parent=None).apply({"params": layer}, x, bias, mask, sees_all, change)
    return run(x, index + 1, config.depth), intermediates
