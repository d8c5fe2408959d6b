"""The next word of a text by models of bytes, of tokens and of words, all asked for the same thing: its letters, and that it ends there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.subjects.text import STANDARD
from experiments.subjects.unit_models import ClosedVocabulary, SpelledConfig, UnitModels
from lexinv.data.tokenizers import Tokenizer
from lexinv.data.windows import PADDING
from lexinv.nn.language_model import Params, make_logits
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.byte_pairs import BytePairs
from lexinv.tokenization.byte_probabilities import END, Context, LogProbs, advance, next_bytes, start
from lexinv.tokenization.context_tree import tree_log_probs
from lexinv.tokenization.superbpe import LINES
from lexinv.transfer.word_model import SYMBOLS, WordModel, WordModelConfig, targets
from lexinv.transfer.words import SEPARATOR, WordBatch, cut, pack, split

BATCH, BUCKET = 16, 64
"""Texts read at a time; tokens or words of a batch are a multiple, so that few programs are compiled."""
GAP = b" \n\t" + SEPARATOR
"""A word has ended where one of these comes."""
NOISE = ("caps", "permuted", "replaced", "deleted")
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


Answers = Callable[[Sequence[Case]], list[tuple[float, bool]]]
"""(probability of the word and its end, whether it is the likeliest) of each case."""


def judged(logits: Any, wanted: Any, gaps: Any) -> tuple[Any, ...]:
    """(nats, hit, gap, gap_hit) of each symbol; gaps: which symbols begin with white space."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    found = jnp.take_along_axis(log_probs, jnp.maximum(wanted, 0)[..., None], axis=-1)[..., 0]
    best = jnp.argmax(logits, axis=-1)
    gap = jax.nn.logsumexp(jnp.where(gaps, log_probs, -jnp.inf), axis=-1)
    return -found, best == wanted, gap, gaps[best]


def reader(models: UnitModels) -> Reader:
    if isinstance(models.units, SpelledConfig) and isinstance(models.model, WordModelConfig):
        return _of_words(models.units, models.model)
    assert isinstance(models.model, TransformerConfig) and not isinstance(models.units, SpelledConfig)
    return _of_table(models.units, models.model)


def _of_table(units: Tokenizer | ClosedVocabulary, model: TransformerConfig) -> Reader:
    """A word that is not known has no probability, and may be what begins with white space."""
    logits, key = make_logits(model, STANDARD, len(units.pieces)), jax.random.key(0)
    gaps = np.array([not piece[:1].strip(GAP) for piece in units.pieces])
    run = jax.jit(lambda params, batch: judged(logits(params, batch, key), batch["tokens"], jnp.asarray(gaps)))

    def encoded(text: bytes) -> tuple[Any, Any]:
        """(ids, bytes of each)."""
        if isinstance(units, ClosedVocabulary):
            return units.encode(text)
        ids = units.encode(text.decode())
        return ids, units.token_bytes[ids]

    def read(params: Params, texts: Sequence[bytes]) -> list[Symbols]:
        found = []
        for part in _batches(texts):
            pairs = [encoded(text) for text in part]
            longest = max(len(ids) for ids, _ in pairs)
            rows = np.full((BATCH, longest + -longest % BUCKET), PADDING, np.int32)
            for row, (ids, _) in zip(rows, pairs, strict=True):
                row[: len(ids)] = ids
            said = [np.array(each) for each in run(params, {"tokens": rows, "row": np.arange(BATCH, dtype=np.int32)})]
            if isinstance(units, ClosedVocabulary):
                said[0][rows == units.unknown], said[1][rows == units.unknown] = np.inf, False
            for row, (ids, sizes) in enumerate(pairs):
                begins = np.cumsum(sizes) - sizes
                found.append(Symbols(begins, begins, *(each[row, : len(ids)] for each in said)))
        return found[: len(texts)]

    return read


def _of_words(config: SpelledConfig, spelled: WordModelConfig) -> Reader:
    model = WordModel(spelled)
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
    """(p(the word and its end), whether both are the likeliest at every symbol). A unit that has the space after the word has its end."""
    own, end = (symbols.owner >= case.begins) & (symbols.owner < case.ends), symbols.begins == case.ends
    chance = float(np.exp(symbols.gap[end].sum() - symbols.nats[own].sum(dtype=np.float64)))
    return chance, bool(symbols.hit[own].all() and symbols.gap_hit[end].all())


def answers(models: UnitModels, params: Params, read: Reader, exact: int) -> Answers:
    """`score` of each word; for superwords that of the first `exact` byte by byte, whatever tokens hold the word: those that begin before
    it or reach beyond it are counted, too.
    """
    units, model = models.units, models.model
    if isinstance(units, Tokenizer) and units.name.startswith("superbpe") and isinstance(model, TransformerConfig):
        rows = tree_log_probs(model, params, units.vocab_size, model.max_length)
        return lambda cases: [_exact_score(_pairs(units), case, rows) for case in cases[:exact]]
    return lambda cases: [score(*pair) for pair in zip(read(params, [case.text for case in cases]), cases, strict=True)]


@cache
def _pairs(tokenizer: Tokenizer) -> BytePairs:
    """Of superwords, which takes seconds."""
    return BytePairs(tokenizer, LINES)


def _exact_score(pairs: BytePairs, case: Case, model: LogProbs) -> tuple[float, bool]:
    rows: dict[Context, Any] = {}

    def asked(contexts: Sequence[Context]) -> Float[np.ndarray, "contexts vocab"]:
        new = [context for context in contexts if context not in rows]
        rows.update(zip(new, model(new), strict=True) if new else ())
        return np.stack([rows[context] for context in contexts])

    state, chance, hit = start(pairs, case.text[: case.begins], asked), 1.0, True
    for byte in case.text[case.begins : case.ends]:
        found = next_bytes(state)
        chance, hit = chance * found[byte], hit and int(np.argmax(found)) == byte
        state = advance(state, byte, asked)
    last, gaps = next_bytes(state), [*GAP, END]
    return float(chance * last[gaps].sum()), bool(hit and np.argmax(last) in gaps)


def bits(symbols: Sequence[Symbols], texts: Sequence[bytes], begins: Sequence[int] | None = None) -> float:
    """Per byte of the texts, each from `begins` on."""
    begins = [0] * len(texts) if begins is None else begins
    nats = sum(
        float(each.nats[each.owner >= first].sum(dtype=np.float64)) for each, first in zip(symbols, begins, strict=True)
    )
    return nats / np.log(2) / sum(len(text) - first for text, first in zip(texts, begins, strict=True))


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


def spoilt_bits(read: Reader, params: Params, texts: Sequence[str], share: float) -> dict[str, float]:
    """Bits per byte of the second half of each text, after the first one as it is and with each of `NOISE`."""
    found = {}
    for kind in ("clean", *NOISE):
        halves, begins = [], []
        for number, text in enumerate(texts):
            half = text.find(" ", len(text) // 2)
            before = text[:half] if kind == "clean" else perturbed(text[:half], kind, share, number)
            halves.append((before + text[half:]).encode())
            begins.append(len(before.encode()))
        found[kind] = bits(read(params, halves), halves, begins)
    return found


def difficulty(read: Reader, params: Params, texts: Sequence[str]) -> dict[str, float]:
    """Bits per byte, and how evenly they lie on units: deviation over mean, and the share of units below 0.1 bit."""
    held = [text.encode() for text in texts]
    symbols = read(params, held)
    each = np.concatenate([one.nats for one in symbols]) / np.log(2)
    evenness = {"evenness": float(each.std() / each.mean()), "trivial": float(np.mean(each < 0.1))}
    return {"bits": bits(symbols, held)} | evenness
