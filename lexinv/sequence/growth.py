"""Language models that grow: more parameter tokens (TokenFormer), or wider layers (Net2Net), from where training has come to.

Wang et al. 2025 (arXiv 2410.23168), method card tokenformer; Chen et al. 2016 (arXiv 1511.05641). Functions give the parameters and the
configuration that goes with them; the optimiser begins anew.
"""

from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from lexinv.nn.language_model import Params
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.streams import stream
from lexinv.validation import require


def grown_config(
    config: TransformerConfig, pairs: int, scale: Literal["fixed", "pairs"] = "fixed"
) -> TransformerConfig:
    """With `pairs` keys and values in place of fewer. scale: of the scores, that of before, or the square root of their number now.

    Raises `InvalidConfig` for fewer pairs than there are, and for a model of matrices.
    """
    require(
        config.parameter_pairs > 0, "model.parameter_pairs", 0, "a positive number: a model of matrices has none to add"
    )
    require(pairs > config.parameter_pairs, "pairs", pairs, f"more than the {config.parameter_pairs} there are")
    before = config.scale_pairs or config.parameter_pairs
    return replace(config, parameter_pairs=pairs, scale_pairs=before if scale == "fixed" else 0)


def grow(
    key: Key[Array, ""],
    params: Params,
    config: TransformerConfig,
    pairs: int,
    keys: Literal["zero", "random"] = "zero",
) -> Params:
    """The parameters for `grown_config`: new pairs after the old ones, with keys of zero, or drawn as at the start; values are drawn.

    With keys of zero and the fixed scale the function is the same (the paper's growth; the released code's is `random` with the scale of
    the new number, and is not). Values must not be zero, too: no gradient would reach the pairs.
    """
    old = config.parameter_pairs
    grown_config(config, pairs)
    deviations = {"keys": 0.02 if keys == "random" else 0.0, "values": 2 / (config.depth * config.width**0.5)}

    def extended(path: tuple[Any, ...], leaf: Array) -> Array:
        name = str(path[-1].key)
        kind = name.rpartition("_")[2]
        if kind not in deviations:
            return leaf
        count = leaf.shape[-2] // old * (pairs - old)
        own = stream(key, name)
        new = deviations[kind] * jax.random.normal(own, (*leaf.shape[:-2], count, leaf.shape[-1]), leaf.dtype)
        return jnp.concatenate([leaf, new], axis=-2)

    return jax.tree_util.tree_map_with_path(extended, params)


def widened_config(config: TransformerConfig, times: int) -> TransformerConfig:
    """`times` as many heads of the same width, and hidden units of the MLP. Raises `InvalidConfig` unless these are matrices alone."""
    plain = config.parameter_pairs == 0 and config.key_heads == 0 and not config.bias and config.gate == "none"
    require(plain, "model", config, "matrices without biases or gates, and as many heads of keys as of queries")
    require(times > 1, "times", times, "2 or more")
    return replace(config, heads=times * config.heads, head_width=config.head_dim, mlp_width=times * config.mlp_width)


def widen(key: Key[Array, ""], params: Params, config: TransformerConfig, times: int, noise: float = 0.01) -> Params:
    """The parameters for `widened_config`: `times` copies of every head and hidden unit, of which each writes its share (Net2WiderNet).

    noise: of the copies' incoming weights, relative to their deviation, so that copies can come to differ. Without it the function is the
    same.
    """
    widened_config(config, times)

    def copied(path: tuple[Any, ...], leaf: Array) -> Array:
        name = str(path[-1].key)
        if name in ("query", "key", "value", "mlp_in"):
            own = stream(key, name)
            new = jnp.concatenate([leaf] * times, axis=-1)
            return new + noise * jnp.std(leaf) * jax.random.normal(own, new.shape, leaf.dtype)
        return jnp.concatenate([leaf / times] * times, axis=-2) if name in ("output", "mlp_out") else leaf

    return jax.tree_util.tree_map_with_path(copied, params)
