"""Translations with noise in them: a permutation of symbols, targets corrupted, and a model that writes all positions at once or in turn.

Every source symbol has one translation; what is learned from may have junk in front, words twice, blanks, or neighbours swapped. Where the
model is not autoregressive, its positions are independent given the source. A text ends at the first END, which belongs to it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.decoding.ngram_overlap import bleu, ngram_f1
from lexinv.nn.cache import empty_cache, make_extend
from lexinv.nn.generation import generate
from lexinv.nn.language_model import LanguageModel, Params, initialize
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.sampling import Sampling
from lexinv.nn.transformer import TransformerConfig
from lexinv.randomness import threefry
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count

GRAMS = (1, 2, 4)
NOISES = ("shift", "repetition", "blank", "shuffle")
BLANKED = 0.5
"""Share of the words of a corrupted target that are blank, where the noise is that."""


@dataclass(frozen=True)
class Translation(Checked):
    """symbols: of either language. length: of a source in symbols; the translation is as long.

    most: edits of a corrupted target, from one to so many, each number as often. autoregressive: a word is written given those before it.
    """

    symbols: Count = 20
    length: Count = 8
    depth: Count = 1
    width: Count = 32
    most: Count = 3
    autoregressive: bool = False

    def checks(self):
        yield self.symbols >= 2, "symbols", "at least 2"
        yield self.length > self.most, "length", f"above most = {self.most}, the edits of a target"

    @property
    def end(self) -> int:
        return self.symbols

    @property
    def blank(self) -> int:
        return self.symbols + 1

    @property
    def slots(self) -> int:
        """Positions of the output: of the longest target and its END."""
        return self.length + self.most + 1

    def model(self) -> TransformerConfig:
        length, width = self.length + self.slots, self.width
        return TransformerConfig(
            depth=self.depth,
            width=width,
            heads=4,
            mlp_width=2 * width,
            max_length=length,
            causal=self.autoregressive,
            unroll=self.depth,
        )

    def start(self, key: Key[Array, ""]) -> Params:
        """Parameters; the symbols, END, the blank, and what stands in for a position that is to be written."""
        return initialize(self.model(), LexiconConfig(), self.symbols + 3, key)

    def log_probs(
        self, params: Params, source: Int[Array, "rows length"], before: Int[Array, "rows slots"] | None = None
    ) -> Float[Array, "rows slots vocab"]:
        """Of the token at every position of the output, in nats; where it is written in turn, given those of `before` in front of it."""
        asked = jnp.full((len(source), self.slots), self.symbols + 2, source.dtype)
        if before is not None:
            asked = jnp.concatenate([asked[:, :1], before[:, :-1].astype(source.dtype)], axis=1)
        tokens = jnp.concatenate([source, asked], axis=1)
        logits: Any = LanguageModel(self.model()).apply({"params": params["model"]}, tokens, params["table"])
        return jax.nn.log_softmax(logits[:, self.length :])

    def draw(self, key: Key[Array, ""], rows: int) -> tuple[Int[Array, "rows length"], Int[Array, "rows length"]]:
        """Sources and their translations."""
        source = jax.random.randint(threefry(key), (rows, self.length), 0, self.symbols)
        return source, jnp.asarray(np.random.default_rng(0).permutation(self.symbols), jnp.int32)[source]

    def corrupted(
        self, clean: Int[Array, "rows length"], noise: Float[Array, ""], level: Float[Array, ""], key: Key[Array, ""]
    ) -> Int[Array, "rows slots"]:
        """Targets of which the share `level` is corrupted by the noise of this place in `NOISES`; END behind them."""
        at = jnp.arange(self.slots)

        def one(text: Array, key: Array) -> Array:
            keys = jax.random.split(key, 5)
            edits = jax.random.randint(keys[0], (), 1, self.most + 1)
            edits = jnp.where(jax.random.uniform(keys[1]) < level, edits, 0)
            order = jax.random.permutation(keys[2], self.length)
            drawn = jax.random.randint(keys[3], (self.slots,), 0, self.symbols)
            blanks = jax.random.uniform(keys[4], (self.length,)) < BLANKED
            doubled = jnp.cumsum(jnp.where(order < edits, 2, 1))

            def written(places: Array, length: Array) -> Array:
                return jnp.where(at < length, text[jnp.clip(places, 0, self.length - 1)], self.end)

            swapped = jnp.arange(self.length)
            for j in range(self.most):
                first = jnp.minimum(order[j], self.length - 2)
                exchanged = swapped.at[first].set(swapped[first + 1]).at[first + 1].set(swapped[first])
                swapped = jnp.where(j < edits, exchanged, swapped)
            whole = jnp.int32(self.length)
            found = (
                jnp.where(at < edits, drawn, written(at - edits, self.length + edits)),
                written(jnp.searchsorted(doubled, at, side="right"), doubled[-1]),
                jnp.where(
                    (at < whole) & (edits > 0) & jnp.pad(blanks, (0, self.most + 1)), self.blank, written(at, whole)
                ),
                written(jnp.pad(swapped, (0, self.most + 1)), whole),
            )
            return sum((jnp.where(noise == place, text, 0) for place, text in enumerate(found)), jnp.zeros_like(at))

        return jax.vmap(one)(clean, jax.random.split(threefry(key), len(clean)))

    def there(self, texts: Int[Array, "rows slots"]) -> Bool[Array, "rows slots"]:
        """Which tokens belong to a text: those up to its first END."""
        ends = (texts == self.end).astype(jnp.int32)
        return jnp.cumsum(ends, axis=1) == ends

    def words(self, texts: Int[np.ndarray, "rows slots"]) -> list[list[int]]:
        """The tokens of each text before its first END."""
        return [row[: row.index(self.end)] if self.end in row else row for row in np.asarray(texts).tolist()]

    def translated(self, params: Params, seed: int, tests: int) -> dict[str, Any]:
        """The most likely translations of clean sources against the right ones: BLEU, F1 of `GRAMS`, and length over the right one."""
        source, clean = self.draw(stream(jax.random.key(seed), "test"), tests)
        found, right = self.words(np.asarray(likeliest(self, params, source))), np.asarray(clean).tolist()
        return {
            "bleu": round(bleu(found, right), 3),
            "f1": [round(ngram_f1(found, right, n), 5) for n in GRAMS],
            "length": round(sum(map(len, found)) / sum(map(len, right)), 4),
        }


@partial(jax.jit, static_argnums=0)
def likeliest(task: Translation, params: Params, source: Int[Array, "rows length"]) -> Int[Array, "rows slots"]:
    """The translation that the model holds for most likely, token by token where it is written in turn."""
    if not task.autoregressive:
        return jnp.argmax(task.log_probs(params, source), axis=2)
    model, rows = task.model(), len(source)
    prompt = jnp.pad(source, ((0, 0), (0, 1)), constant_values=task.symbols + 2)
    keys, count = jax.random.split(jax.random.key(0), rows), jnp.full(rows, task.length + 1)
    cache = empty_cache(model, rows, model.max_length)
    extend = make_extend(model, task.symbols + 3)
    return generate(extend, params, params["table"], cache, prompt, count, keys, task.slots, Sampling(0.0)).tokens
