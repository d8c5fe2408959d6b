"""Where tokenizers cut a text without spaces, and what they keep of a text with errors."""

import re

import numpy as np

from lexinv.data.corpora import load_corpus
from lexinv.tokenization import domain, less_is_better
from lexinv.tokenization.library import train_library_bpe, train_unigram
from lexinv.tokenization.linguistic import boundary_scores, inner_ends
from lexinv.tokenization.stability import corrupt, stability
from lexinv.tokenization.tokenizers import dictionary

METHODS = ("lib", "bpe", "unigram")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SCORED = 2000
"""Clauses on which boundaries are scored, at most a fifth of all."""
SHORTEST, LONGEST = 40, 120
"""Characters of a line that gets errors."""


def clauses_of(name: str) -> list[list[str]]:
    """Clauses of a corpus's train split as words of a to z in lower case, two or more to a clause."""
    texts = (clause for text in load_corpus(name).splits["train"] for clause in re.split(r"[.,:;?!()\n]+", text))
    words = (re.findall("[a-z]+", text.lower()) for text in texts)
    return [each for each in words if len(each) > 1]


def find_words(name: str, count: int, config: less_is_better.LessIsBetter, seed: int) -> dict[str, float]:
    """F1 of the ends of words inside of clauses that were not learned from, by method; all have as many types as LiB's lexicon gets."""
    rng, found = np.random.default_rng(seed), clauses_of(name)
    order = rng.permutation(len(found))
    scored = [found[place] for place in order[: min(SCORED, len(found) // 5)]]
    learned = ["".join(found[place]) for place in order[len(scored) :][:count]]
    gold = [inner_ends(words) for words in scored]
    entries = less_is_better.learn(learned, rng, config)
    lexicon = dictionary("lib", LETTERS, tuple(dict.fromkeys([*entries, *LETTERS])))
    text, alphabet = " " + " ".join(learned), " " + LETTERS
    tokenizers = {
        "lib": lexicon,
        "bpe": train_library_bpe(text, lexicon.size, alphabet, True),
        "unigram": train_unigram(text, lexicon.size, alphabet, True, at_most=True),
    }
    scores: dict[str, float] = {"types": lexicon.size}
    for method, tokenizer in tokenizers.items():
        mark = "" if method == "lib" else " "  # the library's tokenizers are told where a clause begins
        pieces = [
            [tokenizer.vocabulary[number].strip() for number in tokenizer.encode(mark + "".join(words))]
            for words in scored
        ]
        ends = [inner_ends([piece for piece in each if piece]) for each in pieces]
        precision, recall, scores[method] = boundary_scores(ends, gold)
        scores |= {f"{method}_precision": precision, f"{method}_recall": recall}
    return scores


def keep_boundaries(name: str, cap: int | None, size: int, lines: int, rate: float, seed: int) -> dict[str, float]:
    """Mean stability, and tokens that change for each character that does, of held-out lines with errors, under a cap on tokens.

    The cap does not count one byte more, that of a leading space: as in the released trainer."""
    corpus, rng = load_corpus(name), np.random.default_rng(seed)
    documents = [text for split in corpus.splits.values() for text in split]
    order = rng.permutation(len(documents))
    held, kept = ([documents[place] for place in part] for part in np.split(order, [max(len(order) // 10, 1)]))
    tokenizer = domain.train(kept, size, most_characters=None if cap is None else cap + 1)
    clean = [line.strip()[:LONGEST] for text in held for line in text.splitlines() if line.isascii()]
    clean = [line for line in clean if len(line) >= SHORTEST]

    def encode(text: str) -> list[str]:
        return [tokenizer.pieces[number].decode() for number in tokenizer.encode(text)]

    scores = []
    for place in rng.permutation(len(clean))[:lines]:
        corrupted, alignment = corrupt(rng, clean[place], rate)
        if corrupted != clean[place]:
            scores.append(stability(encode, clean[place], corrupted, alignment))
    jaccard, amplification = np.mean(scores, axis=0)
    return {"stability": jaccard, "amplification": amplification, "lines": len(scores)}
