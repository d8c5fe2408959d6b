"""Initial parameters: small ones as in nanoGPT, and circuits with which attention starts out matching what repeats in the context.

A small lexinvariant model cannot use any token's identity before it has found out how to compare random vectors, and stays at the
frequencies of the context's symbols until it does. These schemes hand it that comparison at step 0. Ours, but for the parts cited.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lexinv.nn.transformer import TransformerConfig

Params = dict[str, Any]

GPT2_STD = 0.02


def apply_scheme(config: TransformerConfig, params: Params, key: Key[Array, ""]) -> Params:
    """The parameters of a `LanguageModel` with `config.initialization` applied; `normal` leaves them alone.

    gpt2: every matrix, table and position is N(0, 0.02^2), W_o and the second matrix of the MLP divided by sqrt(2 depth) besides, and
        logits are plain inner products, without 1/sqrt(width), as in nanoGPT and Hugging Face's GPT-2. (The code that OpenAI released has
        0.01 for positions and does not divide; the division is in the text of Radford et al. 2019.) The token tables' part is
        `table_scale`.
    mimetic: W_k = W_q, and W_v = Q, W_o = Q^T / 2 with Q orthogonal (Trockman and Kolter 2023), W_out = I: attention compares inputs and
        copies them to where the readout looks.
    suffix_match: W_k = W_q with the convolutions of `suffix_taps`, so that a head's score counts the symbols on which two suffixes agree;
        and a rotated copy, W_v = Q, W_o = 2 Q^T R, W_out = R^T with one orthogonal R for all layers: what attention copies arrives in a
        basis of its own, which the readout reads, apart from the current token's own vector. The MLPs write nothing at first and the
        logits are halved at width 128, so that the model starts as an in-context n-gram predictor with back-off. An inner product of
        equal vectors over sqrt(width) grows as sqrt(width): the logits are multiplied by sqrt(128 / width), whereby all widths start alike.
    """
    if config.initialization == "normal":
        return params
    if config.initialization == "gpt2":
        return _as_gpt2(config, params)
    value_key, rotation_key, noise_key = jax.random.split(key, 3)
    attention = dict(params["transformer"]["layers"]["attention"])
    # Not vmap: see `lexinv.training.population.create_population` on batched LAPACK calls.
    copy = jax.lax.map(lambda k: orthogonal(k, config.width), jax.random.split(value_key, config.depth))
    back = jnp.swapaxes(copy, 1, 2)
    layers = dict(params["transformer"]["layers"])
    if config.initialization == "mimetic":
        back, params = 0.5 * back, params | {"readout": jnp.eye(config.width)}
    else:
        rotation = orthogonal(rotation_key, config.width)
        back, params = 2.0 * back @ rotation, params | {"readout": rotation.T}
        params |= {"logit_scale": jnp.float32(0.5 * (128 / config.width) ** 0.5)}
        taps = jnp.stack(suffix_taps(config.convolution_width, config.heads, config.head_dim))[:, None]
        shape = (2, config.depth, *taps.shape[2:])
        noise = 0.02 * config.convolution_width**-0.5 * jax.random.normal(noise_key, shape)
        attention["query_convolution"], attention["key_convolution"] = taps + noise
        layers["mlp_out"] = jnp.zeros_like(layers["mlp_out"])
    layers["attention"] = attention | {"key": jnp.array(attention["query"]), "value": copy, "output": back}
    return params | {"transformer": params["transformer"] | {"layers": layers}}


def table_scale(config: TransformerConfig) -> float:
    """The standard deviation of the entries of token tables at the start."""
    return GPT2_STD if config.initialization == "gpt2" else 1.0


def _as_gpt2(config: TransformerConfig, params: Params) -> Params:
    """The draws of `normal`, whose matrices [n, m] are N(0, 1/n), rescaled; learned positions already are N(0, 0.02^2)."""

    def rescaled(path: tuple[Any, ...], leaf: Array) -> Array:
        name = path[-1].key
        if name == "bos":
            return GPT2_STD * leaf
        if name not in ("query", "key", "value", "output", "mlp_in", "mlp_gate", "mlp_out", "readout"):
            return leaf
        shrunk = (2 * config.depth) ** -0.5 if name == "output" else 1.0  # mlp_out is divided by it in every scheme
        return GPT2_STD * leaf.shape[-2] ** 0.5 * shrunk * leaf

    small = jax.tree_util.tree_map_with_path(rescaled, params)
    return small | {"logit_scale": jnp.float32(config.width**0.5)}


def suffix_taps(taps: int, heads: int, head_dim: int) -> tuple[Float[Array, "taps width"], Float[Array, "taps width"]]:
    """Convolutions for queries and keys that make attention a soft longest-suffix match.

    The channels of a head are cut into G groups; group g takes the query of token t-g and the key of token j-1-g. With W_k = W_q the score
    of (t, j) then sums, over g < G, the similarity of tokens t-g and j-1-g: attention goes to the token j that followed the suffix most
    like the present one. Even heads have G = taps - 1 (4 for the default width), odd heads half as many: back-off. Symbol g counts
    1.5 exp(-0.4 g): the nearer the heavier, as in a counter, whose suffixes may have no holes. Sharpness, decay and the scales of
    `apply_scheme` were chosen on Python source code at step 0, from a grid of 36, for a head of 64 channels and a width of 128; as
    attention divides by sqrt(head_dim) a sum over head_dim channels, queries are multiplied by sqrt(64 / head_dim) for all others.
    """
    query, key = jnp.zeros((taps, heads, head_dim)), jnp.zeros((taps, heads, head_dim))
    channel, sharpness = jnp.arange(head_dim), 1.5 * (64 / head_dim) ** 0.5
    for head in range(heads):
        groups = max(taps - 1 if head % 2 == 0 else (taps - 1) // 2, 1)
        group = channel * groups // head_dim
        query = query.at[group, head, channel].set(sharpness * jnp.exp(-0.4 * group.astype(jnp.float32)))
        key = key.at[group + 1, head, channel].set(1.0)
    return query.reshape(taps, -1), key.reshape(taps, -1)


def orthogonal(key: Key[Array, ""], width: int) -> Float[Array, "width width"]:
    """A random orthogonal matrix."""
    return jax.random.orthogonal(key, width)
