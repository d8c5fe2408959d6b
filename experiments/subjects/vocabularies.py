"""Vocabularies learned from one part of a corpus and held against another: of words, superwords, a lexicon, a domain."""

import re
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

from lexinv.data import documents
from lexinv.data.bpe import Merges, byte_chunks, count_pieces, learn_merges
from lexinv.data.byte_level import ByteLevelBPE
from lexinv.data.corpora import SPLITS, load_corpus
from lexinv.data.fertility import Fertility, fertility
from lexinv.data.published_tokenizers import load_published_tokenizer
from lexinv.tokenization import domain, less_is_better, library, superbpe
from lexinv.validation import Checked, Count, Counts, Fractions, Positive

HELD_OUT = 0.1
"""Share of the bytes, at least."""
SENTENCES = re.compile(r"(?<=[.?!:;])(?=\s)|(?<=\n)")
BINS = 16
"""Of ranks in a vocabulary."""


@dataclass(frozen=True)
class Vocabularies(Checked):
    """sizes: at which ordinary BPE is measured. size: at which transitions are compared, given as shares of it, beside the ends 0 and 1;
    at the largest one superwords go on to the largest size.

    most_bytes: of each corpus. others: the size of Unigram and WordPiece. chunk: characters of a random chunk, in the mean. cap: of the
    domain's vocabulary of short tokens. reads: the lexicon's settings.
    """

    sizes: Counts = (1024, 2048, 4096, 8192, 16384)
    size: Count = 8192
    transitions: Fractions = (0.3, 0.6, 0.9)
    most_bytes: Count = 3_000_000
    others: Count = 4096
    chunk: Positive = 30.0
    domain_sizes: Counts = (2048, 4096)
    cap: Count = 4
    reads: less_is_better.LessIsBetter = less_is_better.LessIsBetter(documents=600)
    published: tuple[str, ...] = ("j2", "o200k")

    def checks(self):
        yield list(self.sizes) == sorted(self.sizes) and self.sizes[0] > 256, "sizes", "rising, all above 256"
        yield self.size in self.sizes, "size", f"one of the sizes {self.sizes}"
        yield list(self.transitions) == sorted(self.transitions), "transitions", "rising"
        yield self.transitions[0] * self.size > 256, "transitions", "above the 256 bytes"
        yield len(self.domain_sizes) == 2, "domain_sizes", "two: the domain's, and that of the general vocabulary"
        yield not self.published or len(self.published) == 2, "published", "none, or one of superwords and one of words"


@dataclass(frozen=True)
class Division:
    """Documents to learn from, and others."""

    train: list[str]
    held: list[str]

    def tokens(self, encode: Callable[[str], Sized]) -> int:
        return self.cost(encode).tokens

    def rate(self, encode: Callable[[str], Sized]) -> float:
        return self.cost(encode).bytes_per_token

    def cost(self, encode: Callable[[str], Sized]) -> Fertility:
        """Of the documents that are held out."""
        return fertility(encode, self.held)


def divided(name: str, seed: int, most_bytes: int) -> Division:
    """Documents of a corpus in an order that the seed draws, the first tenth of the bytes held out; of licences whole families are."""
    if name == "licences":
        families: dict[str, list[str]] = {}
        for key, text in documents.licences().documents().items():
            families.setdefault(key.removeprefix("deprecated_").split("-")[0], []).append(text())
        groups = list(families.values())
    else:
        corpus = load_corpus(name)
        groups = [[text] for split in SPLITS for text in corpus.splits[split]]
    parts: tuple[list[str], list[str]] = [], []
    most = min(most_bytes, sum(len(text.encode()) for group in groups for text in group))
    found = 0
    for number in np.random.default_rng(seed).permutation(len(groups)):
        if found < most:
            parts[found >= HELD_OUT * most].extend(groups[number])
            found += sum(len(text.encode()) for text in groups[number])
    return Division(train=parts[1], held=parts[0])


def encoder(merges: Merges, split: str) -> Callable[[str], Sized]:
    model = ByteLevelBPE("", merges, split).library()
    return lambda text: model.encode(text).ids


def words_encoder(merges: Merges, size: int) -> Callable[[str], Sized]:
    """Of ordinary byte-pair encoding with the first merges."""
    return encoder(merges[: size - 256], superbpe.WORDS)


def measure_corpus(name: str, seed: int, config: Vocabularies, lexicon: bool) -> dict[str, Any]:
    """Bytes per held-out token: of words (the ceiling), of BPE, BPE without words, superwords and random chunks by size, by transition; of
    Unigram and WordPiece; and with `lexicon` what Less is Better makes of the corpus."""
    division = divided(name, seed, config.most_bytes)
    rng, largest = np.random.default_rng(seed), config.sizes[-1]
    words = count_pieces(division.train, superbpe.WORDS)
    merges = learn_merges(byte_chunks(words), 256, largest)
    lines = superbpe.lines_of(division.train)

    def by_size(merges: Merges, split: str) -> list[float]:
        return [division.rate(encoder(merges[: size - 256], split)) for size in config.sizes]

    free = superbpe.across_words(lines, [], largest)
    bpe, without = by_size(merges, superbpe.WORDS), by_size(free, superbpe.LINES)
    at, ends, last = config.sizes.index(config.size), [], merges
    for share in config.transitions:
        until = largest if share == config.transitions[-1] else config.size
        last = superbpe.across_words(lines, merges[: round(share * config.size) - 256], until)
        ends.append(division.rate(encoder(last[: config.size - 256], superbpe.LINES)))
    beyond = [division.rate(encoder(last[: size - 256], superbpe.LINES)) for size in config.sizes[at:]]
    chunked = superbpe.train_on_random_chunks(division.train, largest, config.chunk, rng)
    found = {
        "bytes": sum(len(text.encode()) for text in division.held),
        "ceiling": division.rate(lambda text: list(count_pieces([text], superbpe.WORDS).elements())),
        "bpe": bpe,
        "free": without,
        "superbpe": [*bpe[:at], *beyond],
        "chunks": by_size(chunked.merges, superbpe.NOWHERE),
        "transitions": [without[at], *ends, bpe[at]],
        "superwords": superword_shares(ByteLevelBPE("", last, superbpe.LINES).pieces),
        **{kind: division.rate(encode) for kind, encode in library_encoders(division, config.others).items()},
    }
    return found | (measure_lexicon(division, rng, config, merges, free, len(words)) if lexicon else {})


def measure_published(name: str, seed: int, config: Vocabularies) -> dict[str, Any]:
    """Bytes per held-out token of published tokenizers."""
    division = divided(name, seed, config.most_bytes)
    return {each: division.rate(load_published_tokenizer(each).encode) for each in config.published}


def library_encoders(division: Division, size: int) -> dict[str, Callable[[str], Sized]]:
    """Unigram and WordPiece, of which spaces begin new words."""
    text = "\n".join(division.train)
    alphabet = "".join(sorted(set(text).union(*division.held)))
    return {
        "unigram": library.train_unigram(text, size, alphabet, split_words=True, at_most=True).encode,
        "wordpiece": library.train_wordpiece(text, size, alphabet, split_words=True).encode,
    }


def measure_lexicon(
    division: Division, rng: np.random.Generator, config: Vocabularies, merges: Merges, free: Merges, words: int
) -> dict[str, Any]:
    """growth: entries after each sixteenth of the documents. Types, bytes among them, and held-out tokens of the lexicon; of words, unseen
    ones counted as one token; tokens of BPE with words and without at as many types as the lexicon's."""
    sentences = [part for text in division.train for part in SENTENCES.split(text) if part]
    growth, entries = [], ()
    for number, entries in enumerate(less_is_better.course(sentences, rng, config.reads), 1):
        if number * BINS % config.reads.documents < BINS:
            growth.append(len(entries))
    pieces = less_is_better.pieces(entries)
    types = len(pieces.strings)
    at = min(types, config.sizes[-1]) - 256
    return {
        "growth": growth,
        "lib_types": types,
        "lib_tokens": division.tokens(lambda text: pieces.encode(text.encode())),
        "word_types": words + 256,
        "word_tokens": sum(count_pieces(division.held, superbpe.WORDS).values()),
        "bpe_tokens": division.tokens(encoder(merges[:at], superbpe.WORDS)),
        "free_tokens": division.tokens(encoder(free[:at], superbpe.LINES)),
    }


def measure_domain(texts: tuple[str, ...], seed: int, config: Vocabularies, forced: Sequence[str]) -> dict[str, Any]:
    """Tokens of held-out text of the domain (home) and of general text (away), by vocabulary: the general one at the larger size, of the
    domain at both, with forced tokens, and with short ones. texts: the domain and general text."""
    (small, large), (ours, others) = config.domain_sizes, (divided(name, seed, config.most_bytes) for name in texts)
    models = {
        "general": domain.train(others.train, large),
        "half": domain.train(ours.train, small),
        "domain": domain.train(ours.train, large),
        "forced": domain.train(ours.train, large, forced=forced),
        "short": domain.train(ours.train, large, config.cap),
    }
    return {
        "home": [ours.tokens(model.encode) for model in models.values()],
        "away": [others.tokens(model.encode) for model in models.values()],
        "names": list(models),
    }


def superword_shares(pieces: Sequence[bytes]) -> list[float]:
    """The share of pieces of several words in each sixteenth of a vocabulary, by rank."""
    several = np.array([b" " in piece.strip(b" ") for piece in pieces])
    return [float(part.mean()) for part in np.array_split(several, BINS)]
