"""Language models that read with tables of other tokenizers: what bytes cost them, and words that hold a new token apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Int32

from experiments.harness.assets import asset
from experiments.harness.workspace import Workspace
from experiments.subjects.untrained_encoder import untrained
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import Tokenizer, bits_per_byte
from lexinv.nn.language_model import Params, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.text_encoder import load_text_encoder, sentence_embeddings
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import evaluate_by_position
from lexinv.transfer.methods import METHODS, Given, transplanted_tables
from lexinv.transfer.vocabularies import match, segmenter, surface_forms
from lexinv.validation import require

LONGEST, BATCH = 16, 8
"""Tokens of a surface form, and of a piece as the encoder of texts reads it; passages read at a time."""
Encoder = Callable[[Sequence[bytes]], Float[np.ndarray, "pieces features"]]


@dataclass(frozen=True, eq=False)
class Source:
    """A model, its tokenizer, and what it is asked to read: passages that settings are chosen by, and groups of others."""

    config: TransformerConfig
    lexicon: LexiconConfig
    params: Params
    tokenizer: Tokenizer
    validation: Sequence[str]
    test: Sequence[Sequence[str]]

    def bits(self) -> list[float]:
        """Per byte of each group, with its own tokenizer."""
        nll, found = make_nll(self.config, self.lexicon, self.tokenizer.vocab_size), []
        for texts in self.test:
            windows = windows_of(self.tokenizer, texts)
            nats = evaluate_by_position(nll, self.params, windows, jax.random.key(0), BATCH)
            found.append(bits_per_byte(nats, windows, self.tokenizer))
        return found


def passages(corpus: Corpus, split: str, count: int, size: int, seed: int) -> list[str]:
    """`count` passages of about `size` characters, from a space to a space, of different documents where there are enough."""
    random, texts = np.random.default_rng(seed), corpus.splits[split]
    long = [i for i in range(len(texts)) if len(texts[i]) > size + 40]
    found = []
    for i in random.choice(long, count, replace=len(long) < count).tolist():
        start = texts[i].find(" ", int(random.integers(len(texts[i]) - size - 20)))
        found.append(texts[i][start : texts[i].rfind(" ", start + 1, start + size + 1)])
    return found


def windows_of(tokenizer: Tokenizer, texts: Sequence[str]) -> Int32[np.ndarray, "texts time"]:
    """Whole texts, then -1."""
    rows = [tokenizer.encode(text) for text in texts]
    found = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for row, tokens in zip(found, rows, strict=True):
        row[: len(tokens)] = tokens
    return found


def bits(
    nats: Float[np.ndarray, "texts time"],
    windows: Int[np.ndarray, "texts time"],
    tokenizer: Tokenizer,
    new: Int[np.ndarray, " new"],
) -> dict[str, float]:
    """Bits per byte: of "all" text, of the words with a "new" token, and of the "others"; of what there is.

    Words are what lies between places where a word and a token begin, so that a token of several words makes one of them.
    """
    totals = {"all": [0.0, 0], "new": [0.0, 0], "others": [0.0, 0]}
    for row, lost in zip(windows, nats, strict=True):
        row = row[row >= 0]
        sizes = tokenizer.token_bytes[row]
        text = b"".join(tokenizer.pieces[number] for number in row)
        gap = np.isin(np.frombuffer(text, np.uint8), np.frombuffer(b" \n\t", np.uint8))
        begins = gap & ~np.insert(gap[:-1], 0, False)
        starts = np.cumsum(sizes) - sizes
        word = np.cumsum(begins[np.minimum(starts, len(text) - 1)])
        marked = np.isin(word, word[np.isin(row, new)])
        for part, chosen in {"all": np.ones(len(row), bool), "new": marked, "others": ~marked}.items():
            totals[part][0] += float(lost[: len(row)][chosen].sum(dtype=np.float64))
            totals[part][1] += int(sizes[chosen].sum())
    return {part: float(lost / np.log(2) / count) for part, (lost, count) in totals.items() if count}


def perplexities(nats: Float[np.ndarray, "texts time"], windows: Int[np.ndarray, "texts time"]) -> dict[str, float]:
    """The mean and the median over texts of each one's perplexity per token, by which TokenAdapt is judged in its paper."""
    each = np.exp(nats.sum(1, dtype=np.float64) / (windows >= 0).sum(1))
    return {"mean_perplexity": float(each.mean()), "median_perplexity": float(np.median(each))}


@dataclass(frozen=True, eq=False)
class Transfer:
    """A source and a target with what methods are given, and one compiled way to read with tables of the target's."""

    source: Source
    target: Tokenizer
    given: Given
    nll: Any

    def measured(self, method: str, output: str = "") -> dict[str, Any]:
        """Bits per byte and perplexities of each group of passages, at the setting that costs the validation passages least, which is said.

        output: a method for the output table alone, see `transplanted_tables`.
        """
        params, tried = self.source.params, METHODS[method].tried

        def costs(setting: float, texts: Sequence[str]) -> dict[str, float]:
            windows = windows_of(self.target, texts)
            moved = params | transplanted_tables(method, self.given, params, setting, output)
            nats = evaluate_by_position(self.nll, moved, windows, jax.random.key(0), BATCH)
            return bits(nats, windows, self.target, self.given.match.new) | perplexities(nats, windows)

        validation = [costs(setting, self.source.validation)["all"] for setting in tried]
        best = tried[int(np.argmin(validation))] if tried else 0.0
        rows = [costs(best, texts) for texts in self.source.test]
        allowed = "more: of some, no word holds a new token, or all do"
        whole = all({"new", "others"} <= row.keys() for row in rows)
        require(whole, "passages", len(self.source.test[0]), allowed)
        return {part: [row[part] for row in rows] for part in rows[0]} | {"setting": best, "validation": validation}


def transfer(
    source: Source, target: Tokenizer, encoder: Encoder, donor: Float[np.ndarray, "target width"] | None
) -> Transfer:
    """donor: a table for the target's ids, or None."""
    found = match(source.tokenizer, target)
    pieces = [target.pieces[number] for number in found.new]
    forms = surface_forms(pieces, segmenter(source.tokenizer), LONGEST)
    sizes = np.array([[max(len(piece), 1)] for piece in pieces])
    shares = (source.tokenizer.token_bytes[forms.ids] * forms.mask / sizes).astype(np.float32)
    vectors = encoder(pieces), encoder(source.tokenizer.pieces)
    given = Given(found, forms, shares, vectors, donor)
    return Transfer(source, target, given, make_nll(source.config, source.lexicon, target.vocab_size))


def text_encoder(name: str, workspace: Workspace) -> Encoder:
    """Vectors of length 1 of what pieces say, by an asset with a text encoder, or `untrained`."""
    encoder = untrained() if name == "untrained" else load_text_encoder(asset(name, workspace))
    read = jax.jit(lambda tokens, mask: sentence_embeddings(encoder.config, encoder.params, tokens, mask))
    known: dict[bytes, np.ndarray] = {}

    def embed(pieces: Sequence[bytes]) -> Float[np.ndarray, "pieces features"]:
        missing = sorted({piece for piece in pieces if piece not in known}, key=lambda piece: (len(piece), piece))
        for start in range(0, len(missing), 512):
            part = missing[start : start + 512]
            tokens, mask = encoder.encode([piece.decode("utf-8", "replace") for piece in part], LONGEST)
            room = ((0, 512 - len(part)), (0, -tokens.shape[1] % 4))  # few shapes, so that few programs are compiled
            tokens, mask = np.pad(tokens, room), np.pad(mask, room)
            mask[len(part) :, 0] = True
            known.update(zip(part, np.asarray(read(tokens, mask)), strict=False))
        return np.stack([known[piece] for piece in pieces])

    return embed


def restrict(tokenizer: Tokenizer, kept: Int[np.ndarray, " kept"]) -> Tokenizer:
    """The tokenizer with only the ids that some text uses, numbered anew in their order; its encoding of other text has none for them."""
    order = np.unique(np.append(kept, tokenizer.separator))
    number = np.full(tokenizer.vocab_size, -1, np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)

    def encode(text: str) -> np.ndarray:
        found = number[tokenizer.encode(text)]
        require(bool((found >= 0).all()), "text", text[:40], "one of tokens that were kept")
        return found

    return replace(
        tokenizer,
        vocab_size=len(order),
        symbols=tuple(tokenizer.symbols[i] for i in order),
        separator=int(number[tokenizer.separator]),
        pieces=tuple(tokenizer.pieces[i] for i in order),
        encode=encode,
        decode=lambda ids: tokenizer.decode(order[np.asarray(ids)]),
    )
