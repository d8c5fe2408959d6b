"""Languages as the particle filter reads them, under many keys side by side: n-gram automata, and neural models of ours."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lexinv.nn.cache import Cache, empty_cache, make_extend
from lexinv.nn.language_model import BOS, Params
from lexinv.nn.transformer import TransformerConfig


@runtime_checkable
class Language(Protocol):
    """What reads several texts at once, a symbol of each at a time; `lexinv.data.automata.Automaton` is one.

    A pytree, since it is an argument of compiled programs. Its states are pytrees, too, with an axis of texts first in every leaf.
    """

    @property
    def vocab(self) -> int: ...

    def begin(self, count: int, time: int) -> Any:
        """The state of `count` texts of which nothing has been read, with room for `time` symbols of each."""
        ...

    def log_probs_of(self, state: Any, symbols: Int[Array, "count n"]) -> Float[Array, "count n"]:
        """ln p of each of these symbols after what was read, in nats."""
        ...

    def advance(self, state: Any, symbol: Int[Array, " count"]) -> Any:
        """The state after one more symbol of each text."""
        ...


class Predicted(NamedTuple):
    """A model's prediction of the next symbol, and what it was made from."""

    log_probs: Float[Array, "count vocab"]
    read: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CachedLanguage:
    """A standard language model that remembers what it has read (`lexinv.nn.cache`), with a lane of the cache for each text.

    A state holds depth · 2 · width · time numbers a text. `begin` raises `InvalidConfig` for models that have no such memory (convolutions,
    relative positions), and for texts that with `BOS` have more than `config.max_length` tokens.
    """

    params: Params
    """Of `lexinv.nn.language_model.initialize` with a standard lexicon."""
    config: TransformerConfig = field(metadata={"static": True})

    @property
    def vocab(self) -> int:
        return self.params["table"].shape[0]

    def begin(self, count: int, time: int) -> Predicted:
        return self._extended(empty_cache(self.config, count, time + 1), jnp.full(count, BOS))

    def log_probs_of(self, state: Predicted, symbols: Int[Array, "count n"]) -> Float[Array, "count n"]:
        return jnp.take_along_axis(state.log_probs, symbols, axis=1)

    def advance(self, state: Predicted, symbol: Int[Array, " count"]) -> Predicted:
        return self._extended(state.read, symbol)

    def _extended(self, cache: Cache, symbol: Int[Array, " count"]) -> Predicted:
        extend, one = make_extend(self.config, self.vocab), jnp.ones(len(symbol), jnp.int32)
        logits, cache = extend(self.params, self.params["table"], cache, symbol[:, None], one)
        return Predicted(jax.nn.log_softmax(logits[:, 0]), cache)


class Prefix(NamedTuple):
    """The first `length` symbols of each text, and anything behind them."""

    symbols: Int[Array, "count time"]
    length: Int[Array, " count"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RereadLanguage:
    """Any `log_probs(prefix)`, for models without a memory: every symbol costs another reading of all that was read.

    predict: `predict(symbols[count, time], length[count]) -> log_probs[count, vocab]` of the symbol after the first `length` ones, whatever
    is behind them. A `jax.tree_util.Partial`: its arguments, such as parameters, are those of the compiled program.
    """

    predict: jax.tree_util.Partial
    vocab: int = field(metadata={"static": True})

    def begin(self, count: int, time: int) -> Predicted:
        return self._predicted(Prefix(jnp.zeros((count, time), jnp.int32), jnp.zeros(count, jnp.int32)))

    def log_probs_of(self, state: Predicted, symbols: Int[Array, "count n"]) -> Float[Array, "count n"]:
        return jnp.take_along_axis(state.log_probs, symbols, axis=1)

    def advance(self, state: Predicted, symbol: Int[Array, " count"]) -> Predicted:
        symbols, length = state.read
        symbols = symbols.at[jnp.arange(len(symbol)), length].set(symbol, mode="drop")
        return self._predicted(Prefix(symbols, length + 1))

    def _predicted(self, prefix: Prefix) -> Predicted:
        return Predicted(self.predict(*prefix), prefix)
