"""Tokens chosen for a batch (Feher et al. 2025): its frequent pairs are merged and read with rows made for them; and how a next token is
found among many rows."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from lexinv.data.bpe import PAIR, Chunks, Merges, apply_merge, apply_merges, learn_merges, spell
from lexinv.data.symbols import require_symbols
from lexinv.data.tokenizers import Tokenizer
from lexinv.validation import InvalidConfig, require

SMALLEST = 1e-12
"""Length of a row below which it has no direction."""


class Texts(NamedTuple):
    """tokens: ids of each text, then -1. boundary: those that begin a piece of text, which no merge crosses."""

    tokens: Int32[np.ndarray, "texts time"]
    boundary: Bool[np.ndarray, "texts time"]


class DynamicBatch(NamedTuple):
    """tokens: ids of each text, then -1; `vocab` + i is the new token that `pieces[i]` were merged to. lengths: tokens of each text."""

    tokens: Int32[np.ndarray, "texts time"]
    pieces: tuple[tuple[int, ...], ...]
    lengths: Int32[np.ndarray, " texts"]


def tokenize(texts: Sequence[str], tokenizer: Tokenizer, split: str) -> Texts:
    """Texts in a tokenizer's tokens. split: an expression (Oniguruma's syntax) whose matches, and what lies between them, are the pieces.

    With the tokenizer's own this is the published rule `pretokens`, with `\\s*\\S+` `word`. A token within which a piece begins begins one.
    Raises `InvalidConfig` where no text has a token.
    """
    from tokenizers import Regex, pre_tokenizers

    splitter, encoded = pre_tokenizers.Split(Regex(split), "isolated"), list(map(tokenizer.encode, texts))
    require(any(map(len, encoded)), "texts", len(texts), "some that are not empty")
    tokens = np.full((len(encoded), max(map(len, encoded))), -1, np.int32)
    boundary = np.zeros(tokens.shape, bool)
    for row, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        sizes = tokenizer.token_bytes[ids]
        pieces = np.cumsum([0, *(len(piece.encode()) for piece, _ in splitter.pre_tokenize_str(text))])
        ends = np.cumsum(sizes)
        boundary[row, : len(ids)] = np.searchsorted(pieces, ends - sizes) < np.searchsorted(pieces, ends)
        tokens[row, : len(ids)] = ids
    return Texts(tokens, boundary)


def merge_batch(
    batch: Int[np.ndarray, "texts time"],
    merges: int | Merges | None,
    boundary: Bool[np.ndarray, "texts time"],
    vocab: int,
    rng: np.random.Generator | None = None,
) -> DynamicBatch:
    """The texts of a batch in fewer tokens, which stand for the same text.

    merges: how many the batch decides, its most frequent pairs one after another as `learn_merges` finds them, or as many as there are; a
    list of merges of any other text, made in their order; or None to make a token of every piece, where more merges end, too.
    boundary: tokens that begin a piece, which no merge crosses; what follows padding (-1) does. vocab: ids of the tokenizer.
    rng: draws each pair from the different ones that there are, in place of the most frequent.

    Of equally frequent pairs the smallest is taken, not the first in the batch as in the released code, so that the order of the texts is
    no matter. New tokens that are the same sequence of the tokenizer's tokens are one. Raises `InvalidConfig` for negative merges, a batch
    without a token and ids outside of the vocabulary.
    """
    there = batch >= 0
    require(bool(there.any()), "batch", batch.shape, "texts with a token at least")
    require(not isinstance(merges, int) or merges >= 0, "merges", merges, "zero or more, or None for whole pieces")
    ids = batch[there].astype(np.int32)
    require_symbols("batch", ids, vocab)
    after_padding = np.pad(~there[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    starts = np.flatnonzero((boundary | after_padding)[there])
    raw, ends = ids.tobytes(), np.append(starts[1:], len(ids))
    words = [raw[4 * start : 4 * end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    counts = Counter(words)
    spelled = [np.frombuffer(word, np.int32) for word in counts]
    chunks = Chunks(np.concatenate(spelled), np.array(list(map(len, spelled))), np.fromiter(counts.values(), np.int64))
    numbers: dict[tuple[int, ...], int] = {}

    def number(part: tuple[int, ...]) -> int:
        return part[0] if len(part) == 1 else vocab + numbers.setdefault(part, len(numbers))

    parts = _parts(chunks, merges, vocab, rng)
    numbered = {word: list(map(number, found)) for word, found in zip(counts, parts, strict=True)}
    texts: list[list[int]] = [[] for _ in batch]
    for row, word in zip(np.nonzero(there)[0][starts].tolist(), words, strict=True):
        texts[row] += numbered[word]
    tokens = np.full(batch.shape, -1, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return DynamicBatch(tokens, tuple(numbers), np.array(list(map(len, texts)), np.int32))


def _parts(
    chunks: Chunks, merges: int | Merges | None, vocab: int, rng: np.random.Generator | None
) -> list[list[tuple[int, ...]]]:
    """Each piece as the new tokens that it is cut into, as the old ones that they are merged from."""
    ends = np.cumsum(chunks.lengths)
    apart = np.insert(chunks.ids, ends, -1)  # no pair crosses what is no token
    if isinstance(merges, int):
        try:
            found = learn_merges(chunks, vocab, vocab + merges) if rng is None else _drawn(apart, vocab, merges, rng)
        except InvalidConfig:  # no pair is left: every piece is one token
            found = None
    else:
        found = merges
    if found is None:
        return [[tuple(piece.tolist())] for piece in np.split(chunks.ids, ends[:-1])]
    spelled, merged = spell(found, vocab), apply_merges(apart, found, vocab)
    pieces: list[list[tuple[int, ...]]] = [[]]
    for token in merged[:-1].tolist():
        if token < 0:
            pieces.append([])
        else:
            pieces[-1].append(spelled[token])
    return pieces


def _drawn(ids: Int32[np.ndarray, " n"], vocab: int, count: int, rng: np.random.Generator) -> Merges:
    """Merges of pairs drawn uniformly from the different ones; fewer where none is left. No pair holds a -1."""
    merges: Merges = []
    while len(merges) < count:
        pairs = np.unique((ids[:-1].astype(np.int64) * PAIR + ids[1:])[(ids[:-1] >= 0) & (ids[1:] >= 0)])
        if not len(pairs):
            break
        merges.append(divmod(int(rng.choice(pairs)), PAIR))
        ids = apply_merge(ids, *merges[-1], vocab + len(merges) - 1)
    return merges


def augmented(rows: Float[Array, "rows width"]) -> Float[Array, "rows width_and_1"]:
    """Rows with a value more, after which all are as long as the longest: of these, the nearest to (h, 0) is the one of the largest inner
    product with h (Bachrach et al. 2014)."""
    squares = jnp.sum(jnp.square(rows), axis=1)
    return jnp.concatenate([rows, jnp.sqrt(squares.max() - squares)[:, None]], axis=1)


class Recall(NamedTuple):
    """For which hidden states the row of the largest logit is among the candidates."""

    cosine: Bool[Array, " states"]
    augmented: Bool[Array, " states"]


def recall(hidden: Float[Array, "states width"], rows: Float[Array, "rows width"], k: int) -> Recall:
    """Whether the best of all rows by inner product is among `k` that an exact index proposes.

    cosine: an index of rows divided by their lengths, as the released generator means to build. augmented: the nearest neighbours of
    `augmented` rows. Raises `InvalidConfig` for more candidates than rows.
    """
    require(1 <= k <= len(rows), "k", k, f"1 to the {len(rows)} rows")
    best = jnp.argmax(hidden @ rows.T, axis=1)
    lengths = jnp.maximum(jnp.linalg.norm(rows, axis=1, keepdims=True), SMALLEST)
    longer = augmented(rows)
    nearness = (
        2 * hidden @ longer[:, :-1].T - jnp.sum(jnp.square(longer), axis=1)[None]
    )  # less |h|^2, alike for all rows
    found = (jax.lax.top_k(scores, k)[1] for scores in (hidden @ (rows / lengths).T, nearness))
    return Recall(*((candidates == best[:, None]).any(axis=1) for candidates in found))
