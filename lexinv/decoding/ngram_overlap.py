"""How much of a text's n-grams a reference has: BLEU and chrF as sacrebleu computes them, and F1. Tokens are anything hashable."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from lexinv.validation import require

Tokens = Sequence[Hashable]


def ngrams(tokens: Tokens, n: int) -> Counter:
    """How often each n-gram occurs."""
    require(n >= 1, "n", n, "at least 1")
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def matches(hypothesis: Tokens, reference: Tokens, n: int) -> tuple[int, int, int]:
    """(n-grams of both, each as often as both have it; of the hypothesis; of the reference)."""
    ours, theirs = ngrams(hypothesis, n), ngrams(reference, n)
    return (ours & theirs).total(), ours.total(), theirs.total()


def ngram_f1(hypotheses: Sequence[Tokens], references: Sequence[Tokens], n: int) -> float:
    """Mean over pairs of the harmonic mean of precision and recall of n-grams, 0 to 1; 0 for a pair without one."""
    found = [matches(*pair, n) for pair in zip(hypotheses, references, strict=True)]
    return sum(2 * both / max(ours + theirs, 1) for both, ours, theirs in found) / len(found)


def bleu(hypotheses: Sequence[Tokens], references: Sequence[Tokens], order: int = 4) -> float:
    """BLEU of a corpus with a reference each, 0 to 100 (Papineni et al. 2002): n-gram precisions are pooled over all pairs.

    A precision without a match is taken as 1 / (2^k total), k counting those from the left (sacrebleu's `exp`). Orders for which the
    hypotheses are too short are left out, as sacrebleu does for single sentences, so that a text against itself is 100 at any length.
    """
    pairs = list(zip(hypotheses, references, strict=True))
    missed, logs = 0, list[float]()
    for n in range(1, order + 1):
        both, ours, _ = map(sum, zip(*(matches(*pair, n) for pair in pairs), strict=True))
        if ours == 0:
            break
        missed += both == 0
        logs.append(math.log(both / ours if both else 1 / (2**missed * ours)))
    if not logs or missed == len(logs):  # no word in common: sacrebleu's smoothing begins where there is one
        return 0.0
    lengths = [sum(map(len, side)) for side in zip(*pairs, strict=True)]
    return 100 * math.exp(min(0.0, 1 - lengths[1] / lengths[0]) + sum(logs) / len(logs))


def chrf(hypothesis: str, reference: str, order: int = 6, beta: float = 2.0) -> float:
    """chrF, 0 to 100 (Popovic 2015): F_beta of the mean precision and recall of 1- to 6-grams of characters, whitespace left out.

    Orders that one of the two texts is too short for are left out.
    """
    ours, theirs = ("".join(text.split()) for text in (hypothesis, reference))
    found = [matches(ours, theirs, n) for n in range(1, order + 1)]
    found = [(both / of_ours, both / of_theirs) for both, of_ours, of_theirs in found if of_ours and of_theirs]
    if not found:
        return 0.0
    precision, recall = (sum(side) / len(found) for side in zip(*found, strict=True))
    bottom = beta**2 * precision + recall
    return 100 * (1 + beta**2) * precision * recall / bottom if bottom else 0.0
