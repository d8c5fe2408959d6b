"""Processor seconds of training a hypernetwork that gives a model its rows, and of a model of words, against language models of tokens.

A step of the hypernetwork reads as many tokens as the language model's own step, through the frozen language model (method card
zero-shot-tokenizer-transfer). The model of words is the hierarchical one, with as many operations by byte as the other, on windows of as
many bytes (method card hierarchical-autoregressive-transformers). Batches are made before; the sides take turns in one process.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import in_parts, warm
from experiments.benchmarks.promises import bars, mark, promise, speed, times
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, panels
from experiments.harness.verdicts import Claim, below
from experiments.harness.workspace import Workspace
from experiments.subjects import hypernetworks, unit_models
from experiments.subjects.hypernetworks import HypernetworksConfig, batches, make_transfer
from experiments.subjects.text import STANDARD
from experiments.subjects.tokenized_models import (
    BYTES,
    TINY,
    TokenizedConfig,
    TokenizedModels,
    load_text_tokenizer,
    matched,
)
from experiments.subjects.unit_models import SpelledConfig, spelled_loss, word_text
from lexinv.data.corpora import load_corpus
from lexinv.data.windows import token_stream, window_source
from lexinv.nn.flops import forward_flops
from lexinv.nn.language_model import initialize, make_loss
from lexinv.training.optimizers import OptimizerConfig, make_optimizer
from lexinv.training.state import create_state
from lexinv.training.step import make_train_step
from lexinv.transfer import hypernetwork, word_model
from lexinv.validation import Checked, Count

PAPERS = ()
HYPERNETWORK, MODEL, HAT, TOKENS = "hypernetwork", "language model", "HAT", "BPE"


@dataclass(frozen=True)
class Config(Checked):
    """like: text, cost and context of the models. source: tokenizer of the model that a hypernetwork serves. tokens: of the model that
    words are held against. calls: steps of a round."""

    like: TokenizedConfig = TokenizedConfig()
    source: str = "bpe:1024"
    tokens: str = "bpe:4096"
    hypernetworks: HypernetworksConfig = HypernetworksConfig()
    words: SpelledConfig = SpelledConfig()
    rounds: Count = 7
    calls: Count = 10


PRESETS = presets(
    Config(),
    smoke={
        **{name.replace("models.", "like."): value for name, value in TINY.items()},
        **{f"hypernetworks.{name}": value for name, value in hypernetworks.TINY.items()},
        "source": "bpe:300",
        "tokens": "bpe:300",
        "rounds": 2,
        "calls": 1,
    },
    paper={"rounds": 15},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Processor seconds of a round of each side."""
    corpora = workspace.pinned("corpora", {config.like.corpus: load_corpus(config.like.corpus).fingerprint})
    return {"corpora": corpora} | in_parts(workspace, (rows, words), config)


def stepping(params: Any, loss: Callable[..., Any], batch: Any, calls: int) -> Callable[[], Any]:
    """So many training steps on one batch, which go on from those before."""
    optimizer = make_optimizer(OptimizerConfig(), 1_000_000)
    step = make_train_step(loss, optimizer)
    state = create_state(params, optimizer, jax.random.key(0))
    given = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], batch)

    def call() -> None:
        nonlocal state
        for _ in range(calls):
            state, metrics = step(state, given)
        jax.block_until_ready(metrics)

    return call


def token_model(name: str, config: Config) -> tuple[TokenizedModels, dict[str, np.ndarray]]:
    """A model of tokens that was not trained, and a batch of windows."""
    like = config.like
    corpus, budget = load_corpus(like.corpus), forward_flops(like.model, BYTES, like.context_bytes)
    tokenizer = load_text_tokenizer(name, corpus)
    stream, vocab = token_stream(corpus, "train", tokenizer), tokenizer.vocab_size
    density = float(tokenizer.token_bytes[stream.tokens].mean())
    context = round(like.context_bytes / density)
    model = matched(like.model, vocab, context, budget * density)
    params, flops = initialize(model, STANDARD, vocab, jax.random.key(0)), forward_flops(model, vocab, context)
    windows = window_source(stream, context).gather(np.arange(like.training.batch_size))
    found = TokenizedModels(tokenizer, model, [params], context, density, flops / density, 0.0, {}, windows, "")
    return found, {"tokens": windows, "row": np.arange(len(windows), dtype=np.int32)}


def rows(config: Config, _: Path) -> dict[str, Any]:
    """Steps of a hypernetwork, and of its language model on as many tokens."""
    models, found = token_model(config.source, config)
    chosen, tokenizer, corpus = config.hypernetworks, models.tokenizer, load_corpus(config.like.corpus)
    [params], key = models.params, jax.random.key(1)
    anchors = jnp.asarray(hypernetwork.target_surface(tokenizer, tokenizer, chosen.network.length))
    learned = hypernetwork.initialize(chosen.network, key, (params["table"],), anchors)
    training = replace(chosen.training, steps_per_dispatch=1)
    batch = jax.tree.map(lambda leaf: leaf[0], batches(chosen, training, tokenizer, corpus)(0)[0])
    given = {"learned": learned, "given": {"model": params["model"], "table": params["table"]}}
    shape = batch["tokens"].shape
    own = {"tokens": np.resize(found["tokens"], shape), "row": np.arange(shape[0], dtype=np.int32)}
    sides = {
        HYPERNETWORK: stepping(given, make_transfer(chosen, models), batch, config.calls),
        MODEL: stepping(params, make_loss(models.model, STANDARD, tokenizer.vocab_size), own, config.calls),
    }
    return {"tokens": list(shape), "seconds": warm(sides, config.rounds)}


def words(config: Config, _: Path) -> dict[str, Any]:
    """Steps of the hierarchical model and of one of tokens, and the bytes that each reads in a step."""
    like, chosen = config.like, config.words
    models, batch = token_model(config.tokens, config)
    corpus, vocab = load_corpus(like.corpus), models.tokenizer.vocab_size
    text = word_text(corpus, ("train",), chosen.rule, chosen.most, like.context_bytes)
    windows, sample = text.windows["train"], text.lengths[text.windows["train"].tokens[:200_000]]
    budget = forward_flops(like.model, BYTES, like.context_bytes)
    model = unit_models.matched(chosen, sample, windows.length, budget)
    spelled = {"tokens": windows.gather(np.arange(like.training.batch_size)), "row": batch["row"]}
    sides = {
        HAT: stepping(
            word_model.initialize(model, jax.random.key(0)), spelled_loss(model, text), spelled, config.calls
        ),
        TOKENS: stepping(models.params[0], make_loss(models.model, STANDARD, vocab), batch, config.calls),
    }
    read = {HAT: text.lengths[spelled["tokens"]].sum(), TOKENS: models.tokenizer.token_bytes[batch["tokens"]].sum()}
    by_byte = {HAT: word_model.word_flops(model, sample, windows.length), TOKENS: models.flops}
    return {
        "bytes": {side: int(count) for side, count in read.items()},
        "flops_by_byte": {side: float(count) for side, count in by_byte.items()},
        "seconds": warm(sides, config.rounds),
    }


def bytes_a_second(results: dict[str, Any]) -> Any:
    """HAT's over BPE's."""
    seconds, read = results["words"]["seconds"], results["words"]["bytes"]
    share = read[HAT] / read[TOKENS]
    return times(share * np.asarray(seconds[TOKENS]), seconds[HAT])


def claims(results: dict[str, Any]) -> list[Claim]:
    seconds, cost = results["rows"]["seconds"], results["words"]["flops_by_byte"]
    return [
        *promise(
            "hypernetwork_step_at_most_twice",
            "A training step of the hypernetwork takes at most twice the language model's on as many tokens.",
            {MODEL: times(seconds[HYPERNETWORK], seconds[MODEL])},
            below(2.0),
            "times as long",
        ),
        *speed(
            "words_keep_speed",
            f"The hierarchical model trains on at least .6 of the bytes a second of BPE's, at {cost[HAT] / cost[TOKENS]:.2f} of its "
            "operations by byte.",
            {TOKENS: bytes_a_second(results)},
            0.6,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Both ratios, with what is promised."""
    drawn, (steps, read) = panels(1, 2, height=1.8, titles=("A step, times the model's", "Bytes a second, of BPE's"))
    seconds = results["rows"]["seconds"]
    bars(steps, {HYPERNETWORK: times(seconds[HYPERNETWORK], seconds[MODEL])}, BLUE)
    mark(steps, 2.0)
    bars(read, {HAT: bytes_a_second(results)}, BLUE)
    mark(read, 0.6)
    return drawn
