"""Language models whose units are bytes, tokens, words that are spelled, or words of a closed vocabulary: equal in cost by the byte.

Every kind tries the same optimisers and learning rates.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Training, scaled, train
from experiments.harness.workspace import Workspace
from experiments.subjects.text import STANDARD
from experiments.subjects.tokenized_models import BYTES, TRIAL_SEED, TokenizedConfig, load_text_tokenizer
from experiments.subjects.tokenized_models import matched as matched_tokens
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import Tokenizer
from lexinv.data.windows import TokenStream, Windows, evaluation_windows, token_stream, window_source
from lexinv.nn import language_model
from lexinv.nn.flops import forward_flops
from lexinv.nn.language_model import make_loss
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.transfer import word_model, words
from lexinv.transfer.word_model import Params, WordModelConfig, make_nll, word_flops
from lexinv.transfer.words import SEPARATOR, WordBatch, cut, split
from lexinv.validation import Checked, Count

SPLITS = ("train", "validation")


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
class ClosedVocabulary:
    """Words by a rule, cut at `most` bytes: numbers of those that are known, and one more for all others, of which it has no bytes."""

    rule: str
    most: int
    pieces: tuple[bytes, ...]

    @cached_property
    def numbers(self) -> dict[bytes, int]:
        return {word: number for number, word in enumerate(self.pieces[:-1])}

    @property
    def unknown(self) -> int:
        return len(self.pieces) - 1

    def encode(self, text: bytes) -> tuple[Int[np.ndarray, " words"], Int[np.ndarray, " words"]]:
        """(numbers of a text's words, bytes of each)."""
        words = cut(split(text, self.rule), self.most)[0]
        return np.array([self.numbers.get(word, self.unknown) for word in words]), np.array(list(map(len, words)))


Units = Tokenizer | SpelledConfig | ClosedVocabulary


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
class UnitModels:
    """context: units of a window. flops: forward operations by byte. left_out: the share of words that are cut, or not known.

    params: a tree for each seed. optimizer: the best of those tried. tried: validation bits per byte.
    """

    units: Units
    model: TransformerConfig | WordModelConfig
    context: int
    bytes_per_unit: float
    flops: float
    left_out: float
    params: list[Params]
    optimizer: OptimizerConfig
    tried: dict[OptimizerConfig, float]

    def described(self) -> dict[str, Any]:
        """What a record says of them."""
        backbone = self.model.backbone if isinstance(self.model, WordModelConfig) else self.model
        sizes = {"width": backbone.width, "mlp_width": backbone.mlp_width, "context": self.context}
        costs = {"bytes_per_unit": self.bytes_per_unit, "flops_per_byte": self.flops, "left_out": self.left_out}
        tried = {setting(optimizer): bits for optimizer, bits in self.tried.items()}
        return {**sizes, **costs, "setting": setting(self.optimizer), "bits_by_setting": tried}


class Tuning(NamedTuple):
    """like: text, context, steps, rates and cost. optimizers: each tried with each rate of `like`."""

    like: TokenizedConfig
    optimizers: tuple[str, ...]
    corpus: Corpus
    workspace: Workspace

    @property
    def budget(self) -> float:
        """Forward operations by byte."""
        return forward_flops(self.like.model, BYTES, self.like.context_bytes)


def setting(optimizer: OptimizerConfig) -> str:
    return f"{optimizer.name} {optimizer.learning_rate:g}"


def tuned(
    content: Mapping[str, Any],
    start: Callable[..., Params],
    loss: Callable[..., tuple[Float[Array, ""], dict[str, Array]]],
    windows: Mapping[str, Windows],
    per_byte: float,
    tuning: Tuning,
    sources: Sequence[ModuleType],
) -> tuple[list[Params], OptimizerConfig, dict[OptimizerConfig, float]]:
    """(parameters of each seed, their optimiser, validation bits per byte by setting); trained once, or found in the user's cache.

    Settings are tried on a quarter of the steps, on a seed that no claim is about. per_byte: how many of what `loss` is a mean over.
    """
    training, rates = tuning.like.training, tuning.like.rates

    def shared(training: Training, members: Any = None) -> list[Params]:
        def trained(where: Workspace) -> list[Params]:
            source, options = windows["train"], {"members": members, "optimizer": scaled}
            return train("units", start, loss, source, training, where, tokens=source.length, **options)

        parts = {**content, "training": asdict(training), "members": members}
        return shared_models(parts, trained, tuning.workspace, sources).params

    def with_optimizer(name: str, rate: float) -> OptimizerConfig:
        return replace(training.optimizer, name=name, learning_rate=rate)

    held = evaluation_windows(windows["validation"], tuning.like.windows, seed=0)
    batches = np.array_split(held, max(len(held) // 16, 1))
    cost = jax.jit(lambda params, rows: loss(params, rows, jax.random.key(0))[0])
    members = tuple((TRIAL_SEED, rate) for rate in rates)
    tried: dict[OptimizerConfig, float] = {}
    for name in tuning.optimizers if len(rates) * len(tuning.optimizers) > 1 else ():
        optimizer = with_optimizer(name, 1.0)
        quarter = replace(training, steps=training.steps // 4, seeds=(TRIAL_SEED,), optimizer=optimizer)
        for rate, params in zip(rates, shared(quarter, members), strict=True):
            each = [float(cost(params, {"tokens": rows, "row": np.arange(len(rows))})) for rows in batches]
            tried[with_optimizer(name, rate)] = float(np.mean(each)) * per_byte / np.log(2)
    best = min(tried, key=tried.__getitem__, default=with_optimizer(tuning.optimizers[0], rates[0]))
    return shared(replace(training, optimizer=best)), best, tried


def token_models(name: str, tuning: Tuning) -> UnitModels:
    """Of a tokenizer by name: see `load_text_tokenizer`."""
    tokenizer = load_text_tokenizer(name, tuning.corpus)
    streams = {each: token_stream(tuning.corpus, each, tokenizer) for each in SPLITS}
    density = float(tokenizer.token_bytes[streams["train"].tokens].mean())
    context = round(tuning.like.context_bytes / density)
    windows = {each: window_source(stream, context) for each, stream in streams.items()}
    return _of_table(tokenizer, tokenizer.fingerprint, windows, density, 0.0, tuning)


def closed_models(known: int, like: SpelledConfig, tuning: Tuning) -> UnitModels:
    """Of the most frequent words, each one unit; `like`: how texts are split into them."""
    text = word_text(tuning.corpus, SPLITS, like.rule, like.most, tuning.like.context_bytes)
    stream = text.windows["train"].tokens
    counts = np.bincount(stream, minlength=len(text.lengths))
    frequent = np.argsort(-counts, kind="stable")[:known]
    numbers = np.full(len(counts), len(frequent), np.uint32)
    numbers[frequent] = np.arange(len(frequent))
    spelled = [row[:length].astype(np.uint8).tobytes() for row, length in zip(text.spelled, text.lengths, strict=True)]
    units = ClosedVocabulary(like.rule, like.most, (*(spelled[number] for number in frequent), b""))
    windows = {name: replace(each, tokens=numbers[each.tokens]) for name, each in text.windows.items()}
    unknown = 1 - float(counts[frequent].sum() / counts.sum())
    identity = f"{like.rule} {like.most} {len(frequent)}"
    return _of_table(units, identity, windows, float(text.lengths[stream].mean()), unknown, tuning)


def _of_table(
    units: Tokenizer | ClosedVocabulary,
    identity: str,
    windows: Mapping[str, Windows],
    density: float,
    left_out: float,
    tuning: Tuning,
) -> UnitModels:
    """Of units that have a row each in a table."""
    vocab, context = len(units.pieces), windows["train"].length
    model = matched_tokens(tuning.like.model, vocab, context, tuning.budget * density)
    start, loss = partial(language_model.initialize, model, STANDARD, vocab), make_loss(model, STANDARD, vocab)
    parts = {"text": tuning.corpus.fingerprint, "units": identity, "context": context, "model": asdict(model)}
    found = tuned(parts, start, loss, windows, 1 / density, tuning, ())
    return UnitModels(units, model, context, density, forward_flops(model, vocab, context) / density, left_out, *found)


def spelled_models(config: SpelledConfig, tuning: Tuning) -> UnitModels:
    text = word_text(tuning.corpus, SPLITS, config.rule, config.most, tuning.like.context_bytes)
    windows, context = text.windows["train"], text.windows["train"].length
    sample = text.lengths[windows.tokens[:200_000]]
    density = float(sample.mean())
    model = matched(config, sample, context, tuning.budget)
    split_by = {"rule": config.rule, "most": config.most, "context": context}
    parts = {"text": tuning.corpus.fingerprint, **split_by, "model": asdict(model)}
    start, loss = partial(word_model.initialize, model), spelled_loss(model, text)
    found = tuned(parts, start, loss, text.windows, 1 + 1 / density, tuning, (words, word_model))
    return UnitModels(config, model, context, density, word_flops(model, sample, context), text.cut, *found)


def word_text(corpus: Corpus, splits: Sequence[str], rule: str, most: int, context_bytes: int) -> WordText:
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


def matched(config: SpelledConfig, lengths: Int[np.ndarray, " words"], context: int, flops: float) -> WordModelConfig:
    """The model whose forward operations by byte are nearest to `flops`, of those with widths of whole heads and MLPs of 3 to 5 widths."""
    heads = config.backbone.heads
    made = (
        WordModelConfig(config.spelling, replace(config.backbone, width=width, mlp_width=mlp), config.positions)
        for width in range(4 * heads, 64 * heads, 4 * heads)
        for mlp in range(3 * width, 5 * width + 1, 8)
    )
    return min(made, key=lambda model: abs(word_flops(model, lengths, context) - flops))
