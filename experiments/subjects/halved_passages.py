"""Passages whose first half a language model reads in any tokens, with any rows, and whose second half it predicts in its own."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from lexinv.data.bpe import Chunks, Merges, count_pieces, learn_merges
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import Tokenizer
from lexinv.nn.language_model import LanguageModel, Params, shift_right
from lexinv.nn.lexicon import readout, token_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.byte_pairs import GPT2_SPLIT
from lexinv.transfer.combinations import apply, drawn, means_of_pieces
from lexinv.transfer.dynamic import DynamicBatch, Texts, merge_batch, tokenize
from lexinv.transfer.vocabularies import segmenter, surface_forms

NEXT = 4
TOGETHER, ROUND, ROOM, LONGEST = 32, 32, 512, 16
"""Passages that are read at a time. Lengths, and numbers of new rows, are rounded up to a multiple, so that few programs are compiled.
Tokens of a surface form."""
Rows = Callable[[Sequence[bytes]], Float[np.ndarray, "new width"]]
"""Of new tokens, given as their bytes."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A model with a table and passages: first halves in the tokenizer's tokens, and second halves. Both are cut at a space."""

    model: TransformerConfig
    params: Params
    tokenizer: Tokenizer
    first: Texts
    second: Sequence[Int32[np.ndarray, " tokens"]]

    def merged(
        self, merges: int | Merges | None, batch: int, rng: np.random.Generator | None = None
    ) -> list[DynamicBatch]:
        """The first halves, so many in a batch; see `merge_batch`."""
        starts = range(0, len(self.second), batch)
        parts = [tuple(part[start : start + batch] for part in self.first) for start in starts]
        vocab = self.tokenizer.vocab_size
        return [merge_batch(tokens, merges, boundary, vocab, rng) for tokens, boundary in parts]

    def as_short(self, batches: Sequence[DynamicBatch], merges: Merges) -> list[DynamicBatch]:
        """The first halves after the first of some merges, so many that there are as many tokens as in `batches`, or all of them."""

        def made(count: int) -> list[DynamicBatch]:
            return self.merged(merges[:count], len(self.second))

        return made(bisect_left(range(len(merges)), -length(batches), key=lambda count: -length(made(count))))

    def bits(self, batches: Sequence[DynamicBatch], rows: Rows) -> dict[str, float]:
        """Per byte of the second halves, after first halves in the tokens of `batches`; "next": of their first `NEXT` tokens alone."""
        totals = {"bits": [0.0, 0], "next": [0.0, 0]}
        for targets, lost, _ in self._read(batches, rows):
            there = targets >= 0
            for name, counted in {"bits": there, "next": there & (there.cumsum(axis=1) <= NEXT)}.items():
                totals[name][0] += float(lost[counted].sum(dtype=np.float64))
                totals[name][1] += int(self.tokenizer.token_bytes[targets[counted]].sum())
        return {name: float(nats / np.log(2) / count) for name, (nats, count) in totals.items()}

    def states(self, batches: Sequence[DynamicBatch], rows: Rows, count: int) -> Float[np.ndarray, "count width"]:
        """What inner products with output rows make the logits of, at the first tokens of the second halves."""
        found = [states[targets >= 0] for targets, _, states in self._read(batches, rows)]
        return np.concatenate(found)[:count]

    def _read(
        self, batches: Sequence[DynamicBatch], rows: Rows
    ) -> Iterator[tuple[Int32[np.ndarray, "texts time"], np.ndarray, np.ndarray]]:
        table, seconds = np.asarray(self.params["table"]), iter(self.second)
        width = self.first.tokens.shape[1] + max(map(len, self.second))
        shape = len(self.second), -(-width // ROUND) * ROUND
        tokens, targets = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        embeddings, place = np.zeros((*shape, table.shape[1]), np.float32), 0
        for batch in batches:
            new = [b"".join(self.tokenizer.pieces[token] for token in each) for each in batch.pieces]
            known = np.concatenate([table, rows(new)]) if new else table
            for ids, count in zip(batch.tokens, batch.lengths.tolist(), strict=True):
                own = next(seconds)
                end = count + len(own)
                tokens[place, :end] = [*ids[:count], *own]
                targets[place, count:end] = own
                embeddings[place] = known[tokens[place]]  # those of padding are replaced, and not scored
                place += 1
        for start in range(0, place, TOGETHER):
            parts = (each[start : start + TOGETHER] for each in (tokens, embeddings, targets))
            read = [
                np.pad(part, ((0, TOGETHER - len(part)), *((0, 0),) * (part.ndim - 1)), constant_values=-1)
                for part in parts
            ]
            yield read[2], *jax.device_get(_nats(self.model, self.params, *read))


def length(batches: Sequence[DynamicBatch]) -> int:
    """Tokens of all texts."""
    return sum(int(batch.lengths.sum()) for batch in batches)


@partial(jax.jit, static_argnums=0)
def _nats(
    config: TransformerConfig,
    params: Params,
    tokens: Int[Array, "texts time"],
    embeddings: Float[Array, "texts time width"],
    targets: Int[Array, "texts time"],
) -> tuple[Float[Array, "texts time"], Float[Array, "texts time width"]]:
    """Of each target given what is before it, and the features that predict it."""
    before = jnp.pad(embeddings[:, :-1], ((0, 0), (1, 0), (0, 0)))
    inputs = shift_right(tokens)
    features, _ = LanguageModel(config).apply({"params": params["model"]}, inputs, before, method="features")
    return token_nll(readout(features, params["table"]), targets), features


def read_halves(model: TransformerConfig, params: Params, tokenizer: Tokenizer, texts: Sequence[str]) -> Reader:
    """tokenizer: one that cuts texts by GPT-2's expression, which no cut at a space changes."""
    cuts = [text.rfind(" ", 1, len(text) // 2 + 1) for text in texts]
    first = tokenize([text[: max(cut, 0)] for text, cut in zip(texts, cuts, strict=True)], tokenizer, GPT2_SPLIT)
    second = [tokenizer.encode(text[max(cut, 0) :]) for text, cut in zip(texts, cuts, strict=True)]
    return Reader(model, params, tokenizer, first, second)


def rows_by(method: str, table: Float[Array, "vocab width"], tokenizer: Tokenizer) -> Rows:
    """Rows made for a table: "pieces" are means of the rows that a new token is spelled by, "drawn" have the table's moments."""
    segment = cache(segmenter(tokenizer))

    def rows(pieces: Sequence[bytes]) -> Float[np.ndarray, "new width"]:
        padded = [*pieces, *[b""] * (-len(pieces) % ROOM)]
        if method == "drawn":
            made = drawn(jax.random.key(0), table, len(padded))
        else:
            made = apply(means_of_pieces(*map(jnp.asarray, surface_forms(padded, segment, LONGEST)[:2])), table)
        return np.asarray(made)[: len(pieces)]

    return rows


def static_merges(corpus: Corpus, tokenizer: Tokenizer, count: int) -> Merges:
    """The next merges of a byte-pair encoding of the text that it was trained on: those of the same tokenizer, larger by so many."""
    counts = count_pieces(corpus.splits["train"], GPT2_SPLIT)
    words = [tokenizer.encode(piece) for piece in counts]
    chunks = Chunks(np.concatenate(words), np.array(list(map(len, words))), np.fromiter(counts.values(), np.int64))
    return learn_merges(chunks, tokenizer.vocab_size, tokenizer.vocab_size + count)
