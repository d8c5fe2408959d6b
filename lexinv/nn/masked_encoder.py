"""A bidirectional encoder that fills in masked tokens, over any lexicon: the token table is an argument, as in the language model."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lexinv.nn.lexicon import embed, readout
from lexinv.nn.transformer import Transformer, TransformerConfig


class MaskedEncoder(nn.Module):
    """Logits of the last `answers` tokens by the tied table. Tokens below zero are marks, such as the mask: -1 - i has the learned vector i
    of `marks`.

    bias: a learned number for each of `vocab` token types is added to the logits, as in BERT; it belongs to a token and makes the
    model anything but lexinvariant.
    """

    config: TransformerConfig
    answers: int
    marks: int
    std: float
    vocab: int
    bias: bool = False

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch time"], lexicon: Float[Array, "vocab width"]
    ) -> Float[Array, "batch answers vocab"]:
        marks = self.param("marks", nn.initializers.normal(self.std), (self.marks, self.config.width))
        mark = marks[jnp.clip(-tokens - 1, 0, self.marks - 1)]
        x = jnp.where((tokens < 0)[..., None], mark, embed(lexicon, tokens))
        hidden, _ = Transformer(self.config, name="transformer")(x)
        scale = self.param("logit_scale", nn.initializers.ones, ())
        features = scale * hidden[:, -self.answers :].astype(jnp.float32)
        logits = readout(features.astype(hidden.dtype), lexicon)
        if self.bias:
            logits = logits + self.param("bias", nn.initializers.zeros, (self.vocab,))[None, None]
        return logits
