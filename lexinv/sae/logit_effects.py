"""What features do to the next token: the direct effect of a direction on the logits of a language model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lexinv.nn.language_model import LanguageModel, Params
from lexinv.nn.lexicon import LexiconConfig, draw_lexicon, readout, row_keys
from lexinv.nn.sites import Site, make_activations
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import require


def logit_effects(
    config: TransformerConfig,
    lexicon: LexiconConfig,
    vocab: int,
    params: Params,
    tokens: Int[np.ndarray, " time"],
    directions: Float[np.ndarray, "features width"],
    positions: int = 64,
) -> Float[np.ndarray, "features vocab"]:
    """Change of each token's logit, against the mean over tokens, when a direction is added to the last residual stream.

    The direct effect alone, without what the layers between would do. To first order: the derivative through the final norm and the
    unembedding, averaged over the first `positions` positions of a window of `tokens`. Raises `InvalidConfig` for directions of another
    width than the model's.
    """
    require(
        directions.shape[1] == config.width,
        "directions",
        directions.shape,
        f"[features, {config.width}], the model's width",
    )
    model, last, key = LanguageModel(config), config.depth - 1, jax.random.key(0)
    table = draw_lexicon(lexicon, params.get("table"), row_keys(key, jnp.zeros(1, jnp.int32)), vocab, config.width)
    table = params.get("output_table", table)

    def head(x: Float[Array, " width"], model_params: Params) -> Float[Array, " width"]:
        """What the unembedding reads, where x is the last residual stream."""

        def stand_in(name: str, activations: Array) -> Array:
            return x[None, None].astype(activations.dtype) if name == "residual_out" else activations

        no_token, nothing = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, config.width))
        edit = (last, stand_in)
        read: Any = model.apply({"params": model_params}, no_token, nothing, edit=edit, method="features")
        return read[0][0, 0].astype(jnp.float32)

    final = make_activations(config, lexicon, vocab, Site(last, "residual_out"))
    batch = {"tokens": jnp.asarray(tokens[None], jnp.int32), "row": jnp.zeros(1, jnp.int32)}
    at = final(params, batch, key)[0][:positions]

    @jax.jit  # parameters are arguments: as constants of the program those of a published model would be half a gigabyte
    def effects_of(
        model_params: Params,
        table: Array,
        at: Float[Array, "positions width"],
        directions: Float[Array, "features width"],
    ) -> Array:
        zeros = jnp.zeros((config.width, config.width))
        total, _ = jax.lax.scan(lambda total, x: (total + jax.jacrev(head)(x, model_params), None), zeros, at)
        return readout((directions @ total.T / at.shape[0])[None], table)[0]

    effects = np.asarray(effects_of(params["model"], table, at, jnp.asarray(directions, jnp.float32)))
    return effects - effects.mean(axis=1, keepdims=True)
