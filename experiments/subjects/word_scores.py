"""The next word of a text by models of bytes, of tokens and of words, all asked for the same thing: its letters, and that it ends there."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.subjects.spelled_models import SpelledModels
from experiments.subjects.text import STANDARD
from experiments.subjects.tokenized_models import TokenizedModels
from experiments.subjects.vocabulary_transfers import windows_of
from lexinv.data.corpora import Corpus
from lexinv.data.windows import PADDING
from lexinv.nn.language_model import Params, make_logits
from lexinv.transfer.word_model import SYMBOLS, WordModel, targets
from lexinv.transfer.words import SEPARATOR, WordBatch, cut, pack, split

BATCH, BUCKET = 16, 64
"""Texts read at a time; tokens or words of a batch are a multiple, so that few programs are compiled."""
GAP = b" \n\t" + SEPARATOR
"""A word has ended where one of these comes."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Symbols(NamedTuple):
    """What a model says of one text, symbol by symbol.

    begins: the byte where it begins, -1 for the end of a word in a model of words. owner: the byte to whose word it belongs. gap: ln p that
    what comes instead begins with white space. hit, gap_hit: whether it, or something in its place that does, is the likeliest.
    """

    begins: Int[np.ndarray, " symbols"]
    owner: Int[np.ndarray, " symbols"]
    nats: Float[np.ndarray, " symbols"]
    hit: Bool[np.ndarray, " symbols"]
    gap: Float[np.ndarray, " symbols"]
    gap_hit: Bool[np.ndarray, " symbols"]


Reader = Callable[[Params, Sequence[bytes]], list[Symbols]]


@dataclass(frozen=True)
class Case:
    """A word [begins, ends) of a text, its space before it included; the text ends with the space after it."""

    text: bytes
    begins: int
    ends: int


def judged(logits: Any, wanted: Any, gaps: Any) -> tuple[Any, ...]:
    """(nats, hit, gap, gap_hit) of each symbol; gaps: which symbols begin with white space."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    found = jnp.take_along_axis(log_probs, jnp.maximum(wanted, 0)[..., None], axis=-1)[..., 0]
    best = jnp.argmax(logits, axis=-1)
    gap = jax.nn.logsumexp(jnp.where(gaps, log_probs, -jnp.inf), axis=-1)
    return -found, best == wanted, gap, gaps[best]


def reader(models: TokenizedModels | SpelledModels) -> Reader:
    return _of_words(models) if isinstance(models, SpelledModels) else _of_tokens(models)


def _of_tokens(models: TokenizedModels) -> Reader:
    tokenizer = models.tokenizer
    logits = make_logits(models.model, STANDARD, tokenizer.vocab_size)
    gaps = np.array([piece[:1] in (b" ", b"\n", b"\t", b"") for piece in tokenizer.pieces])
    key = jax.random.key(0)
    run = jax.jit(lambda params, batch: judged(logits(params, batch, key), batch["tokens"], jnp.asarray(gaps)))

    def read(params: Params, texts: Sequence[bytes]) -> list[Symbols]:
        found = []
        for part in _batches(texts):
            rows = windows_of(tokenizer, [text.decode() for text in part])
            rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BUCKET)), constant_values=PADDING)
            said = [
                np.asarray(each) for each in run(params, {"tokens": rows, "row": np.arange(len(rows), dtype=np.int32)})
            ]
            for row, ids in enumerate(rows):
                sizes = tokenizer.token_bytes[ids[ids >= 0]]
                begins = np.cumsum(sizes) - sizes
                found.append(Symbols(begins, begins, *(each[row, : len(sizes)] for each in said)))
        return found[: len(texts)]

    return read


def _of_words(models: SpelledModels) -> Reader:
    model, config = WordModel(models.model), models.config
    gaps = np.isin(np.arange(SYMBOLS), np.frombuffer(GAP, np.uint8))

    @jax.jit
    def run(params: Params, batch: WordBatch) -> tuple[Any, ...]:
        logits: Any = model.apply({"params": params}, batch)
        return judged(logits, targets(batch), jnp.asarray(gaps))

    def read(params: Params, texts: Sequence[bytes]) -> list[Symbols]:
        found = []
        for part in _batches(texts):
            rows = [cut(split(text, config.rule), config.most)[0] for text in part]
            batch = pack(rows, config.most, -(-max(map(len, rows)) // BUCKET) * BUCKET)
            said = [np.asarray(each) for each in run(params, batch)]
            for row, spelled in enumerate(rows):
                sizes = np.array(list(map(len, spelled)))
                there = np.arange(config.most + 1)[None] <= sizes[:, None]
                begins = (np.cumsum(sizes) - sizes)[:, None] + np.arange(config.most + 1)[None]
                ended = np.arange(config.most + 1)[None] == sizes[:, None]
                places = np.where(ended, -1, begins)[there], (begins - ended)[there]
                found.append(Symbols(*places, *(each[row, : len(sizes)][there] for each in said)))
        return found[: len(texts)]

    return read


def _batches(texts: Sequence[bytes]) -> list[list[bytes]]:
    """Of as many texts each; the last is filled up with copies of its first."""
    parts = [list(texts[first : first + BATCH]) for first in range(0, len(texts), BATCH)]
    parts[-1] += [parts[-1][0]] * (BATCH - len(parts[-1]))
    return parts


def score(symbols: Symbols, case: Case) -> tuple[float, bool]:
    """(p(the word and its end), whether both are the likeliest at every symbol)."""
    own = (symbols.owner >= case.begins) & (symbols.owner < case.ends)
    end = np.flatnonzero(symbols.begins == case.ends)[0]
    chance = float(np.exp(symbols.gap[end] - symbols.nats[own].sum(dtype=np.float64)))
    return chance, bool(symbols.hit[own].all() and symbols.gap_hit[end])


def bits(symbols: Sequence[Symbols], texts: Sequence[bytes], begins: Sequence[int] | None = None) -> float:
    """Per byte of the texts, each from `begins` on."""
    begins = [0] * len(texts) if begins is None else begins
    nats = sum(
        float(each.nats[each.owner >= first].sum(dtype=np.float64)) for each, first in zip(symbols, begins, strict=True)
    )
    return nats / np.log(2) / sum(len(text) - first for text, first in zip(texts, begins, strict=True))


def core(word: str) -> str:
    return word.strip(" .,;:!?()'\"").lower()


def word_counts(corpus: Corpus) -> tuple[Counter[str], Counter[str]]:
    """Of the training text: words between white space, and the same without case and punctuation."""
    counts = Counter(word for text in corpus.splits["train"] for word in text.split())
    cores: Counter[str] = Counter()
    for word, count in counts.items():
        cores[core(word)] += count
    return counts, cores


def cases(
    corpus: Corpus, name: str, count: int, size: int, seed: int, cores: Mapping[str, int], most: int | None = None
) -> list[Case]:
    """Words of a split between single spaces after about `size` bytes of ASCII; with `most`, those of 1 to so many training cores."""
    random, found = np.random.default_rng(seed), []
    texts = [text for text in corpus.splits[name] if text.isascii()]
    places = [
        (number, match.span())
        for number, text in enumerate(texts)
        for match in re.finditer(r"(?<=\S) \S+(?= )", text)
        if match.start() > size and (most is None or 1 <= cores.get(core(match[0]), 0) <= most)
    ]
    for chosen in random.permutation(len(places))[:count].tolist():
        number, (begins, ends) = places[chosen]
        found.append(Case(texts[number][: ends + 1].encode(), begins, ends))
    return [shortened(case, size) for case in found]


def shortened(case: Case, size: int) -> Case:
    """The same word after at most `size` bytes, from the first space in them on."""
    first = max(case.text.find(b" ", max(case.begins - size, 0)), 0)
    return Case(case.text[first:], case.begins - first, case.ends - first)


def perturbed(text: str, kind: str, share: float, seed: int) -> str:
    """caps: all of it. permuted, replaced, deleted: that share of the letters, each with the next one, by another, or for good."""
    if kind == "caps":
        return text.upper()
    random, letters = np.random.default_rng(seed), list(text)
    for place in range(len(letters)):
        if letters[place].isalpha() and random.random() < share:
            if kind == "deleted":
                letters[place] = ""
            elif kind == "replaced":
                letters[place] = LETTERS[random.integers(len(LETTERS))]
            elif place + 1 < len(letters) and letters[place + 1].isalpha():
                letters[place : place + 2] = letters[place + 1], letters[place]
    return "".join(letters)


def seen_share(corpus: Corpus, count: int, size: int = 64) -> float:
    """The share of held-out strings of `size` characters that the training text has."""
    random, known = np.random.default_rng(0), "\0".join(corpus.splits["train"])
    texts = [text for text in corpus.splits["test"] if len(text) > size]
    found = 0
    for _ in range(count):
        text = texts[random.integers(len(texts))]
        begins = random.integers(len(text) - size)
        found += text[begins : begins + size] in known
    return found / count
