"""Language models of one text under several tokenizers: equal compute and context by the byte, learning rates tried alike for all."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Training, scaled, train
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import shared_seeds
from experiments.subjects.text import STANDARD
from lexinv.data.byte_level import SEPARATOR
from lexinv.data.cache import prepared
from lexinv.data.corpora import Corpus, load_corpus
from lexinv.data.tokenizers import Tokenizer, bits_per_byte, load_tokenizer, of_library
from lexinv.data.windows import Windows, evaluation_windows, token_stream, window_source
from lexinv.nn.flops import forward_flops
from lexinv.nn.language_model import Params, initialize, make_loss, make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization import superbpe
from lexinv.training.evaluation import evaluate_by_position
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Distinct, Positive, require

BYTES = 257
"""Ids of the tokenizer `byte`."""
TRIAL_SEED = 100
"""Of the models whose validation loss decides the learning rate; no claim is about them."""


@dataclass(frozen=True)
class TokenizedConfig(Checked):
    """tokenizers: of `load_tokenizer`, and superbpe:V, whose last tenth are superwords. context_bytes: of a window, on average over the
    text that models are trained on. model: of bytes; the others have its depth and heads, and a width and an MLP with which a byte costs as
    many operations. rates: each tried by every tokenizer on a quarter of the steps."""

    corpus: str = "kjv"
    tokenizers: Distinct[str] = ("byte", "bpe:1024", "bpe:4096", "superbpe:4096")
    context_bytes: Count = 256
    model: TransformerConfig = TransformerConfig(depth=2, width=64, heads=4, mlp_width=256, unroll=2, output="tied")
    training: Training = Training(
        steps=800, batch_size=16, seeds=(0, 1, 2), optimizer=OptimizerConfig(warmup_steps=50), steps_per_dispatch=10
    )
    rates: Distinct[Positive] = (3e-3, 1e-2, 3e-2)
    windows: Count = 64

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.training.steps % 4 == 0, "training.steps", "a multiple of 4: a quarter tries the learning rates"
        longest = self.model.max_length
        yield self.context_bytes <= longest, "context_bytes", f"at most model.max_length = {longest}"
        yield TRIAL_SEED not in self.training.seeds, "training.seeds", f"others than {TRIAL_SEED}, of the trials"


TINY = {
    "models.corpus": "python-docs",
    "models.tokenizers": ("bpe:300", "superbpe:320"),
    "models.context_bytes": 48,
    "models.model": TransformerConfig(depth=1, width=32, heads=2, mlp_width=64, output="tied"),
    "models.training.steps": 40,
    "models.training.seeds": (0, 1),
    "models.training.optimizer.warmup_steps": 5,
    "models.rates": (3e-3,),
    "models.windows": 4,
}
"""Of a configuration that holds it as `models`."""


@dataclass(frozen=True)
class TokenizedModels:
    """Models of one tokenizer. params: a tree for each seed. flops: forward operations by byte. tried: validation bits by rate.

    held_out: windows of the test split, alike for all seeds."""

    tokenizer: Tokenizer
    model: TransformerConfig
    params: list[Params]
    context: int
    bytes_per_token: float
    flops: float
    rate: float
    tried: dict[str, float]
    held_out: Int32[np.ndarray, "windows time"]
    identity: str

    def described(self) -> dict[str, Any]:
        """What a record says of them."""
        model = {"width": self.model.width, "mlp_width": self.model.mlp_width, "context": self.context}
        costs = {"bytes_per_token": self.bytes_per_token, "flops_per_byte": self.flops}
        return {**model, **costs, "learning_rate": self.rate, "bits_by_learning_rate": self.tried}

    def bits(self) -> list[float]:
        """Of each seed, per byte of the held-out windows."""
        return [_bits(self.model, self.tokenizer, params, self.held_out) for params in self.params]


def load_text_tokenizer(name: str, corpus: Corpus, cache: Path | None = None) -> Tokenizer:
    """As `load_tokenizer`, and superbpe:V."""
    kind, _, size = name.partition(":")
    if kind != "superbpe":
        return load_tokenizer(name, corpus, cache)
    import tokenizers

    require(size.isdecimal() and int(size) >= 258, "tokenizer", name, "superbpe:V with V at least 258")

    def build(folder: Path) -> None:
        tokens = int(size) - 1  # and the separator
        trained = superbpe.train(corpus.splits["train"], max(int(0.9 * tokens), 256), tokens, name=name)
        trained.library().save(str(folder / "tokenizer.json"))

    folder = prepared(cache, "tokenizers", f"superbpe-{size}-{corpus.fingerprint}", build)
    return of_library(name, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), SEPARATOR)


def tokenized_models(config: TokenizedConfig, workspace: Workspace) -> dict[str, TokenizedModels]:
    """By tokenizer; trained once, or found in the user's cache."""
    corpus = load_corpus(config.corpus)
    found: dict[str, TokenizedModels] = {}
    budget = forward_flops(config.model, BYTES, config.context_bytes)
    for name in config.tokenizers:
        tokenizer = load_text_tokenizer(name, corpus)
        streams = {split: token_stream(corpus, split, tokenizer) for split in corpus.splits}
        density = float(tokenizer.token_bytes[streams["train"].tokens].mean())
        context = round(config.context_bytes / density)
        windows = {split: window_source(stream, context) for split, stream in streams.items()}
        model = matched(config.model, tokenizer.vocab_size, context, budget * density)
        flops = forward_flops(model, tokenizer.vocab_size, context) / density
        alone = len(config.rates) == 1
        tried = {} if alone else _trials(config, model, tokenizer, windows, corpus.fingerprint, workspace)
        rate = config.rates[0] if alone else min(tried, key=tried.__getitem__)
        training = replace(config.training, optimizer=replace(config.training.optimizer, learning_rate=rate))
        text = _text(corpus.fingerprint, tokenizer, context)
        shared = shared_seeds(text, model, STANDARD, tokenizer.vocab_size, windows["train"], training, workspace)
        found[name] = TokenizedModels(
            tokenizer,
            model,
            shared.params,
            context,
            density,
            flops,
            rate,
            {f"{tested:g}": bits for tested, bits in tried.items()},
            evaluation_windows(windows["test"], config.windows, seed=0),
            shared.identity,
        )
    return found


def matched(like: TransformerConfig, vocab: int, context: int, flops: float) -> TransformerConfig:
    """The model whose forward operations by token are nearest to `flops`, of those with widths of whole heads and MLPs of 3 to 5 widths."""
    step = 4 * like.heads
    made = (
        replace(like, width=width, mlp_width=mlp)
        for width in range(step, 8 * like.width + 1, step)
        for mlp in range(3 * width, 5 * width + 1, 8)
    )
    return min(made, key=lambda model: abs(forward_flops(model, vocab, context) - flops))


def _text(fingerprint: str, tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    return {"corpus": fingerprint, "tokenizer": tokenizer.fingerprint, "context": context}


def _trials(
    config: TokenizedConfig,
    model: TransformerConfig,
    tokenizer: Tokenizer,
    windows: dict[str, Windows],
    fingerprint: str,
    workspace: Workspace,
) -> dict[float, float]:
    """Validation bits per byte by learning rate, after a quarter of the steps."""
    vocab, training = (
        tokenizer.vocab_size,
        replace(config.training, steps=config.training.steps // 4, seeds=(TRIAL_SEED,)),
    )
    members = tuple((TRIAL_SEED, rate) for rate in config.rates)

    def trained(shared: Workspace) -> list[Params]:
        start, loss = partial(initialize, model, STANDARD, vocab), make_loss(model, STANDARD, vocab)
        return train("rates", start, loss, windows["train"], training, shared, members=members, optimizer=scaled)

    text = _text(fingerprint, tokenizer, windows["train"].length)
    parts = {"text": text, "model": asdict(model), "training": asdict(training), "rates": config.rates, "vocab": vocab}
    params = shared_models(parts, trained, workspace).params
    held = evaluation_windows(windows["validation"], config.windows, seed=0)
    return {rate: _bits(model, tokenizer, each, held) for rate, each in zip(config.rates, params, strict=True)}


def _bits(model: TransformerConfig, tokenizer: Tokenizer, params: Params, windows: np.ndarray) -> float:
    nats = evaluate_by_position(make_nll(model, STANDARD, tokenizer.vocab_size), params, windows, jax.random.key(0), 16)
    return bits_per_byte(nats, windows, tokenizer)
