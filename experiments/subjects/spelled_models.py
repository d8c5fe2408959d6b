"""Models that read words and spell them, by how texts are split: a byte costs what it costs the shared models of tokens."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Training, scaled, train
from experiments.harness.workspace import Workspace
from experiments.subjects.tokenized_models import BYTES, TRIAL_SEED, TokenizedConfig
from lexinv.data.corpora import Corpus
from lexinv.data.windows import TokenStream, Windows, evaluation_windows, window_source
from lexinv.nn.flops import forward_flops
from lexinv.nn.transformer import TransformerConfig
from lexinv.transfer import word_model, words
from lexinv.transfer.word_model import Params, WordModelConfig, initialize, make_nll, word_flops
from lexinv.transfer.words import SEPARATOR, WordBatch, cut, split
from lexinv.validation import Checked, Count


@dataclass(frozen=True)
class SpelledConfig(Checked):
    """rule: see `lexinv.transfer.words.split`. most: bytes of a word; what is longer is cut. spelling: of encoder and decoder.

    backbone: depth and heads; its width is the one with which a byte costs as much as the shared models' do. positions: of a word in it.
    """

    rule: str = "unicode"
    most: Count = 12
    positions: Count = 1
    spelling: TransformerConfig = TransformerConfig(depth=1, width=32, heads=4, mlp_width=128)
    backbone: TransformerConfig = TransformerConfig(depth=2, width=128, heads=4, mlp_width=512, unroll=2)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        words.split("", self.rule)
        longest = self.spelling.max_length
        yield self.most + self.positions <= longest, "most", f"with positions at most spelling.max_length = {longest}"


@dataclass(frozen=True, eq=False)
class WordText:
    """The different words of a text, and by split windows over their numbers. cut: the share of words that are pieces of longer ones."""

    spelled: Int32[np.ndarray, "types most"]
    lengths: Int32[np.ndarray, " types"]
    windows: dict[str, Windows]
    cut: float

    def batch(self, ids: Int[Array, "batch words"] | Int[np.ndarray, "batch words"]) -> WordBatch:
        known, there = jnp.maximum(ids, 0), ids >= 0
        mask = jnp.arange(self.spelled.shape[1])[None, None] < jnp.asarray(self.lengths)[known][..., None]
        return WordBatch(jnp.asarray(self.spelled)[known], mask & there[..., None], there)


@dataclass(frozen=True, eq=False)
class SpelledModels:
    """params: a tree for each seed. flops: forward operations by byte. tried: validation bits by rate. context: words of a window."""

    config: SpelledConfig
    model: WordModelConfig
    params: list[Params]
    context: int
    bytes_per_word: float
    flops: float
    rate: float
    tried: dict[str, float]
    cut: float

    def described(self) -> dict[str, Any]:
        """What a record says of them."""
        widths = {"width": self.model.spelling.width, "backbone_width": self.model.backbone.width}
        sizes = {"backbone_mlp_width": self.model.backbone.mlp_width, "context": self.context, "cut": self.cut}
        costs = {"bytes_per_token": self.bytes_per_word, "flops_per_byte": self.flops}
        return {**widths, **sizes, **costs, "learning_rate": self.rate, "bits_by_learning_rate": self.tried}


def word_text(corpus: Corpus, splits: tuple[str, ...], rule: str, most: int, context_bytes: int) -> WordText:
    """Windows of as many words as have `context_bytes` on average in the first of the splits; documents end with `SEPARATOR`."""
    numbers: dict[bytes, int] = {}
    streams, pieces = {}, 0
    for name in splits:
        ids, ends = [], [0]
        for text in corpus.splits[name]:
            found, continued = cut(split(text, rule), most)
            pieces += int(continued.sum())
            ids += [numbers.setdefault(word, len(numbers)) for word in (*found, SEPARATOR)]
            ends.append(len(ids))
        streams[name] = TokenStream(np.array(ids, np.uint32), np.array(ends))
    lengths = np.array(list(map(len, numbers)), np.int32)
    spelled = np.zeros((len(numbers), most), np.int32)
    for row, word in zip(spelled, numbers, strict=True):
        row[: len(word)] = np.frombuffer(word, np.uint8)
    context = round(context_bytes / float(lengths[streams[splits[0]].tokens].mean()))
    windows = {name: window_source(stream, context) for name, stream in streams.items()}
    return WordText(spelled, lengths, windows, pieces / sum(len(stream.tokens) for stream in streams.values()))


def spelled_loss(model: WordModelConfig, text: WordText) -> Callable[..., tuple[Float[Array, ""], dict[str, Array]]]:
    """Mean nats of a symbol, the ends of words among them."""
    nll = make_nll(model)

    def loss(params: Params, batch: dict[str, Array], key: Any) -> tuple[Float[Array, ""], dict[str, Array]]:
        read = text.batch(batch["tokens"])
        return nll(params, read).sum() / (read.byte_mask.sum() + read.word_mask.sum()), {}

    return loss


def spelled_models(config: SpelledConfig, like: TokenizedConfig, corpus: Corpus, workspace: Workspace) -> SpelledModels:
    """Of `like`'s text, context, steps, rates and cost; trained once, or found in the user's cache.

    With Muon: Adam, which is enough for the models of tokens, leaves their backbones without use for the words before.
    """
    training = replace(like.training, optimizer=replace(like.training.optimizer, name="muon"))
    text = word_text(corpus, ("train", "validation"), config.rule, config.most, like.context_bytes)
    windows, context = text.windows["train"], text.windows["train"].length
    sample = text.lengths[windows.tokens[:200_000]]
    model = matched(config, sample, context, forward_flops(like.model, BYTES, like.context_bytes))
    parts = {"text": corpus.fingerprint, "rule": config.rule, "most": config.most, "context": context}
    loss = spelled_loss(model, text)

    def shared(name: str, training: Training, **options: Any) -> list[Params]:
        content = {**parts, "model": asdict(model), "training": asdict(training), **options}

        def trained(where: Workspace) -> list[Params]:
            members = options.get("members")
            start = partial(initialize, model)
            return train(name, start, loss, windows, training, where, members=members, optimizer=scaled, tokens=context)

        return shared_models(content, trained, workspace, (words, word_model)).params

    rate, bits = like.rates[0], {}
    if len(like.rates) > 1:
        quarter = replace(training, steps=training.steps // 4, seeds=(TRIAL_SEED,))
        tried = shared("rates", quarter, members=tuple((TRIAL_SEED, rate) for rate in like.rates))
        held = evaluation_windows(text.windows["validation"], like.windows, seed=0)
        bits = {rate: _bits(model, text, params, held) for rate, params in zip(like.rates, tried, strict=True)}
        rate = min(bits, key=bits.__getitem__)
    training = replace(training, optimizer=replace(training.optimizer, learning_rate=rate))
    return SpelledModels(
        config,
        model,
        shared("spelled", training),
        context,
        float(sample.mean()),
        word_flops(model, sample, context),
        rate,
        {f"{rate:g}": found for rate, found in bits.items()},
        text.cut,
    )


def matched(config: SpelledConfig, lengths: Int[np.ndarray, " words"], context: int, flops: float) -> WordModelConfig:
    """The model whose forward operations by byte are nearest to `flops`, of those with widths of whole heads and MLPs of 3 to 5 widths."""
    heads = config.backbone.heads
    made = (
        WordModelConfig(config.spelling, replace(config.backbone, width=width, mlp_width=mlp), config.positions)
        for width in range(4 * heads, 64 * heads, 4 * heads)
        for mlp in range(3 * width, 5 * width + 1, 8)
    )
    return min(made, key=lambda model: abs(word_flops(model, lengths, context) - flops))


def _bits(model: WordModelConfig, text: WordText, params: Params, windows: Int32[np.ndarray, "windows words"]) -> float:
    nll = jax.jit(make_nll(model))
    nats = sum(
        float(nll(params, text.batch(rows)).sum()) for rows in np.array_split(windows, max(len(windows) // 16, 1))
    )
    kept = windows[(windows >= 0) & (text.spelled[windows, 0] != SEPARATOR[0])]
    return nats / np.log(2) / float(text.lengths[kept].sum())
