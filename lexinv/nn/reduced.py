"""The layers of a Transformer, with fewer tokens from layer to layer: between attention and MLP a reduction may merge or prune.

What a reduction does is the business of `lexinv.merging`; here is where it acts, and what it gets to see.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lexinv.nn.attention import attention_weights, size_bias
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.validation import require


class Seen(NamedTuple):
    """What a reduction may look at in its layer. stream: after attention. size: how many tokens each stands for; 0 for padding.

    bias: what the layer's attention had added to its scores.
    """

    stream: Float[Array, "batch time width"]
    queries: Float[Array, "batch time heads dim"]
    keys: Float[Array, "batch time heads dim"]
    size: Float[Array, "batch time"]
    bias: Float[Array, "batch 1 1 time"] | None

    def attention_weights(self) -> Float[Array, "batch heads time time"]:
        """Those of the layer, computed again."""
        return attention_weights(self.queries, self.keys, self.bias, causal=False)


class Reduced(NamedTuple):
    """What is left of the stream, the sizes, and whatever should be handed on, such as the plan."""

    stream: Float[Array, "batch kept width"]
    size: Float[Array, "batch kept"]
    kept: Any


Reduction = Callable[[Seen], Reduced]


def unstack(layers: Any) -> list[Any]:
    """The parameters of each layer from stacked ones."""
    depth = jax.tree.leaves(layers)[0].shape[0]
    return [jax.tree.map(lambda leaf, index=index: leaf[index], layers) for index in range(depth)]


def run_layers(
    config: TransformerConfig,
    layers: Any,
    x: Float[Array, "batch time width"],
    size: Float[Array, "batch time"] | None = None,
    reductions: Sequence[Reduction | None] = (),
    proportional: bool = True,
) -> tuple[Float[Array, "batch kept width"], Float[Array, "batch kept"], list[Any]]:
    """(stream after the last layer, sizes, what each reduction handed on) of layers, each with its own shapes.

    layers: their parameters, stacked, or a list with those of each, of which no copy is made under jit (`unstack`).
    size: None for tokens that all stand for themselves. Until something is merged, attention then has no bias, which costs accelerators
    their fastest kernels.
    reductions: one for each layer, or None for a layer that keeps all its tokens; none at all by default. They act after attention, so that
    the MLP is the first to see fewer tokens (Bolya et al. 2023, section 3). proportional: attention sees a token of size s as s tokens;
    otherwise only size 0 makes a difference. Raises `InvalidConfig` for a causal or parallel model, for one with
    positions or mixing of its own, another number of reductions, and one that leaves no token.
    """
    require(not config.causal, "model.causal", config.causal, "False: merged tokens have no order")
    require(
        config.residual != "parallel", "model.residual", config.residual, "another: there is no stream after attention"
    )
    for field in ("positions", "mixing"):
        allowed = "'none': tokens have no neighbours any more; positions are added before the first layer"
        require(getattr(config, field) == "none", f"model.{field}", getattr(config, field), allowed)
    require(config.attention != "chunked", "model.attention", config.attention, "another")
    require(
        len(reductions) in (0, config.depth), "reductions", len(reductions), f"0, or one for each of {config.depth}"
    )
    handed_on = []
    for index in range(config.depth):
        layer = (
            layers[index] if isinstance(layers, list) else jax.tree.map(lambda leaf, index=index: leaf[index], layers)
        )
        reduction = reductions[index] if reductions else None
        bias = None
        if size is not None:
            bias = size_bias(size if proportional else (size > 0).astype(jnp.float32))[:, None, None]
        before = jnp.ones(x.shape[:2], jnp.float32) if size is None else size
        seen: dict[str, Array] = {}

        def change(
            site: str, activations: Array, *, index=index, reduction=reduction, seen=seen, bias=bias, before=before
        ) -> Array:
            """Remembers queries and keys until the stream comes by."""
            seen[site] = activations
            if site != "residual_middle" or reduction is None:
                return activations
            found = reduction(Seen(activations, seen["queries"], seen["keys"], before, bias))
            require(found.stream.shape[1] >= 1, f"reductions[{index}]", found.stream.shape, "at least one token left")
            seen["size"] = found.size
            handed_on.append(found.kept)
            return found.stream

        x = Block(config, False).apply({"params": layer}, x, bias, None, change=change)[0]
        size = seen.get("size", size)
    return x, jnp.ones(x.shape[:2], jnp.float32) if size is None else size, handed_on
