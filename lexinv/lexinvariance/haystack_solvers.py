"""Solvers of haystack questions with planted faults, by which measures are checked, and solvers without any skill, as baselines.

They read the text of a prompt and nothing else, as a language model would, and are pure functions of it.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from lexinv.lexinvariance.haystack_scores import NOTHING
from lexinv.lexinvariance.haystacks import MARKS, UUID_CHARACTERS
from lexinv.validation import require

Solver = Callable[[str], str]
_PAIR = re.compile(rf'"([^"]{{{UUID_CHARACTERS}}})": "([^"]{{{UUID_CHARACTERS}}})"')
_KEY = re.compile(rf'"([^"]{{{UUID_CHARACTERS}}})"')
_MARK = re.compile(rf'"([{"".join(MARKS)}])"')


def perfect(prompt: str) -> str:
    """All right."""
    return _solve(prompt, _all)


def window_limited(window: int) -> Solver:
    """Sees the last `window` characters of the haystack; a pair that is cut is not seen."""
    require(window >= 1, "window", window, "at least 1 character")
    return partial(_solve, view=lambda haystack: haystack[-window:])


def middle_blind(share: float) -> Solver:
    """Does not see the `share` of the haystack around its middle, nor a pair of which a part is there."""
    require(0 < share <= 1, "share", share, "a share above 0")

    def view(haystack: str) -> str:
        edge = round(len(haystack) * (1 - share) / 2)
        return f"{haystack[:edge]}\n{haystack[len(haystack) - edge :]}"

    return partial(_solve, view=view)


def hop_error(error: float, seed: int) -> Solver:
    """Loses a thread with probability `error` at every link, and then answers nothing: right with probability (1 - error)^length."""
    require(0 <= error <= 1, "error", error, "a probability")

    def solve(prompt: str) -> str:
        rng = np.random.default_rng((seed, zlib.crc32(prompt.encode())))
        return _solve(prompt, _all, lambda links: bool((rng.random(links) >= error).all()))

    return solve


def any_value(seed: int) -> Solver:
    """Without reading: for every key that is asked for some value of the haystack."""

    def solve(prompt: str) -> str:
        pairs, keys = _read(prompt, _all)
        rng = np.random.default_rng((seed, zlib.crc32(prompt.encode())))
        return ", ".join(pairs[int(rng.integers(len(pairs)))][1] for _ in keys)

    return solve


def most_recent(prompt: str) -> str:
    """Without reading: the last value of the haystack for every key."""
    pairs, keys = _read(prompt, _all)
    return ", ".join(pairs[-1][1] for _ in keys)


def one_link(prompt: str) -> str:
    """Copies the value beside each key, and does not follow it."""
    pairs, keys = _read(prompt, _all)
    beside = dict(reversed(pairs))
    return ", ".join(beside.get(key, NOTHING) for key in keys)


def _all(haystack: str) -> str:
    return haystack


def _solve(prompt: str, view: Callable[[str], str], kept: Callable[[int], bool] = lambda links: True) -> str:
    """Answer from what `view` leaves of the haystack, and only the threads of which `kept(links)` is true."""
    pairs, keys = _read(prompt, view)
    seen: dict[str, list[str]] = {}
    for key, value in pairs:
        seen.setdefault(key, []).append(value)
    ways = [_longest_way(seen, key) for key in keys]
    return ", ".join(way[-1] if len(way) > 1 and kept(len(way) - 1) else NOTHING for way in ways)


def _read(prompt: str, view: Callable[[str], str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The pairs that `view` leaves of the haystack, and the keys that are asked for: named ones, or those there with the mark."""
    haystack, question = prompt.split("\n")
    pairs, mark = _PAIR.findall(view(haystack)), _MARK.search(question)
    return pairs, [key for key, _ in pairs if mark[1] in key] if mark else _KEY.findall(question)


def _longest_way(seen: Mapping[str, Sequence[str]], key: str) -> list[str]:
    """The key, its value, the value of that, and so on."""
    return [key, *max((_longest_way(seen, value) for value in seen.get(key, ())), key=len, default=[])]
