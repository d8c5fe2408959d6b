"""Turkish words by frequency with their morphemes, tokenizers that learn from some of them, and how well tokens agree with morphemes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.workspace import Workspace
from lexinv.data.published_tokenizers import load_published_tokenizer
from lexinv.tokenization import less_is_better
from lexinv.tokenization.library import train_library_bpe, train_unigram, train_wordpiece
from lexinv.tokenization.linguistic import (
    TURKISH,
    Lexicon,
    Morphemes,
    analyses,
    boundary_scores,
    inner_ends,
    pure_share,
    root_suffix,
    valid_share,
)
from lexinv.tokenization.tokenizers import dictionary
from lexinv.tokenization.word_frequencies import load_word_frequencies
from lexinv.validation import InvalidConfig

TEXT = 1_000_000
"""Words of the text that tokenizers are trained on: the rarest of the list occurs once."""
TRAINERS: dict[str, Callable[..., Any]] = {
    "bpe": train_library_bpe,
    "unigram": partial(train_unigram, at_most=True),
    "wordpiece": train_wordpiece,
}
KINDS = ("bytes", *TRAINERS, "lib", "root-suffix", "gold")

BENCHMARK = {  # MMLU and %TR: the table of Bayram et al.
    "Gemma 2": (72.10, 48.63),
    "Llama 3.1": (70.42, 45.80),
    "Aya Expanse": (70.66, 50.67),
    "Qwen 2.5": (61.68, 40.33),
    "EuroLLM": (51.29, 47.01),
    "Mistral Nemo": (46.89, 45.27),
    "Phi 3.5": (29.37, 43.93),
    "GPT-4o": (84.84, 42.14),
}
CORRELATED = 4
"""The first ones, over which the published correlation is."""


class Words(NamedTuple):
    """frequency: of each word. parts: its morphemes, of several analyses the one with fewest; the whole word where there is none.

    agreed: those of which all analyses say the same.
    """

    frequency: dict[str, float]
    parts: dict[str, Morphemes]
    agreed: frozenset[str]
    lexicon: Lexicon


@dataclass(frozen=True, eq=False)
class WordTokenizer:
    """pieces: by id. encode: the morphemes of a word, which only `gold` does not join before, to ids."""

    size: int
    pieces: tuple[str, ...]
    encode: Callable[[Morphemes], Sequence[int]]

    def parts(self, morphemes: Morphemes) -> list[bytes]:
        """The bytes of the word's tokens, without the space that marks its beginning."""
        found = [self.pieces[number] for number in self.encode(morphemes)]
        encoded = [piece.removeprefix(" ").encode("latin-1" if self.size == 256 else "utf-8") for piece in found]
        return [piece for piece in encoded if piece]


def load_words(count: int, workspace: Workspace) -> Words:
    """The most frequent words that are written in Turkish letters."""
    listed = load_word_frequencies("tr")
    frequency = dict([item for item in listed.items() if set(item[0]) <= set(TURKISH)][:count])
    found = workspace.cached("morphemes", lambda: dict(analyses(frequency)))
    known = {word: tuple(map(tuple, ways)) for word, ways in found.items() if ways}
    parts = {word: min(known[word], key=len) if word in known else (word,) for word in frequency}
    morphemes = frozenset(part for ways in known.values() for way in ways for part in way)
    agreed = frozenset(word for word, ways in known.items() if len(ways) == 1)
    return Words(frequency, parts, agreed, Lexicon(frozenset(known), morphemes))


def divide(words: Words, held_out: float, seed: int) -> tuple[list[str], list[str]]:
    """The words to learn from and those held out, a share drawn at random whatever their frequency."""
    order = [list(words.parts)[place] for place in np.random.default_rng(seed).permutation(len(words.parts))]
    cut = int(len(order) * (1 - held_out))
    return order[:cut], order[cut:]


def word_tokenizer(
    name: str, words: Words, learned: Sequence[str], seed: int, lib: less_is_better.LessIsBetter
) -> WordTokenizer:
    """KIND:SIZE, trained on a text in which the learned words are as frequent as they are; `bytes` without a size."""
    kind, _, given = name.partition(":")
    if kind == "bytes":
        return WordTokenizer(256, tuple(map(chr, range(256))), lambda parts: list("".join(parts).encode()))
    size, letters = int(given), list(TURKISH)
    if kind in TRAINERS:
        text = " ".join(word for word in sorted(learned) for _ in range(max(round(TEXT * words.frequency[word]), 1)))
        found = TRAINERS[kind](" " + text, size, " " + TURKISH, True)
        return WordTokenizer(size, found.vocabulary, lambda parts: found.encode(" " + "".join(parts)).tolist())
    rng = np.random.default_rng(seed)
    if kind == "lib":
        shares = np.array([words.frequency[word] for word in learned])
        drawn = rng.choice(len(learned), TEXT // 10, p=shares / shares.sum())
        entries = less_is_better.learn([learned[place] for place in drawn], rng, lib)
    else:
        uses, roots = Counter[str](), Counter[str]()
        for word in learned:
            for place, part in enumerate(words.parts[word]):
                uses[part] += words.frequency[word]
                roots[part] += 0 if place else words.frequency[word]
        entries = [part for part, _ in uses.most_common()]
    pieces = tuple(dict.fromkeys([*letters, *entries]))[:size]
    ids = {piece: number for number, piece in enumerate(pieces)}
    if kind == "lib":
        matched = dictionary(name, TURKISH, pieces)
        return WordTokenizer(size, pieces, lambda parts: matched.encode("".join(parts)).tolist())
    if kind == "gold":

        def spelled(parts: Morphemes) -> list[int]:
            return [ids[piece] for part in parts for piece in ((part,) if part in ids else part)]

        return WordTokenizer(size, pieces, spelled)
    if kind != "root-suffix":
        raise InvalidConfig("tokenizers", name, f"one of {', '.join(KINDS)}, with a size")
    first = {piece for piece in pieces if roots[piece] > 0}
    later = {piece for piece in pieces if uses[piece] > roots[piece]}
    return WordTokenizer(
        size, pieces, lambda parts: [ids[piece] for piece in root_suffix("".join(parts), first, later)]
    )


def agreement(words: Words, cut: Callable[[Morphemes], Sequence[bytes]]) -> dict[str, float]:
    """%TR and %Pure by types and by tokens, tokens of a word of running text, and how well tokens end where morphemes do."""
    counts, tokens, predicted, gold = Counter[str](), 0.0, [], []
    for word, parts in words.parts.items():
        found = cut(parts)
        for piece in found:
            counts[piece.decode("utf-8", "replace")] += words.frequency[word]
        tokens += len(found) * words.frequency[word]
        if word in words.agreed and len(parts) > 1:
            predicted.append(inner_ends(found))
            gold.append(inner_ends(part.encode() for part in parts))
    shares = {
        f"{name}_{by}": share(counts, words.lexicon, by)
        for name, share in (("valid", valid_share), ("pure", pure_share))
        for by in ("types", "tokens")
    }
    precision, recall, f1 = boundary_scores(predicted, gold)
    scores = {"precision": precision, "recall": recall, "f1": f1, "types": len(counts)}
    return shares | scores | {"tokens_per_word": tokens / sum(words.frequency.values())}


def published_agreement(name: str, words: Words) -> dict[str, float]:
    """`agreement` of a whole published tokenizer, which reads each word after a space."""
    found = load_published_tokenizer(name)

    def cut(parts: Morphemes) -> list[bytes]:
        pieces = (found.pieces[number].removeprefix(b" ") for number in found.encode(" " + "".join(parts)))
        return [piece for piece in pieces if piece]

    return agreement(words, cut)
