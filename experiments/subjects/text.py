"""Language models on text, standard and lexinvariant: corpora made ready, held-out windows for every seed, models and their budgets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from experiments.harness.corpora import note_folded
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from lexinv.data.corpora import load_corpus
from lexinv.data.tokenizers import Tokenizer, load_tokenizer
from lexinv.data.windows import Packing, Windows, evaluation_windows, token_stream, window_source
from lexinv.nn.language_model import Params
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import NllFn, evaluate_by_position
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.population import over_members
from lexinv.training.state import TrainState
from lexinv.validation import Checked, Count, Distinct

STANDARD, LEXINVARIANT, CANONICAL = (LexiconConfig(kind) for kind in ("standard", "lexinvariant", "canonical"))

# Wide, since the vectors of two symbols must be told apart: their similarity is noise of size 1 / sqrt(width).
SUFFIX_MATCH = TransformerConfig(
    depth=2,
    width=512,
    heads=2,
    mlp_width=512,
    positions="none",
    mixing="convolution",
    initialization="suffix_match",
    unroll=2,
)
MUON = OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=50)
PUBLISHED_MODEL = TransformerConfig(depth=12, width=1024, heads=8, mlp_width=4096, dtype="bfloat16", remat=True)
"""As large as the paper's; optimiser, batch and learning rate are ours, since they are not known."""
PUBLISHED_TRAINING = Training(
    steps=250_000,
    batch_size=64,
    seeds=(0, 1, 2),
    optimizer=OptimizerConfig("adamw", learning_rate=3e-4, warmup_steps=2000, weight_decay=0.01),
    steps_per_dispatch=10,
)


@dataclass(frozen=True)
class DataConfig(Checked):
    """corpora: all claims but the comparison of corpora are about the first; a later one whose package is missing is left out."""

    corpora: Distinct[str] = ("python-stdlib",)
    tokenizer: str = "letters"
    context: Count = 256
    packing: Packing = "stream"

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.context >= 32, "context", "at least 32: claims compare positions 8 to 16 with the last 16"


@dataclass(frozen=True)
class EvaluationConfig(Checked):
    """Every seed is evaluated on `windows` held-out windows of its own, so that intervals over seeds hold the text's variation too.

    A corpus whose held-out split is too small for that gives each seed an equal share of what it has.

    draws: lexica over which the averaged prediction is taken. max_order: of the in-context counters.
    """

    windows: Count = 256
    batch_size: Count = 32
    draws: Count = 4
    max_order: Count = 4


PUBLISHED_DATA = DataConfig(("tfds:wiki40b/en",), "char", context=512)
PUBLISHED_EVALUATION = EvaluationConfig(windows=1024, max_order=5)


@dataclass(frozen=True)
class TextModels(Checked):
    """What the experiments on text have in common: the data, the model, and how it is trained."""

    data: DataConfig = DataConfig()
    model: TransformerConfig = SUFFIX_MATCH
    training: Training = Training()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        longest = self.model.max_length
        yield self.data.context <= longest, "data.context", f"at most model.max_length = {longest}"
        yield self.model.causal, "model.causal", "True: the model predicts the next token"
        whole = self.data.packing == "stream" or self.training.microbatches == 1
        reason = "1 where data.packing pads windows: a mean over slices is not the mean over tokens"
        yield whole, "training.microbatches", reason


@dataclass(frozen=True)
class Text:
    """A corpus made ready: windows to train on, and held-out windows for every seed."""

    name: str
    fingerprint: str
    vocab: int
    train: Windows
    held_out: Sequence[Int[np.ndarray, "windows time"]]
    tokenizer: Tokenizer


def prepare(name: str, data: DataConfig, seeds: int, windows: int, workspace: Workspace) -> Text:
    """Load, tokenize and cut a corpus; refuses a context or a number of held-out windows that it cannot fill."""
    corpus = load_corpus(name)
    tokenizer = load_tokenizer(data.tokenizer, corpus)
    streams = {split: token_stream(corpus, split, tokenizer) for split in ("train", "test")}
    note_folded(workspace, name, data.tokenizer, {split: stream.folded for split, stream in streams.items()})
    train, held_out = (window_source(stream, data.context, data.packing) for stream in streams.values())
    each = max(min(windows, (len(held_out) - 1) // seeds), 1)  # the last window may be padded
    shares = evaluation_windows(held_out, seeds * each, seed=0).reshape(seeds, each, -1)
    return Text(name, corpus.fingerprint, tokenizer.vocab_size, train, list(shares), tokenizer)


def held_out_nats(
    nll: NllFn, params: Sequence[Params], held_out: Sequence[np.ndarray], batch_size: int, draw: int = 0
) -> list[Float[np.ndarray, "windows time"]]:
    """Nats of every token, each seed's model on its own windows. draw: a number for each lexicon that is drawn for a window."""
    key = jax.random.key(draw)
    return [
        evaluate_by_position(nll, tree, windows, key, batch_size)
        for tree, windows in zip(params, held_out, strict=True)
    ]


def follower(
    nll: NllFn, held_out: Sequence[Int[np.ndarray, "windows time"]], count: int
) -> Callable[[TrainState], dict[str, Float[np.ndarray, " seeds"]]]:
    """What `train` asks along the way: "nats" per token in the second half of the first `count` held-out windows of each seed."""
    windows = jnp.asarray(np.stack([each[:count] for each in held_out]), jnp.int32)
    rows, half = jnp.arange(windows.shape[1]), windows.shape[2] // 2

    @jax.jit
    def judged(params: Params, windows: jax.Array) -> jax.Array:
        def one(each: tuple[Params, jax.Array]) -> jax.Array:
            return nll(each[0], {"tokens": each[1], "row": rows}, jax.random.key(0))[:, half:].mean()

        return over_members(one, (params, windows))

    return lambda state: {"nats": np.asarray(judged(state.params, windows))}


def late(rows: Any, start: float = 0.5) -> Float[np.ndarray, " seeds"]:
    """Mean per seed of values [seeds, time] from the share `start` of the context on."""
    values = np.asarray(rows)
    return values[:, int(start * values.shape[1]) :].mean(axis=1)
