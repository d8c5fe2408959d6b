"""What errors in a text do to its tokens (Bommarito et al. 2025, KL3M: stated by one example there; the two numbers are ours)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from lexinv.validation import require

Alignment = Int64[np.ndarray, " places"]
"""For each place between characters of the clean text, from 0 to its length, the place in the corrupted one; never falling."""


def stability(
    encode: Callable[[str], Sequence[str]], clean: str, corrupted: str, alignment: Alignment
) -> tuple[float, float]:
    """How much of the boundaries between tokens an error leaves, and how many tokens it changes.

    encode: a text to tokens that joined are the text. jaccard: of the places of the clean text that have a boundary there, and those whose
    place in the corrupted text has one; both ends of the text left out. 1 where there are none. amplification: edits (insert, delete,
    substitute) between the tokens over edits between the characters; 1 where nothing differs.
    """
    fits = len(alignment) == len(clean) + 1 and int(alignment[-1]) == len(corrupted)
    require(fits, "alignment", len(alignment), f"a place for each of the {len(clean) + 1} in the clean text")
    tokens = encode(clean), encode(corrupted)
    cuts = [np.cumsum([0, *map(len, each)]) for each in tokens]
    before = np.isin(np.arange(len(clean) + 1), cuts[0])[1:-1]
    after = np.isin(alignment, cuts[1])[1:-1]
    either = np.count_nonzero(before | after)
    jaccard = np.count_nonzero(before & after) / either if either else 1.0
    errors = edit_distance(clean, corrupted)
    return jaccard, edit_distance(*tokens) / errors if errors else 1.0


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The fewest insertions, deletions and substitutions that make one sequence the other (Levenshtein 1966)."""
    numbers: dict[Any, int] = {}
    rows, columns = (np.array([numbers.setdefault(each, len(numbers)) for each in side], int) for side in (one, other))
    places = np.arange(len(columns) + 1)
    cost = places.copy()
    for number, symbol in enumerate(rows, 1):
        best = np.append(number, np.minimum(cost[1:] + 1, cost[:-1] + (columns != symbol)))
        cost = np.minimum.accumulate(best - places) + places  # insertions from the left
    return int(cost[-1])


def corrupt(rng: np.random.Generator, text: str, rate: float) -> tuple[str, Alignment]:
    """A text with errors, and where its places are now.

    Each character has one with probability `rate`, of four kinds alike: another letter of the text in its place, itself left out, a space
    put before it, or itself exchanged with the next. Raises `InvalidConfig` for a rate that is no probability, and for an empty text.
    """
    require(0 <= rate <= 1, "rate", rate, "from 0 to 1")
    require(len(text) > 0, "text", text, "one that is not empty")
    letters, written = sorted(set(text)), list(text)
    kinds: Int[np.ndarray, " characters"] = np.where(rng.random(len(text)) < rate, rng.integers(0, 4, len(text)), -1)
    swapped = -1
    for place in np.flatnonzero(kinds >= 0).tolist():
        if kinds[place] == 0:
            written[place] = letters[int(rng.integers(len(letters)))]
        elif kinds[place] == 1:
            written[place] = ""
        elif kinds[place] == 2:
            written[place] = " " + text[place]
        elif place + 1 < len(text) and kinds[place + 1] < 0 and swapped < place:
            written[place], written[place + 1] = text[place + 1], text[place]
            swapped = place + 1
    return "".join(written), np.cumsum([0, *map(len, written)])
