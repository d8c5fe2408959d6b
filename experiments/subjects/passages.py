"""Text as a sentence encoder reads it: paragraphs, and neighbouring windows of documents, as ids with [CLS] and [SEP]."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int32

from lexinv.data.corpora import Corpus
from lexinv.nn.text_encoder import TextEncoder
from lexinv.validation import require

LEAST_WORDS = 8
"""Shorter paragraphs are headings and signatures."""


class Passages(NamedTuple):
    """Paragraphs as ids, [CLS] first and [SEP] last, padded to one length. words: true for what is neither of them, nor padding."""

    tokens: Int32[np.ndarray, "passages time"]
    mask: Bool[np.ndarray, "passages time"]
    words: Bool[np.ndarray, "passages time"]


def paragraphs(corpus: Corpus, split: str) -> Iterator[str]:
    """Pieces of a split's documents between blank lines, of at least `LEAST_WORDS` words, each text once."""
    seen = set()
    for text in corpus.splits[split]:
        for piece in re.split(r"\n\s*\n", text):
            words = piece.split()
            joined = " ".join(words)
            if len(words) >= LEAST_WORDS and joined not in seen:
                seen.add(joined)
                yield joined


def encode(encoder: TextEncoder, texts: Sequence[str], length: int) -> Passages:
    """Texts cut and padded to `length` tokens, so that one program serves all."""
    tokens, mask = encoder.encode(texts, length)
    padding = ((0, 0), (0, length - tokens.shape[1]))
    tokens, mask = np.pad(tokens, padding), np.pad(mask, padding)
    words = mask.copy()
    words[:, 0] = False
    words[np.arange(len(words)), mask.sum(axis=1) - 1] = False
    return Passages(tokens, mask, words)


def neighbouring_windows(
    encoder: TextEncoder, corpus: Corpus, split: str, length: int, count: int, seed: int
) -> Int32[np.ndarray, "count 2 length"]:
    """From each of `count` documents two windows, the second where the first ends, both of `length` tokens, so that there is no padding.

    Documents are taken in an order drawn from `seed`, and the place in each too; those too short for two windows are passed over.
    Raises `InvalidConfig` where there are fewer long enough.
    """
    first, last = encoder.tokenizer.encode("").ids
    inside = length - 2
    require(inside >= 1, "length", length, "at least 3 tokens")
    texts, rng, found = corpus.splits[split], np.random.default_rng(seed), []
    for index in rng.permutation(len(texts)):
        if len(found) == count:
            break
        ids = encoder.tokenizer.encode(texts[int(index)], add_special_tokens=False).ids
        if len(ids) < 2 * inside:
            continue
        start = int(rng.integers(len(ids) - 2 * inside + 1))
        middle, stop = start + inside, start + 2 * inside
        found.append([[first, *ids[start:middle], last], [first, *ids[middle:stop], last]])
    enough = f"at most {len(found)}: {corpus.name} has no more documents so long in its {split} split"
    require(len(found) == count, "count", count, enough)
    return np.array(found, np.int32)


def compare_embeddings(
    plain: Float[np.ndarray, "draws corpora passages width"], reduced: Float[np.ndarray, "draws corpora passages width"]
) -> dict[str, list[float]]:
    """By pair of neighbours, in order, of embeddings [draws, corpora, 2 pairs, width] in which 2i and 2i + 1 are neighbours.

    error: 1 - cosine to the unreduced embedding, mean of the two. found: of how many of the two the nearest passage, of equally near ones
    the first, is the neighbour.
    """
    count = plain.shape[2]
    error = (1 - np.sum(plain * reduced, axis=-1)).reshape(-1, 2).mean(axis=1)
    cosine = np.einsum("dcpw,dcqw->dcpq", reduced, reduced)
    nearest = np.where(np.eye(count, dtype=bool), -np.inf, cosine).argmax(axis=-1)
    found = (nearest == np.arange(count) ^ 1).reshape(-1, 2).sum(axis=1)
    return {"error": [round(float(value), 4) for value in error], "found": found.tolist()}
