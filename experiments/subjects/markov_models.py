"""Small Transformers on the characters or on the tokens of a Markov source: seeds and learning rates are one population.

Losses are in nats per character, whatever the model reads: the sum of the negative log-likelihoods over the sum of the characters of the
targets (method card theory-of-tokenization).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from experiments.harness.training import Training, evaluations, scaled, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects.markov_sources import SourceConfig
from lexinv.data import markov
from lexinv.data.markov_sampling import stationary_text
from lexinv.data.windows import Windows, array_windows
from lexinv.nn.language_model import Params, initialize, make_loss, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.tokenizers import Tokenizer, to_text, train_bpe
from lexinv.training.optimizers import OptimizerConfig, make_optimizer
from lexinv.training.population import over_members
from lexinv.training.state import parameter_count
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Fractions, Seeds, require

LEXICON = LexiconConfig("standard")
MODEL = TransformerConfig(depth=1, heads=1, width=16, mlp_width=64, positions="learned", max_length=128)
BINARY = "01"
TOKENIZER_TEXT = 200_000
SMOKE: dict[str, Any] = {
    "training.steps": 4,
    "training.batch_size": 4,
    "training.seeds": (0, 1),
    "training.optimizer.warmup_steps": 1,
    "training.evaluate_every": 2,
    "training.held_out": 512,
    "model.width": 8,
    "model.mlp_width": 32,
}
"""Of presets of experiments whose configurations have a `training` and a `model`."""
PUBLISHED: dict[str, Any] = {
    "training.steps": 8000,
    "training.learning_rates": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "training.seeds": (0, 1, 2, 3, 4),
    "training.optimizer.warmup_steps": 160,
    "training.evaluate_every": 20,
    "training.held_out": 131_072,
}
"""The published steps and seeds [recalled]."""


@cache
def draw(source: SourceConfig, name: str, length: int) -> Integer[np.ndarray, " length"]:
    """A stretch of the stationary source; different names give independent ones. All seeds of a run read the same, in their own orders."""
    symbols = stationary_text(stream(jax.random.key(0), f"{source.name} {name}"), source.kernel, length)
    symbols.flags.writeable = False  # it is shared
    return symbols


@dataclass(frozen=True)
class PopulationConfig(Checked):
    """How every model is trained: each seed (initialisation and order of the data) with each peak learning rate.

    optimizer.learning_rate is 1, since `learning_rates` holds the rates. held_out: characters of the held-out text, at most.
    """

    steps: Count = 1000
    batch_size: Count = 16
    seeds: Seeds = (0, 1, 2)
    learning_rates: Fractions = (2e-3, 8e-3, 1.6e-2)
    optimizer: OptimizerConfig = OptimizerConfig("adamw", 1.0, 20, weight_decay=1e-3, b1=0.9, b2=0.95)
    evaluate_every: Count = 20
    held_out: Count = 16_384

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.steps % self.evaluate_every == 0, "evaluate_every", f"a divisor of steps = {self.steps}"
        yield self.optimizer.learning_rate == 1.0, "optimizer.learning_rate", "1: learning_rates holds the rates"
        make_optimizer(self.optimizer, self.steps)  # refuses what cannot be meant

    @property
    def each(self) -> Training:
        """Of every learning rate. The steps from one evaluation to the next are one dispatch."""
        return Training(self.steps, self.batch_size, self.seeds, self.optimizer, steps_per_dispatch=self.evaluate_every)

    @property
    def members(self) -> list[tuple[float, int]]:
        """(learning rate, seed) of every member, rate by rate."""
        return [(rate, seed) for rate in self.learning_rates for seed in self.seeds]


class Text(NamedTuple):
    """What a model reads, and what the exact source makes of the held-out part.

    lengths: characters of each token. skipped: first targets of every window that do not count. source_nll: nats of the counted targets
    of each held-out window under the source itself. floor: nats per character that no model of such windows is below in expectation.
    """

    train: Windows
    held_out: Integer[np.ndarray, "windows time"]
    lengths: Integer[np.ndarray, " vocab"]
    skipped: int
    source_nll: Float[np.ndarray, " windows"]
    floor: float

    @property
    def vocab(self) -> int:
        return len(self.lengths)

    @property
    def characters(self) -> Integer[np.ndarray, " windows"]:
        """Characters of the counted targets of each held-out window."""
        return self.lengths[self.held_out[:, self.skipped :]].sum(axis=1)

    @property
    def mean_length(self) -> float:
        """Characters per token of the held-out text."""
        return float(self.lengths[self.held_out].mean())


def windows_of(ids: Integer[np.ndarray, " n"], length: int) -> Windows:
    """Disjoint windows, each whole."""
    whole = np.asarray(ids[: len(ids) // length * length], np.uint16)
    return array_windows(whole, length)


def as_characters(source: SourceConfig, train: np.ndarray, held_out: np.ndarray, time: int) -> Text:
    """Windows of `time` characters. The model begins each one knowing nothing, so that the first k characters cost what k characters do.

    Hence the floor H(X_1 ... X_time) / time, for the switching process H_inf + k (H(pi) - H_inf) / time.
    """
    kernel = source.kernel
    windows = windows_of(held_out, time).gather(np.arange(len(held_out) // time))
    contexts = windows[:, : source.order] @ 2 ** np.arange(source.order - 1, -1, -1)
    nll = (
        markov.negative_log_likelihood(kernel, held_out[: windows.size])
        .reshape(windows.shape)[:, source.order :]
        .sum(axis=1)
    )
    nll = nll - np.log(markov.stationary_distribution(kernel)[contexts])
    floor = markov.block_entropy(kernel, time) / time
    return Text(windows_of(train, time), windows, np.ones(2, np.int32), 0, nll, floor)


class Tokens(NamedTuple):
    """Windows of tokens with what they are made of."""

    text: Text
    tokenizer: Tokenizer
    train: Integer[np.ndarray, " n"]
    held_out: Integer[np.ndarray, " m"]


def as_tokens(source: SourceConfig, tokenizer: Tokenizer, train: np.ndarray, held_out: np.ndarray, time: int) -> Tokens:
    """Windows of `time` tokens, cut from one long encoding of the characters `train` and `held_out`.

    The first token of a window, before which nothing is known, does not count. The floor H_inf is then a lower bound: what the second
    token does not know of the characters before makes the true one a little higher.
    """
    ids = [tokenizer.encode(to_text(symbols, BINARY)) for symbols in (train, held_out)]
    lengths, (_, held) = np.asarray(tokenizer.lengths), ids
    ends = np.cumsum(lengths[held])
    sums = np.concatenate([[0.0], np.cumsum(markov.negative_log_likelihood(source.kernel, held_out))])
    nll = sums[ends] - sums[ends - lengths[held]]
    count = len(held) // time
    windows = windows_of(held, time).gather(np.arange(count))
    by_window = nll[: count * time].reshape(count, time)[:, 1:].sum(axis=1)
    require(
        count >= 2,
        "held_out",
        len(held_out),
        f"more characters: they have {count} windows of {time} tokens, two are needed",
    )
    text = Text(windows_of(ids[0], time), windows, lengths, 1, by_window, markov.entropy_rate(source.kernel))
    return Tokens(text, tokenizer, *ids)


def characters_of(source: SourceConfig, time: int, training: PopulationConfig) -> Text:
    """Characters for one epoch of a training run."""
    train = draw(source, "train", training.steps * training.batch_size * time)
    return as_characters(source, train, draw(source, "held-out", training.held_out), time)


def tokens_of(source: SourceConfig, size: int, time: int, training: PopulationConfig) -> Tokens:
    """Tokens for one epoch of a training run, by a BPE of `size` tokens trained on another stretch of the source."""
    tokenizer = train_bpe(to_text(draw(source, "tokenizer", TOKENIZER_TEXT), BINARY), size, BINARY)
    held_out = draw(source, "held-out", training.held_out)
    per_token = len(held_out) / len(tokenizer.encode(to_text(held_out, BINARY)))
    # A tenth more than expected: `train_population` refuses what is too short.
    characters = int(1.1 * per_token * training.steps * training.batch_size * time)
    return as_tokens(source, tokenizer, draw(source, "train", characters), held_out, time)


def train_population(
    name: str, model: TransformerConfig, text: Text, training: PopulationConfig, workspace: Workspace
) -> tuple[Params, dict[str, Any]]:
    """Parameters of all members (leading axis, in the order of `training.members`) and their curves.

    curves: "steps" from 0, "loss" [members, evaluations] on the held-out windows in nats per character, "excess" and "error" of the same
    shape: mean and standard error over windows of how far the loss is above that of the source itself on the same characters.

    Trains for one epoch at most: raises `InvalidConfig` where the text is shorter. Resumes as `lexinv.training.fit.fit` does.
    """
    needed = training.steps * training.batch_size
    require(len(text.train) >= needed, "training text", len(text.train), f"{needed} windows: one epoch of fresh data")
    evaluate = evaluator(model, text)
    found = train(
        name,
        partial(initialize, model, LEXICON, text.vocab),
        make_loss(model, LEXICON, text.vocab),
        text.train,
        training.each,
        workspace,
        members=tuple((seed, rate) for rate, seed in training.members),
        optimizer=scaled,
        tokens=text.train.length,
        evaluate=lambda state: evaluate(state.params),
    )
    return stacked(found), evaluations(name, workspace)


def evaluator(model: TransformerConfig, text: Text) -> Callable[[Params], dict[str, np.ndarray]]:
    """`evaluate(params of a population)`: loss, excess and its standard error of every member; compiled once."""
    nll = make_nll(model, LEXICON, text.vocab)
    batch = {"tokens": jnp.asarray(text.held_out), "row": jnp.arange(len(text.held_out), dtype=jnp.int32)}
    characters = text.characters

    def by_window(params: Params) -> Array:
        return nll(params, batch, jax.random.key(0))[:, text.skipped :].sum(axis=1)

    measured = jax.jit(partial(over_members, by_window))

    def evaluate(params: Params) -> dict[str, np.ndarray]:
        nats = np.asarray(measured(params), np.float64)
        excess = nats - text.source_nll
        # Windows of tokens differ in length: the error is that of a ratio.
        spread = excess - excess.sum(axis=1, keepdims=True) / characters.sum() * characters
        error = np.sqrt(len(characters)) * spread.std(axis=1, ddof=1) / characters.sum()
        return {
            "loss": nats.sum(axis=1) / characters.sum(),
            "excess": excess.sum(axis=1) / characters.sum(),
            "error": error,
        }

    return evaluate


def size_of(model: TransformerConfig, vocab: int) -> int:
    """Number of parameters."""
    shapes = jax.eval_shape(lambda key: initialize(model, LEXICON, vocab, key), jax.random.key(0))
    return parameter_count(shapes)


def sized(model: TransformerConfig, width: int, time: int) -> TransformerConfig:
    """The model at another width, its layers four times as wide inside, with as many positions as windows have."""
    return replace(model, width=width, mlp_width=4 * width, max_length=time)


def by_rate(values: np.ndarray, training: PopulationConfig) -> np.ndarray:
    """[members, ...] as [learning rates, seeds, ...]."""
    return values.reshape(len(training.learning_rates), len(training.seeds), *values.shape[1:])
