"""Scoring answers to haystack questions, and the length of context up to which a solver is good.

Roberts, Han and Albanie 2024 (arXiv 2411.05000), sections on evaluation and on effective context length. They parse replies with a
language model; here every UUID of a reply is an answer, so that no second model is judged too.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from lexinv.lexinvariance.haystacks import Item
from lexinv.validation import require

NOTHING = "none"
"""What a solver writes in the place of a value that it did not find."""
_ANSWER = re.compile(rf"[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}|\b{NOTHING}\b")


def evaluate(
    answer: Callable[[str], str],
    items: Sequence[Item],
    limit: int | None = None,
    length: Callable[[str], int] = len,
) -> Float[np.ndarray, " items"]:
    """The share of right values in the reply `answer(prompt)` to every item.

    limit: the solver's window, in the unit of `length`: characters, or whatever its tokenizer counts. Raises `InvalidConfig` before
    anything is asked if a prompt is longer: a window that silently drops the head of the haystack would be scored as a bad memory.
    """
    require(len(items) > 0, "items", len(items), "at least one")
    if limit is not None:
        longest = max(length(item.prompt) for item in items)
        require(
            longest <= limit, "prompt", longest, f"at most the solver's window of {limit}: nothing is cut off silently"
        )
    return np.array([fraction_right(parse(answer(item.prompt)), item) for item in items])


def parse(reply: str) -> list[str]:
    """The values in a reply, in its order."""
    return _ANSWER.findall(reply.lower())


def fraction_right(answers: Sequence[str], item: Item) -> float:
    """The share of right values: equal to the wanted one in its place, or in any order where the question names no keys.

    More answers than wanted count as wrong ones: a reply that lists the whole haystack scores next to nothing (ours).
    """
    if item.keys:
        right = sum(answer == value for answer, value in zip(answers, item.values, strict=False))
    else:
        right = (Counter(answers) & Counter(item.values)).total()
    return right / max(len(answers), len(item.values))


def effective_length(
    lengths: Float[np.ndarray, " lengths"], accuracy: Float[np.ndarray, " lengths"], level: float
) -> float:
    """The longest context up to which accuracy is at least `level`, in the unit of `lengths`; 0 where it starts below.

    Between two lengths accuracy is interpolated linearly. Where it never falls below the level this is the last length: the true value
    may be greater. Raises `InvalidConfig` for lengths that do not ascend and a level that is no share.
    """
    return float(contour(lengths, accuracy[None], level)[0])


def contour(
    lengths: Float[np.ndarray, " lengths"], accuracy: Float[np.ndarray, "values lengths"], level: float
) -> Float[np.ndarray, " values"]:
    """`effective_length` for every value of a task variable, such as the length of the thread.

    These are the points at the measured values of the contour at `level` of the accuracy interpolated over (length, task variable). Where
    that surface rises again further on, the contour has more points; only the first counts.
    """
    ascending = len(lengths) > 0 and bool((np.diff(lengths, prepend=0) > 0).all())
    require(ascending, "lengths", lengths.tolist(), "positive and ascending")
    require(0 < level <= 1, "level", level, "a share above 0")
    limits = []
    for row in accuracy:
        failed = np.flatnonzero(row < level)
        if not len(failed):
            limits.append(lengths[-1])
        elif failed[0] == 0:
            limits.append(0.0)
        else:
            pair = slice(failed[0] - 1, failed[0] + 1)
            limits.append(np.interp(-level, -row[pair], lengths[pair]))  # interp wants ascending abscissae
    return np.array(limits, np.float64)
