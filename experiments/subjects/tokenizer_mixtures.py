"""Tokenizers with a known mixture: documents of several categories, halved anew by every seed, and a BPE trained on one half of each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lexinv.data.bpe import Merges, byte_chunks, count_pieces, learn_merges, pair_changes
from lexinv.data.corpora import SPLITS, load_corpus
from lexinv.tokenization.mixture import bytes_per_token, classified, infer, to_bytes

BYTES = 1e9
"""Of the text on which a tokenizer is trained: large, since counts are whole numbers."""


def documents_of(name: str, split: str, most: int) -> list[Counter[str]]:
    """The pieces of each of the first documents of a corpus, so many that they have `most` bytes."""
    return [count_pieces([text], split) for text in beginning(name, most)]


def beginning(name: str, most: int) -> Iterator[str]:
    """Documents of a corpus, whatever the split, until there are so many bytes."""
    corpus, size = load_corpus(name), 0
    for text in (text for split in SPLITS for text in corpus.splits[split]):
        if size < most:
            yield text
        size += len(text.encode())


def halved(documents: Sequence[Counter[str]], rng: np.random.Generator) -> tuple[Counter[str], Counter[str]]:
    """The pieces of one half of the documents, drawn at random, and of the other."""
    halves = Counter[str](), Counter[str]()
    for place, number in enumerate(rng.permutation(len(documents))):
        halves[place % 2].update(documents[number])
    return halves


def sizes(categories: Sequence[Counter[str]]) -> np.ndarray:
    """Bytes of each category."""
    return np.array([float(sum(len(piece.encode()) * n for piece, n in each.items())) for each in categories])


def measure_mixture(categories: Sequence[list[Counter[str]]], merges: int, seed: int, omit: bool) -> dict[str, Any]:
    """A mixture drawn uniformly, a tokenizer trained on it, and what its merges say on the other halves of the documents.

    The text of a category counts as often as its share asks for: a small share is not a small sample. omit: infer also without the last
    category.
    """
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.ones(len(categories)))
    train, held = zip(*(halved(documents, rng) for documents in categories), strict=True)
    text = byte_chunks(train)
    mixed = replace(text, counts=np.rint(text.counts @ (BYTES * true / sizes(train))).astype(np.int64))
    learned = learn_merges(mixed, 256, 256 + merges)
    found, changes = inferred(held, learned)
    found |= {"true": true, "classified": classified(changes, learned), "tokens": bytes_per_token(changes, sizes(held))}
    return found | ({"omitted": inferred(held[:-1], learned)[0]["inferred"]} if omit else {})


def inferred(held: Sequence[Counter[str]], merges: Merges) -> tuple[dict[str, Any], Any]:
    """What the linear programme says of merges, from samples of the categories; and the changes of counts that it was told."""
    changes = pair_changes(byte_chunks(held), merges, 256)
    mixture, pairs = infer(changes, merges), changes[0][1].sum(axis=0)
    shares = to_bytes(mixture.weights, sizes(held), pairs)
    said = {"slack": mixture.slack / len(merges), "rounds": mixture.rounds, "missing": len(mixture.missing)}
    return {"inferred": shares, "unconverted": mixture.weights, **said}, changes
