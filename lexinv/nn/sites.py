"""Reading a language model's activations at one place, and splicing others in their stead."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lexinv.nn.language_model import Batch, LanguageModel, Params, make_nll, reading
from lexinv.nn.lexicon import LexiconConfig, embed
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import choose, require

Name = Literal["residual_in", "residual_middle", "residual_out", "attention_output", "mlp_output"]

Edit = Callable[[Float[Array, "batch time_read width"]], Float[Array, "batch time_read width"]]


@dataclass(frozen=True)
class Site:
    """A place in the residual stream of a Transformer, or on the way into it.

    name: the stream before the layer, between attention and MLP, after the layer; or what attention or the MLP adds to it.
    """

    layer: int
    name: Name

    def __post_init__(self):
        choose("site.name", self.name, get_args(Name))


def make_activations(
    config: TransformerConfig, lexicon: LexiconConfig, vocab: int, site: Site
) -> Callable[[Params, Batch, Key[Array, ""]], Float[Array, "batch time_read width"]]:
    """`activations(params, batch, key)` at the site, in float32.

    Entry t has read the tokens x_0 to x_t of batch {"tokens"[B, T], "row"[B]}, t = 0 to T - 2, as in
    `lexinv.nn.language_model.make_hidden_states`. When compiled, nothing after the site is computed.
    Raises `InvalidConfig` for a site that the model does not have.
    """
    _check(config, site)
    model = LanguageModel(config)

    def activations(params: Params, batch: Batch, key: Key[Array, ""]) -> Float[Array, "batch time_read width"]:
        inputs, drawn = reading(config, lexicon, vocab, params, batch, key)
        unchanged = (site.layer, lambda name, activations: activations)
        variables = {"params": params["model"]}
        read: Any = model.apply(variables, inputs, embed(drawn, inputs), True, unchanged, method="features")
        return read[1][site.name][:, 1:].astype(jnp.float32)

    return activations


def make_spliced_nll(
    config: TransformerConfig, lexicon: LexiconConfig, vocab: int, site: Site
) -> Callable[[Params, Batch, Key[Array, ""], Edit], Float[Array, "batch time"]]:
    """`nll(params, batch, key, edit)`: as `make_nll`, with `edit(activations)` in place of the activations at the site.

    `edit` gets what `make_activations` reads, float32[batch, time - 1, width], and returns the same shape. BOS's own activations, which
    no dictionary is trained on, are neither shown to it nor changed.
    Raises `InvalidConfig` for a site that the model does not have.
    """
    _check(config, site)
    plain = make_nll(config, lexicon, vocab)

    def nll(params: Params, batch: Batch, key: Key[Array, ""], edit: Edit) -> Float[Array, "batch time"]:
        def change(name: str, activations: Array) -> Array:
            if name != site.name:
                return activations
            edited = edit(activations[:, 1:].astype(jnp.float32)).astype(activations.dtype)
            return jnp.concatenate([activations[:, :1], edited], axis=1)

        return plain(params, batch, key, (site.layer, change))

    return nll


def _check(config: TransformerConfig, site: Site) -> None:
    require(0 <= site.layer < config.depth, "site.layer", site.layer, f"0 to {config.depth - 1}")
    middle = site.name != "residual_middle" or config.residual != "parallel"
    require(middle, "site.name", site.name, "another site: parallel layers have no stream between attention and MLP")
