"""Initial circuits: parameters set so that attention starts out matching what repeats in the context.

A small lexinvariant model cannot use any token's identity before it has found out how to compare random vectors, and stays at the
frequencies of the context's symbols until it does. These schemes hand it that comparison at step 0. Ours, but for the parts cited.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lexinv.nn.transformer import TransformerConfig

Params = dict[str, Any]


def apply_scheme(config: TransformerConfig, params: Params, key: Key[Array, ""]) -> Params:
    """The parameters of a `LanguageModel` with `config.initialization` applied; `normal` leaves them alone.

    mimetic: W_k = W_q, and W_v = Q, W_o = Q^T / 2 with Q orthogonal (Trockman and Kolter 2023), W_out = I: attention compares inputs and
        copies them to where the readout looks.
    suffix_match: W_k = W_q with the convolutions of `suffix_taps`, so that a head's score counts the symbols on which two suffixes agree;
        and a rotated copy, W_v = Q, W_o = 2 Q^T R, W_out = R^T with one orthogonal R for all layers: what attention copies arrives in a
        basis of its own, which the readout reads, apart from the current token's own vector. The MLPs write nothing at first and the
        logits are halved, so that the model starts as an in-context n-gram predictor with back-off.
    """
    if config.initialization == "normal":
        return params
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
        back, params = 2.0 * back @ rotation, params | {"readout": rotation.T, "logit_scale": jnp.float32(0.5)}
        taps = jnp.stack(suffix_taps(config.convolution_width, config.heads, config.head_dim))[:, None]
        shape = (2, config.depth, *taps.shape[2:])
        noise = 0.02 * config.convolution_width**-0.5 * jax.random.normal(noise_key, shape)
        attention["query_convolution"], attention["key_convolution"] = taps + noise
        layers["mlp_out"] = jnp.zeros_like(layers["mlp_out"])
    layers["attention"] = attention | {"key": jnp.array(attention["query"]), "value": copy, "output": back}
    return params | {"transformer": params["transformer"] | {"layers": layers}}


def suffix_taps(taps: int, heads: int, head_dim: int) -> tuple[Float[Array, "taps width"], Float[Array, "taps width"]]:
    """Convolutions for queries and keys that make attention a soft longest-suffix match.

    The channels of a head are cut into G groups; group g takes the query of token t-g and the key of token j-1-g. With W_k = W_q the score
    of (t, j) then sums, over g < G, the similarity of tokens t-g and j-1-g: attention goes to the token j that followed the suffix most
    like the present one. Even heads have G = taps - 1 (4 for the default width), odd heads half as many: back-off. Symbol g counts
    1.5 exp(-0.4 g): the nearer the heavier, as in a counter, whose suffixes may have no holes. Sharpness, decay and the scales of
    `apply_scheme` were chosen on Python source code at step 0, from a grid of 36, for a head of 64 channels.
    """
    query, key = jnp.zeros((taps, heads, head_dim)), jnp.zeros((taps, heads, head_dim))
    channel = jnp.arange(head_dim)
    for head in range(heads):
        groups = max(taps - 1 if head % 2 == 0 else (taps - 1) // 2, 1)
        group = channel * groups // head_dim
        query = query.at[group, head, channel].set(1.5 * jnp.exp(-0.4 * group.astype(jnp.float32)))
        key = key.at[group + 1, head, channel].set(1.0)
    return query.reshape(taps, -1), key.reshape(taps, -1)


def orthogonal(key: Key[Array, ""], width: int) -> Float[Array, "width width"]:
    """A random orthogonal matrix."""
    return jax.random.orthogonal(key, width)
