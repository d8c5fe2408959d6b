"""The models whose activations autoencoders are trained on: a language model of our own, a checkpoint of another, or a text encoder.

What an experiment needs of each is the same: rows to train on, rows to calibrate and to judge on, and what becomes of the model's output
when its activations are exchanged for their reconstructions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.harness.corpora import note_folded
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import shared_seeds
from experiments.subjects.pretrained_language_model import open_pretrained
from lexinv.data.corpora import load_corpus
from lexinv.data.tokenizers import Tokenizer, load_tokenizer
from lexinv.data.windows import Windows, array_windows, evaluation_windows, token_stream, window_source
from lexinv.nn.language_model import Params, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.sites import Site, make_activations, make_spliced_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.sae.activation_streams import ActivationsFn, ActivationSource, ComputedActivations, model_activations
from lexinv.training.evaluation import evaluate_by_position
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, CountOrZero, require

Edit = Callable[[Any, Float[Array, "*tokens width"]], Float[Array, "*tokens width"]]
"""`edit(extra, activations)`: what stands in for activations; `extra` are its own arrays, such as an autoencoder's parameters."""

BLOCK = 32
"""Windows whose activations are computed at a time."""


@dataclass(frozen=True)
class OwnModel(Checked):
    """A language model trained here on the subject's corpus; other experiments with the same one find it in the user's cache."""

    transformer: TransformerConfig = TransformerConfig(unroll=4)
    training: Training = Training(
        steps=600,
        batch_size=32,
        optimizer=OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=50),
        steps_per_dispatch=5,
    )

    def checks(self):
        yield len(self.training.seeds) == 1, "training.seeds", "one: autoencoders have more"
        yield self.transformer.causal, "transformer.causal", "True: the model predicts the next token"


@dataclass(frozen=True)
class SubjectConfig(Checked):
    """model: `own`, `minilm` (the asset), another asset with a language model (`smollm2`), or the
    folder of a checkpoint or a GGUF file (`lexinv.nn.pretrained`).

    tokenizer: of `own`; the others bring theirs. context: tokens of a window. layer: the residual stream after it is read, from 0.
    windows: of the training text, on whose activations autoencoders are trained. keep: they are computed once and held in memory.
    """

    model: str = "own"
    corpus: str = "python-stdlib"
    tokenizer: str = "bpe:2048"
    context: Count = 128
    layer: CountOrZero = 1
    windows: Count = 4000
    keep: bool = True
    own: OwnModel = OwnModel()

    def checks(self):
        yield self.model != "", "model", "'own', 'minilm' or a folder"
        yield self.context >= 8, "context", "at least 8 tokens"
        if self.model == "own":
            model = self.own.transformer
            yield self.layer < model.depth, "layer", f"below the model's depth {model.depth}"
            yield self.context <= model.max_length, "context", f"at most max_length {model.max_length}"


SMALL = SubjectConfig(
    tokenizer="byte",
    context=32,
    layer=0,
    windows=64,
    own=OwnModel(
        TransformerConfig(depth=2, width=16, heads=2, mlp_width=32, unroll=2),
        Training(8, 8, optimizer=OptimizerConfig("muon", 1e-2, warmup_steps=2), steps_per_dispatch=4),
    ),
)
"""Of presets of seconds."""
GPT2 = SubjectConfig("gpt2", "tfds:wiki40b/en", tokenizer="", context=512, layer=5, windows=400_000, keep=False)
"""Of presets of the published size."""


class HeldOut(NamedTuple):
    """Activations to judge on, all positions of some windows one after another.

    losses: nats of predicting the token after each position; None of an encoder.
    """

    rows: Float[np.ndarray, "tokens width"]
    losses: Float[np.ndarray, " tokens"] | None


class Subject(Protocol):
    """A model made ready: `held_out` has windows of their own for every seed."""

    width: int
    source: ActivationSource
    calibration: Float[np.ndarray, "tokens width"]
    held_out: Sequence[HeldOut]
    fingerprint: str

    def splice(self, edit: Edit) -> Callable[[Any, int], float]:
        """`measure(extra, seed)`: the output with every activation exchanged, on the windows of seed number `seed`.

        A language model: mean loss in nats per token. An encoder: mean cosine of a sentence's embedding to what it was.
        """
        ...


@dataclass(frozen=True, eq=False)
class LanguageSubject:
    """A `Subject` that is a language model. text: held-out windows."""

    config: TransformerConfig
    lexicon: LexiconConfig
    vocab: int
    params: Params
    tokenizer: Tokenizer
    site: Site
    text: Windows
    source: ActivationSource
    calibration: Float[np.ndarray, "tokens width"]
    windows: Sequence[Int[np.ndarray, "windows time"]]
    held_out: Sequence[HeldOut]
    fingerprint: str

    @property
    def width(self) -> int:
        return self.config.width

    @cached_property
    def activations(self) -> ActivationsFn:
        return make_activations(self.config, self.lexicon, self.vocab, self.site)

    def read(self, windows: Int[np.ndarray, "windows time"]) -> Float[np.ndarray, "tokens width"]:
        """Activations at every position but the last of each window, which are those that have something to predict."""
        return read_windows(self.activations, self.params, windows)

    def splice(self, edit: Edit) -> Callable[[Any, int], float]:
        spliced = make_spliced_nll(self.config, self.lexicon, self.vocab, self.site)
        compiled = jax.jit(lambda params, batch, extra: spliced(params, batch, unused_key(), lambda x: edit(extra, x)))

        def measure(extra: Any, seed: int) -> float:
            windows, nats = self.windows[seed], []
            for chosen in blocks(
                len(windows)
            ):  # the first token of a window is predicted from BOS alone, and nothing is changed there
                batch = {"tokens": jnp.asarray(windows[chosen], jnp.int32), "row": jnp.asarray(chosen, jnp.int32)}
                nats.append(np.asarray(compiled(self.params, batch, extra))[:, 1:])
            return float(np.concatenate(nats)[: len(windows)].mean())

        return measure


def unused_key() -> jax.Array:
    """The key of models that draw nothing. A function, since making a key starts JAX's backend, which importing must not."""
    return jax.random.key(0)


def blocks(count: int) -> Int[np.ndarray, "blocks size"]:
    """Numbers 0 to `count` - 1 in rows of equal length, the last filled up with 0."""
    size = min(BLOCK, count)
    numbers = np.zeros((-(-count // size), size), np.int64)
    numbers.reshape(-1)[:count] = np.arange(count)
    return numbers


def open_language_model(config: SubjectConfig, tokens: int, seeds: int, workspace: Workspace) -> LanguageSubject:
    """Train or load the model, and read its activations: at least `tokens` for each of `seeds`, and as many for calibration.

    Raises `InvalidConfig` where the corpus has not so much text or the model not so many layers.
    """
    if config.model == "own":
        corpus = load_corpus(config.corpus)
        model, lexicon = config.own.transformer, LexiconConfig("standard")
        tokenizer = load_tokenizer(config.tokenizer, corpus)
        vocab, params = tokenizer.vocab_size, None
    else:  # a folder that holds no model is refused before a large corpus is fetched
        world = open_pretrained(config.model, workspace)
        found, tokenizer = world.model, world.tokenizer
        model, lexicon, vocab, params = found.config, found.lexicon, found.vocab, found.params
        corpus = load_corpus(config.corpus)
    streams = {split: token_stream(corpus, split, tokenizer) for split in ("train", "validation", "test")}
    note_folded(workspace, corpus.name, tokenizer.name, {split: stream.folded for split, stream in streams.items()})
    train, validation, test = (window_source(stream, config.context) for stream in streams.values())
    count = len(train) - 1  # the very last may be padded
    require(config.windows <= count, "windows", config.windows, f"at most the {count} of the corpus")
    if params is None:
        identity = {"fingerprint": corpus.fingerprint, "tokenizer": config.tokenizer, "context": config.context}
        params = shared_seeds(identity, model, lexicon, vocab, train, config.own.training, workspace).params[0]
    site = Site(config.layer, "residual_out")
    activations, nll = make_activations(model, lexicon, vocab, site), make_nll(model, lexicon, vocab)
    chosen = np.random.default_rng(0).permutation(count)[: config.windows]
    subset = replace(train, starts=train.starts[chosen], stops=train.stops[chosen])
    source = model_activations(activations, params, subset, BLOCK, unused_key())
    each = -(-tokens // (config.context - 1))
    shares = np.split(evaluation_windows(test, seeds * each, seed=0), seeds)
    held_out = [
        HeldOut(
            read_windows(activations, params, windows),
            evaluate_by_position(nll, params, windows, unused_key(), BLOCK)[:, 1:].reshape(-1),
        )
        for windows in shares
    ]
    return LanguageSubject(
        model,
        lexicon,
        vocab,
        params,
        tokenizer,
        site,
        test,
        kept(source) if config.keep else source,
        read_windows(activations, params, evaluation_windows(validation, each, seed=0)),
        shares,
        held_out,
        corpus.fingerprint,
    )


def read_windows(
    activations: ActivationsFn, params: Params, windows: Int[np.ndarray, "windows time"]
) -> Float[np.ndarray, "tokens width"]:
    """Activations at every position but the last of each window, one window after another."""
    whole = array_windows(windows.reshape(-1).astype(np.uint32), windows.shape[1])
    found = model_activations(activations, params, whole, BLOCK, unused_key())
    return np.concatenate([found.block(index) for index in range(len(found.block_rows))])


def kept(source: ActivationSource) -> ComputedActivations:
    """The same source, of which every block is computed once and then held in memory."""
    return ComputedActivations(source.width, source.block_rows, cache(source.block))
