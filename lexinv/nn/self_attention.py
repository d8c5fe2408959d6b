"""Self-attention with the choices of a `lexinv.nn.transformer.TransformerConfig`, and the linear maps and norms of all its parts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array

from lexinv.nn.attention import attention, attention_weights
from lexinv.nn.linear import layer_norm, linear, rms_norm
from lexinv.nn.mixing import alternating_logits, causal_convolution, identity_taps, shift
from lexinv.nn.pattention import attend_parameters
from lexinv.nn.positions import rotate
from lexinv.nn.slots import Past
from lexinv.validation import require

Change = Callable[[str, Array], Array]
"""What a layer's activations go through: the name of the site (see `lexinv.nn.transformer.Block`) and the activations there, to
activations in their place."""


def dense(module: Any, name: str, x: Array, n: int, m: int, scale: float = 1.0) -> Array:
    """`x @ kernel`, and `+ bias` where the configuration has biases; or attention to parameters in its place."""
    if module.config.parameter_pairs:
        return attend_parameters(module, name, x, m)
    out = linear(x, module.param(name, nn.initializers.normal(scale * n**-0.5), (n, m)).astype(x.dtype))
    if not (module.config.bias or (module.config.attention_bias and name in ("query", "key", "value"))):
        return out
    return out + module.param(f"{name}_bias", nn.initializers.zeros, (m,)).astype(x.dtype)[None, None]


def norm(module: Any, name: str, dtype: Any, width: int) -> Callable[[Array], Array]:
    config = module.config
    gain = module.param(name, nn.initializers.ones, (width,)).astype(dtype)
    if config.norm == "rms":
        return lambda x: rms_norm(x, gain, config.norm_epsilon)
    offset = module.param(f"{name}_bias", nn.initializers.zeros, (width,)).astype(dtype)
    return lambda x: layer_norm(x, gain, offset, config.norm_epsilon)


class Attention(nn.Module):
    """Multi-head self-attention on `x[batch, time, width]`; returns (output, intermediates), after a `past` its {"slots"}."""

    config: Any
    """A `lexinv.nn.transformer.TransformerConfig`."""

    @nn.compact
    def __call__(
        self,
        x: Array,
        bias: Array | None,
        mask: Array | None,
        sees_all: Array | None,
        capture: bool,
        change: Change,
        past: Past | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        config, dtype = self.config, x.dtype
        told = (sees_all is None) == (not config.global_layers)
        require(told, "model.global_layers", config.global_layers, "none, where layers are run one by one")

        def of_layer(plain: Callable[[], Any], windowed: Callable[[], Any]) -> Any:
            return plain() if sees_all is None else jax.lax.cond(sees_all, plain, windowed)

        dim, width = config.head_dim, config.width
        inner, outer = config.heads * dim, config.keys_and_values * dim
        q = dense(self, "query", x, width, inner)
        k, v = (dense(self, name, x, width, outer) for name in ("key", "value"))
        if config.mixing == "convolution":
            for_queries, for_keys = (
                self.param(f"{name}_convolution", identity_taps, (config.convolution_width, size)).astype(dtype)
                for name, size in (("query", inner), ("key", outer))
            )
            q, k = causal_convolution(q, for_queries), causal_convolution(k, for_keys)
        q, k, v = (z.reshape(*x.shape[:-1], -1, dim) for z in (q, k, v))
        if config.mixing == "smear":
            share = jax.nn.sigmoid(self.param("smear", alternating_logits, (config.keys_and_values,))).astype(dtype)
            share = share[None, None, :, None]
            before, past = (shift(k, 1), None) if past is None else past.read_before(k)
            k = (1 - share) * k + share * before
        if config.head_norm:
            q, k = (norm(self, f"{name}_norm", dtype, dim)(z) for name, z in (("query", q), ("key", k)))
        if config.positions == "rope":
            unturned, share = (q, k), config.rotary_dim
            at, most = (None, None) if past is None else (past.positions, past.size)
            q, k = of_layer(
                lambda: [rotate(z, config.rotary_base, share, at, config.rotary_divisors, most) for z in unturned],
                lambda: [rotate(z, config.window_rotary_base, share, at, (), most) for z in unturned],
            )
        q, k = change("queries", q), change("keys", k)
        kind = config.attention_kind, config.sharpness

        def within(window: int) -> Callable[[], Array]:
            return lambda: attention(q, k, v, bias, config.causal, config.attention, window, mask, *kind)

        reach = 0 if config.global_layers else config.window
        kept = {}
        if past is None:
            mixed = of_layer(within(reach), within(config.window))
        else:
            mixed, kept["slots"] = past.attend(q, k, v, *kind)
        out = dense(self, "output", mixed.reshape(*x.shape[:-1], inner), inner, width)
        if not capture:
            return out, kept
        weights = [
            partial(attention_weights, q, k, bias, config.causal, size, mask, *kind) for size in (reach, config.window)
        ]
        return out, {"attention_weights": of_layer(*weights)}
