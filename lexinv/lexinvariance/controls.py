"""What has to take away all that a lexinvariant model infers: a lexicon that changes in mid-sequence."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lexinv.nn.language_model import Batch, LanguageModel, Params, shift_right
from lexinv.nn.lexicon import LexiconConfig, draw_lexicon, embed, readout, row_keys, token_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import NllFn


def make_redrawn_nll(model: TransformerConfig, vocab: int) -> NllFn:
    """As `make_nll` for the lexinvariant model, in nats, but the lexicon is drawn anew in the middle of every sequence."""
    module = LanguageModel(model)

    def nll(params: Params, batch: Batch, key: Key[Array, ""]) -> Float[Array, "batch time"]:
        tokens = batch["tokens"]
        half = tokens.shape[1] // 2
        # One lexicon of twice the size: the second half of the sequence reads, and is read with, its second half.
        keys = row_keys(key, batch["row"])
        lexicon = draw_lexicon(LexiconConfig("lexinvariant"), None, keys, 2 * vocab, model.width)
        later = jnp.arange(tokens.shape[1])[None] >= half
        inputs = shift_right(tokens + jnp.where(later, vocab, 0))
        features, _ = module.apply({"params": params["model"]}, inputs, embed(lexicon, inputs), method="features")
        first, second = readout(features[:, :half], lexicon[:, :vocab]), readout(features[:, half:], lexicon[:, vocab:])
        return token_nll(jnp.concatenate([first, second], axis=1), tokens)

    return nll
