"""Tokenizers drawn from text, so that a hypernetwork meets many of them (Minixhofer et al. 2024, section 3 and algorithm 1)."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lexinv.data.tokenizers import Tokenizer, of_library
from lexinv.validation import require

LONGEST = 15
"""Bytes of a substring."""
NOISE = (float(np.log(1e-5)), 4.0)
"""Mean and deviation of the logarithm of the noise's own deviation."""
NEVER = -1e5
"""The logarithm that stands for a probability which noise made negative."""


def substring_scores(texts: Iterable[str]) -> Counter[str]:
    """How many bytes of the texts each substring of a word covers: its count times its length.

    Words are those of GPT-2's expression, written as its byte-level tokenizers do, one character for each byte. Substrings start
    anywhere, as in the paper; the released code lets them start at every fourth byte.
    """
    words: Counter[str] = Counter()
    splitter = _splitter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(text))
    scores: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + LONGEST, len(word)) + 1):
                scores[word[start:end]] += count * (end - start)
    return scores


class SubstringQueue:
    """The sum of the scores of the last `batches` batches of texts."""

    def __init__(self, batches: int):
        require(batches >= 1, "batches", batches, "at least 1")
        self.tables: deque[Mapping[str, int]] = deque(maxlen=batches)
        self.scores: Counter[str] = Counter()

    def push(self, table: Mapping[str, int]) -> None:
        """Adds `substring_scores` of a batch, and lets go of the oldest."""
        if len(self.tables) == self.tables.maxlen:
            self.scores.subtract(self.tables[0])
        self.tables.append(table)
        self.scores.update(table)


class Vocabulary(NamedTuple):
    """pieces: in byte-level characters, from the highest logarithm of a score; the 256 bytes have the lowest."""

    pieces: tuple[str, ...]
    scores: Float[np.ndarray, " pieces"]


def sample_vocabulary(
    random: np.random.Generator, scores: Mapping[str, int], size: int, noise: tuple[float, float] = NOISE
) -> Vocabulary:
    """The bytes, and those substrings of the highest probability after noise N(0, s^2), s drawn log-normally, that make it `size`.

    Raises `InvalidConfig` for fewer than 256 pieces or more than there are.
    """
    alphabet = _alphabet()
    single = set(alphabet)
    found = [piece for piece, score in scores.items() if score > 0 and piece not in single]
    require(256 <= size <= 256 + len(found), "size", size, f"256 to {256 + len(found)}, the bytes and the substrings")
    counts = np.array([scores[piece] for piece in found], np.float64)
    noisy = counts / max(sum(scores.values()), 1)
    noisy += random.normal(size=len(found)) * random.lognormal(*noise)
    logs = np.where(noisy > 0, np.log(np.maximum(noisy, 1e-300)), NEVER)
    best = np.argsort(-logs, kind="stable")[: size - 256]
    least = logs[best].min(initial=0.0)
    pieces = (*(found[i] for i in best), *alphabet)
    return Vocabulary(pieces, np.append(logs[best], np.full(256, least)))


def unigram_tokenizer(vocabulary: Vocabulary, name: str = "sampled") -> Tokenizer:
    """The segmentation of the highest sum of scores within every word; the separator is an id more, the last."""
    import tokenizers
    from tokenizers import decoders, models

    scored = list(zip(vocabulary.pieces, vocabulary.scores.tolist(), strict=True))
    model = tokenizers.Tokenizer(models.Unigram(scored))
    model.pre_tokenizer = _splitter()
    model.decoder = decoders.ByteLevel()
    return of_library(name, model)


def _splitter() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _alphabet() -> Sequence[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())
