"""A pre-norm Transformer, causal or bidirectional, with the positions and the query-key mixing that our experiments compare."""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lexinv.nn.attention import Implementation, attention, attention_weights
from lexinv.nn.linear import linear, rms_norm
from lexinv.nn.positions import relative_bias, rotate
from lexinv.validation import require

RELATIVE_BUCKETS = 32


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices of a Transformer.

    positions: rotary, learned absolute, T5 relative bias, or none.
    window: how many times attention sees, the present one among them; 0 for all before it. Every layer looks `window` - 1 further back.
    mixing: what queries and keys see of the tokens before them. `smear` mixes each key with the one before it (Olsson et al. 2022);
        `convolution` is a depthwise causal convolution on queries and keys (So et al. 2021).
    initialization: see `lexinv.nn.initialization`.
    output: how a language model turns its last vector h into logits, see `lexinv.nn.language_model.LanguageModel`.
    unroll: layers written out per iteration of the scan over layers; `depth` writes all of them out (faster on the CPU when shallow).
    remat: recompute each layer in the backward pass.
    """

    depth: int = 4
    width: int = 128
    heads: int = 4
    mlp_width: int = 512
    positions: Literal["rope", "learned", "relative", "none"] = "rope"
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

    def __post_init__(self):
        for field in ("depth", "width", "heads", "mlp_width", "max_length", "convolution_width", "unroll"):
            require(getattr(self, field) > 0, f"model.{field}", getattr(self, field), "a positive integer")
        require(self.width % self.heads == 0, "model.heads", self.heads, f"a divisor of model.width = {self.width}")
        even = self.positions != "rope" or (self.width // self.heads) % 2 == 0
        require(even, "model.heads", self.heads, "rotary positions need an even width per head")
        require(self.window >= 0, "model.window", self.window, "0 for all times before, or a positive number of times")
        require(self.causal or not self.window, "model.window", self.window, "0, unless model.causal")
        matched = self.initialization != "suffix_match" or self.mixing == "convolution"
        require(
            matched,
            "model.initialization",
            self.initialization,
            "suffix_match initialises model.mixing = 'convolution'",
        )
        free = self.output == "matrix" or self.initialization in ("normal", "gpt2")
        require(free, "model.output", self.output, f"'matrix', which {self.initialization} initialises")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


def _kernel(module: nn.Module, name: str, n: int, m: int, scale: float = 1.0) -> Array:
    return module.param(name, nn.initializers.normal(scale * n**-0.5), (n, m))


class Attention(nn.Module):
    """Multi-head self-attention on `x[batch, time, width]`; returns (output, intermediates)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array, bias: Array | None, capture: bool) -> tuple[Array, dict[str, Array]]:
        config, dtype = self.config, x.dtype
        heads = (*x.shape[:-1], config.heads, config.head_dim)
        width = config.width
        q, k, v = (linear(x, _kernel(self, name, width, width).astype(dtype)) for name in ("query", "key", "value"))
        if config.mixing == "convolution":
            shape = (config.convolution_width, width)
            q = causal_convolution(q, self.param("query_convolution", _identity_convolution, shape).astype(dtype))
            k = causal_convolution(k, self.param("key_convolution", _identity_convolution, shape).astype(dtype))
        q, k, v = (z.reshape(heads) for z in (q, k, v))
        if config.mixing == "smear":
            share = jax.nn.sigmoid(self.param("smear", _alternating, (config.heads,))).astype(dtype)[
                None, None, :, None
            ]
            k = (1 - share) * k + share * shift(k, 1)
        if config.positions == "rope":
            q, k = rotate(q), rotate(k)
        mixed = attention(q, k, v, bias, config.causal, config.attention, config.window)
        out = linear(mixed.reshape(x.shape), _kernel(self, "output", width, width).astype(dtype))
        if not capture:
            return out, {}
        weights = attention_weights(q, k, bias, config.causal, config.window)
        return out, {"attention_weights": weights, "attention_output": out}


class Block(nn.Module):
    """One pre-norm layer: `x + attention(norm(x))`, then `x + mlp(norm(x))`; returns (x, intermediates)."""

    config: TransformerConfig
    capture: bool

    @nn.compact
    def __call__(self, x: Array, bias: Array | None) -> tuple[Array, dict[str, Array]]:
        config, dtype = self.config, x.dtype
        gains = [
            self.param(f"{name}_norm", nn.initializers.ones, (config.width,)).astype(dtype)
            for name in ("attention", "mlp")
        ]
        attended, intermediates = Attention(config, name="attention")(rms_norm(x, gains[0]), bias, self.capture)
        middle = x + attended
        hidden = linear(
            rms_norm(middle, gains[1]), _kernel(self, "mlp_in", config.width, config.mlp_width).astype(dtype)
        )
        mlp_out = _kernel(self, "mlp_out", config.mlp_width, config.width, (2 * config.depth) ** -0.5)
        fed = linear(nn.gelu(hidden), mlp_out.astype(dtype))
        out = middle + fed
        if self.capture:
            intermediates |= {"residual_in": x, "residual_middle": middle, "residual_out": out, "mlp_output": fed}
        return out, intermediates


class Transformer(nn.Module):
    """The stack of layers and the final norm, on vectors.

    Parameters of the layers are stacked along a leading axis of length `depth`, whether or not the scan is unrolled.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time width"], capture: bool = False
    ) -> tuple[Float[Array, "batch time width"], dict[str, Any]]:
        """Returns (normalised final residual stream, intermediates), both in the compute dtype.

        With `capture`, intermediates holds for each layer (leading axis `depth`) `residual_in`, `residual_middle`, `residual_out`,
        `attention_weights`, `attention_output`, `mlp_output`; otherwise it is empty.
        """
        config = self.config
        time = x.shape[1]
        require(
            time <= config.max_length, "model.max_length", config.max_length, f"at least the input's {time} positions"
        )
        x = x.astype(config.dtype)
        bias = None
        if config.positions == "learned":
            table = self.param("positions", nn.initializers.normal(0.02), (config.max_length, config.width))
            x = x + table[None, :time].astype(x.dtype)
        elif config.positions == "relative":
            table = self.param("relative_bias", nn.initializers.zeros, (RELATIVE_BUCKETS, config.heads))
            bias = relative_bias(table, time, config.causal)
        layer = nn.remat(Block, prevent_cse=False) if config.remat else Block
        every_layer: Any = nn.broadcast  # Flax annotates in_axes too narrowly
        stack = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=every_layer,
            length=config.depth,
            unroll=min(config.unroll, config.depth),
        )
        x, intermediates = stack(config, capture, name="layers")(x, bias)
        gain = self.param("final_norm", nn.initializers.ones, (config.width,))
        return rms_norm(x, gain.astype(x.dtype)), intermediates


def shift(x: Float[Array, "batch time *rest"], steps: int) -> Float[Array, "batch time *rest"]:
    """`x` moved `steps` later in time, zeros before."""
    padding = [(0, 0)] * x.ndim
    padding[1] = (steps, 0)
    return jnp.pad(x, padding)[:, : x.shape[1]]


def causal_convolution(
    x: Float[Array, "batch time channels"], taps: Float[Array, "taps channels"]
) -> Float[Array, "batch time channels"]:
    """Depthwise causal convolution: `y_t = sum_s taps[s] * x_{t-s}`, channel by channel (So et al. 2021, section 4)."""
    return sum((taps[s][None, None] * shift(x, s) for s in range(1, taps.shape[0])), start=taps[0][None, None] * x)


def _identity_convolution(key: Array, shape: tuple[int, int]) -> Array:
    """The tap of the present is one, the others zero: the layer starts without the convolution's effect."""
    del key
    return jnp.zeros(shape).at[0].set(1.0)


def _alternating(key: Array, shape: tuple[int]) -> Array:
    """+2, -2, +2, ...: even heads start on the key before, odd heads on their own."""
    del key
    return jnp.where(jnp.arange(shape[0]) % 2 == 0, 2.0, -2.0)
