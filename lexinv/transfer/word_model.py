"""A language model that reads words and spells them: an encoder within words, a causal backbone over them, a decoder within the next one.

One module for two papers. With one backbone position a word it is the hierarchical autoregressive transformer (Neitemeier et al. 2025,
arXiv 2501.10322); with several, read off as many prefix symbols, the word-pooled model (Thawani et al. 2023, arXiv 2310.11628). Of the
second paper's released code we take the sizes, not its losses over padding nor the mask with which real bytes see padding.

The only file of this family that imports Flax.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lexinv.nn.flops import forward_flops
from lexinv.nn.lexicon import readout
from lexinv.nn.transformer import Transformer, TransformerConfig
from lexinv.transfer.words import WordBatch
from lexinv.validation import Checked, Count

SYMBOLS, END = 257, 256
"""What a decoder predicts: a byte, or that the word has ended."""
Params = dict[str, Any]


@dataclass(frozen=True)
class WordModelConfig(Checked):
    """spelling: of the encoder and the decoder within words; the encoder's attention is not causal. backbone: over words.

    positions: of the backbone for each word, read off as many prefix symbols; they see one another in their order.
    """

    spelling: TransformerConfig = TransformerConfig(depth=1, width=48, heads=4, mlp_width=192, max_length=64)
    backbone: TransformerConfig = TransformerConfig(depth=2, width=112, heads=4, mlp_width=448, unroll=2)
    positions: Count = 1

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        for name in ("spelling", "backbone"):
            yield getattr(self, name).causal, f"{name}.causal", "True: the decoder and the backbone predict what comes"


class WordModel(nn.Module):
    """float32 logits [batch, words, M + 1, 257] of the symbols of each word, given those before it in the word and all words before."""

    config: WordModelConfig

    @nn.compact
    def __call__(self, batch: WordBatch) -> Float[Array, "batch words symbols 257"]:
        config, count = self.config, self.config.positions
        texts, words, most = batch.spelled.shape
        narrow, wide = config.spelling.width, config.backbone.width

        def learned(name: str, rows: int, columns: int, deviation: float = 1.0) -> Array:
            return self.param(name, nn.initializers.normal(deviation), (rows, columns))

        table = learned("bytes", SYMBOLS, narrow)
        spelled = table[batch.spelled.reshape(texts * words, most)]
        prefix = jnp.broadcast_to(learned("prefix", count, narrow)[None], (texts * words, count, narrow))
        mask = jnp.pad(batch.byte_mask.reshape(texts * words, most), ((0, 0), (count, 0)), constant_values=True)
        encoder = Transformer(replace(config.spelling, causal=False), name="encoder")
        read = encoder(jnp.concatenate([prefix, spelled], axis=1), mask=mask)[0][:, :count]
        pooled = (read @ learned("widen", narrow, wide, narrow**-0.5)).reshape(texts, words * count, wide)
        start = jnp.broadcast_to(learned("start", count, wide)[None], (texts, count, wide))
        before = jnp.concatenate([start, pooled[:, : (words - 1) * count]], axis=1)
        hidden = Transformer(config.backbone, name="backbone")(before)[0]
        given = (hidden @ learned("narrow", wide, narrow, wide**-0.5)).reshape(texts * words, count, narrow)
        decoder = Transformer(config.spelling, name="decoder")
        out = decoder(jnp.concatenate([given, spelled], axis=1))[0][:, count - 1 :]
        scale = self.param("logit_scale", nn.initializers.ones, ())
        return readout(scale * out, table).reshape(texts, words, most + 1, SYMBOLS)


def initialize(config: WordModelConfig, key: Key[Array, ""]) -> Params:
    one = jnp.zeros((1, 1, 1), jnp.int32)
    return dict(WordModel(config).init(key, WordBatch(one, one == 0, one[:, :, 0] == 0))["params"])


def targets(batch: WordBatch) -> Int[Array, "batch words symbols"]:
    """What a decoder has to say: a word's bytes, `END`, then -1."""
    length = batch.byte_mask.sum(axis=-1, keepdims=True)
    place = jnp.arange(batch.spelled.shape[-1] + 1)[None, None]
    spelled = jnp.pad(batch.spelled, ((0, 0), (0, 0), (0, 1)))
    found = jnp.where(place < length, spelled, jnp.where(place == length, END, -1))
    return jnp.where(batch.word_mask[..., None], found, -1)


def make_nll(config: WordModelConfig) -> Callable[[Params, WordBatch], Float[Array, "batch words symbols"]]:
    """`nll(params, batch)`: nats of every symbol of every word, the word's end among them; 0 for padding."""
    model = WordModel(config)

    def nll(params: Params, batch: WordBatch) -> Float[Array, "batch words symbols"]:
        logits: Any = model.apply({"params": params}, batch)
        wanted = targets(batch)
        hit = jnp.take_along_axis(logits, jnp.maximum(wanted, 0)[..., None], axis=-1)[..., 0]
        return jnp.where(wanted >= 0, jax.nn.logsumexp(logits, axis=-1) - hit, 0.0)

    return nll


def word_flops(config: WordModelConfig, lengths: Sequence[int] | Int[np.ndarray, " words"], words: int) -> float:
    """Forward operations by byte, for words of so many bytes each in texts of `words` words: `forward_flops` of what is no padding."""
    sizes, counts = np.unique(np.asarray(lengths), return_counts=True)
    spelling, backbone = (replace(part, output="tied") for part in (config.spelling, config.backbone))
    narrow, wide, count = spelling.width, backbone.width, config.positions
    both = (spelling, replace(spelling, causal=False))
    each = [sum(_layers(part, count + int(n)) for part in both) + 2 * (n + 1) * narrow * SYMBOLS for n in sizes]
    of_word = _layers(backbone, words * count) / words + 4 * count * narrow * wide
    return float((counts @ np.array(each, np.float64) + counts.sum() * of_word) / (counts @ sizes))


@lru_cache(1024)
def _layers(part: TransformerConfig, time: int) -> float:
    """Of all positions, without what `forward_flops` counts for one logit."""
    return time * (forward_flops(part, 1, time) - 2 * part.width)
