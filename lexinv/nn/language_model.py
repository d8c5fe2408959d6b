"""A causal language model whose token table is an argument, and its losses."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lexinv.nn import initialization
from lexinv.nn.canonical import by_first_occurrence, new_type_nats, of_ranks, spread_over_types
from lexinv.nn.lexicon import (
    LexiconConfig,
    bank,
    blockwise_nll,
    draw_lexicon,
    embed,
    lexicon_rows,
    permutation,
    readout,
    require_frame,
    row_keys,
    token_nll,
)
from lexinv.nn.linear import linear
from lexinv.nn.self_attention import Change
from lexinv.nn.slots import Past
from lexinv.nn.transformer import Transformer, TransformerConfig
from lexinv.validation import require

BOS = -1
"""Token id of the beginning of a sequence: a learned vector that no lexicon touches, and no target."""

Params = dict[str, Any]
Batch = dict[str, Array]


class LanguageModel(nn.Module):
    """A decoder-only Transformer over any lexicon (Huang et al. 2023).

    Apart from the vector for BOS it has no parameter that belongs to a token.

    With a = `logit_scale` and the lexicon E, the logits of v after h_t are, by `config.output`,
    matrix: <a LN(h_t) W_out, E[v]> / sqrt(width), so that reading and predicting are told apart by a matrix of no token.
    tied: <a LN(h_t), E[v]> / sqrt(width), one table for both (Press and Wolf 2017; the readout of Huang et al., but for the scale).
    untied: <a LN(h_t), U[v]> / sqrt(width) with a table U of its own, for lexica that all sequences share.
    """

    config: TransformerConfig

    @nn.compact
    def features(
        self,
        tokens: Int[Array, "batch time"],
        embeddings: Float[Array, "batch time width"],
        capture: bool = False,
        edit: tuple[int, Change] | None = None,
        pasts: Sequence[Past] | None = None,
    ) -> tuple[Float[Array, "batch time width"], dict[str, Any]]:
        """`a LN(h_t) W_out`, whose inner products with the output table are the logits, and the Transformer's intermediates.

        Without W_out unless `config.output` is "matrix". `edit`, `pasts`: see `lexinv.nn.transformer.Transformer`.
        """
        width = self.config.width
        bos = self.param("bos", nn.initializers.normal(1.0), (width,))
        x = jnp.where((tokens == BOS)[..., None], bos[None, None].astype(embeddings.dtype), embeddings)
        hidden, intermediates = Transformer(self.config, name="transformer")(x, capture, edit, None, pasts)
        if self.config.output == "matrix":
            kernel = self.param("readout", nn.initializers.normal(width**-0.5), (width, width))
            scale = self.param("logit_scale", nn.initializers.ones, ())
            return linear(hidden, (scale * kernel).astype(hidden.dtype)), intermediates
        scale = self.param("logit_scale", nn.initializers.ones, ())
        # Rounded to bfloat16 the scale itself would be off by up to 0.4 %, and all logits with it.
        scaled = scale.astype(jnp.float32) * hidden.astype(jnp.float32)
        return scaled.astype(hidden.dtype), intermediates

    def __call__(
        self,
        tokens: Int[Array, "batch time"],
        lexicon: Float[Array, "batch vocab width"] | Float[Array, "vocab width"],
        capture: bool = False,
        output_table: Float[Array, "vocab width"] | None = None,
        edit: tuple[int, Change] | None = None,
    ) -> Any:
        """float32 logits[batch, time, vocab] of the token after each; with `capture`, (logits, intermediates).

        `output_table` is U where `config.output` is "untied".
        """
        features, intermediates = self.features(tokens, embed(lexicon, tokens), capture, edit)
        logits = readout(features, lexicon if output_table is None else output_table)
        return (logits, intermediates) if capture else logits


def initialize(config: TransformerConfig, lexicon: LexiconConfig, vocab: int, key: Key[Array, ""]) -> Params:
    """Parameters: {"model": Flax parameters} and, where the lexicon is learned, {"table": E_0 ~ N(0, I)}.

    An untied output adds {"output_table": U ~ N(0, I)}; `config.initialization` may scale both tables. Raises `InvalidConfig` for an
    untied output over lexica that differ by sequence, and for an orthonormal lexicon of more tokens than the width.
    """
    fits = config.output != "untied" or lexicon.kind in ("standard", "canonical")
    require(fits, "model.output", config.output, f"'matrix' or 'tied' for a {lexicon.kind} lexicon")
    if lexicon.kind == "orthonormal":
        require_frame(vocab, config.width)
    model_key, table_key, scheme_key = jax.random.split(key, 3)
    tokens = jnp.zeros((1, 1), jnp.int32)
    model: Params = dict(LanguageModel(config).init(model_key, tokens, jnp.zeros((1, config.width)))["params"])
    params: Params = {"model": initialization.apply_scheme(config, model, scheme_key)}
    scale = initialization.table_scale(config)
    if lexicon.learned:
        params["table"] = scale * jax.random.normal(table_key, (vocab, config.width))
    if config.output == "untied":
        params["output_table"] = scale * jax.random.normal(jax.random.fold_in(table_key, 1), (vocab, config.width))
    return params


def shift_right(tokens: Int[Array, "batch time"]) -> Int[Array, "batch time"]:
    """The inputs for which `tokens` are the targets: BOS, then all but the last."""
    return jnp.concatenate([jnp.full_like(tokens[:, :1], BOS), tokens[:, :-1]], axis=1)


def make_nll(
    config: TransformerConfig, lexicon: LexiconConfig, vocab: int
) -> Callable[..., Float[Array, "batch time"]]:
    """`nll(params, batch, key)`: -log p(x_t | x_<t) in nats for every token of batch {"tokens"[B, T], "row"[B]}; padding gives 0.

    Sequence s reads the lexicon drawn from `key` folded with its row: resumed runs draw the same, and the split of a batch over
    microbatches or devices does not matter. `edit` as in `LanguageModel`; see `lexinv.nn.sites.make_spliced_nll`.
    """
    model = LanguageModel(config)

    def nll(
        params: Params, batch: Batch, key: Key[Array, ""], edit: tuple[int, Change] | None = None
    ) -> Float[Array, "batch time"]:
        keys, targets = row_keys(key, batch["row"]), batch["tokens"]
        table, drawn, found = params.get("table"), lexicon, None
        if lexicon.kind == "permuted_bank":
            # E_s = G[pi_s] on x is the fixed table G on pi_s(x): the same numbers without a table for each sequence.
            permuted = jax.vmap(lambda key, row: permutation(key, vocab)[jnp.maximum(row, 0)])(keys, targets)
            targets = jnp.where(targets >= 0, permuted, targets)
            table, drawn = bank(vocab, config.width), replace(lexicon, kind="standard")
        elif lexicon.kind == "canonical":
            found = by_first_occurrence(targets, vocab)
            targets = found.ranks
        seen = None if found is None else found.seen
        inputs = shift_right(targets)
        if not lexicon.vocab_block:
            drawn_rows = draw_lexicon(drawn, table, keys, vocab, config.width)
            variables = {"params": params["model"]}
            logits: Any = model.apply(variables, inputs, drawn_rows, output_table=params.get("output_table"), edit=edit)
            nats = token_nll(logits if seen is None else of_ranks(logits, seen), targets)
        else:
            embeddings = lexicon_rows(drawn, table, keys, jnp.maximum(inputs, 0), config.width)
            features, _ = model.apply({"params": params["model"]}, inputs, embeddings, edit=edit, method="features")
            nats = blockwise_nll(drawn, params.get("output_table", table), keys, features, targets, vocab, seen)
        return nats if found is None else nats + new_type_nats(found)

    return nll


def make_loss(
    config: TransformerConfig, lexicon: LexiconConfig, vocab: int
) -> Callable[[Params, Batch, Key[Array, ""]], tuple[Float[Array, ""], dict[str, Array]]]:
    """`loss(params, batch, key) -> (mean nats per token, {})`: the mean of `make_nll` over the tokens that are not padding."""
    nll = make_nll(config, lexicon, vocab)

    def loss(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], dict[str, Array]]:
        count = jnp.maximum(jnp.sum(batch["tokens"] >= 0), 1).astype(jnp.float32)
        return jnp.sum(nll(params, batch, key)) / count, {}

    return loss


def make_logits(
    config: TransformerConfig, lexicon: LexiconConfig, vocab: int
) -> Callable[[Params, Batch, Key[Array, ""]], Float[Array, "batch time vocab"]]:
    """`logits(params, batch, key)` of every token of batch {"tokens"[B, T], "row"[B]} given those before it; as `make_nll` draws lexica."""
    model = LanguageModel(config)

    def logits(params: Params, batch: Batch, key: Key[Array, ""]) -> Float[Array, "batch time vocab"]:
        inputs, drawn = reading(config, lexicon, vocab, params, batch, key)
        found: Any = model.apply({"params": params["model"]}, inputs, drawn, output_table=params.get("output_table"))
        if lexicon.kind == "canonical":
            return spread_over_types(found, by_first_occurrence(batch["tokens"], vocab))
        return found

    return logits


def reading(
    config: TransformerConfig, lexicon: LexiconConfig, vocab: int, params: Params, batch: Batch, key: Key[Array, ""]
) -> tuple[Int[Array, "batch time"], Float[Array, "batch vocab width"] | Float[Array, "vocab width"]]:
    """(what the model reads to predict batch {"tokens"[B, T], "row"[B]}, the lexica that give it vectors), as `make_nll` draws them.

    Of a canonical lexicon ranks in place of tokens, with the table of their vectors.
    """
    drawn = draw_lexicon(lexicon, params.get("table"), row_keys(key, batch["row"]), vocab, config.width)
    tokens = batch["tokens"]
    return shift_right(by_first_occurrence(tokens, vocab).ranks if lexicon.kind == "canonical" else tokens), drawn


def make_hidden_states(
    config: TransformerConfig, lexicon: LexiconConfig, vocab: int
) -> Callable[[Params, Batch, Key[Array, ""]], Float[Array, "levels batch time_read width"]]:
    """`states(params, batch, key)`: the residual stream before the first layer and after each layer, depth + 1 levels.

    Entry t has read the tokens x_0 to x_t of batch {"tokens"[B, T], "row"[B]}, t = 0 to T - 2. Lexica are drawn as by `make_nll`.
    """
    model = LanguageModel(config)

    def states(params: Params, batch: Batch, key: Key[Array, ""]) -> Float[Array, "levels batch time_read width"]:
        inputs, drawn = reading(config, lexicon, vocab, params, batch, key)
        read: Any = model.apply({"params": params["model"]}, inputs, drawn, capture=True)
        layers = read[1]
        levels = jnp.concatenate([layers["residual_in"][:1], layers["residual_out"]])
        return levels[:, :, 1:].astype(jnp.float32)  # without the one that has read nothing but BOS

    return states
