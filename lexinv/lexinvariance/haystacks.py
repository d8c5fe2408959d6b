"""Haystacks of random UUID pairs as JSON text, with needles and threads of known answers.

Roberts, Han and Albanie 2024 (arXiv 2411.05000), section on tasks; their repository holds no generator, and this one is written from the
descriptions. Every item is a pure function of a NumPy generator. Lengths are in characters, the one unit that all tokenizers share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from uuid import UUID

import numpy as np

from lexinv.validation import InvalidConfig, choose, require

PAIR_CHARACTERS = 80
"""Characters of `"key": "value",` and a space; the braces take the place of the last comma and space."""
UUID_CHARACTERS = 36
MARKS = ("*", "&")
PLACEMENTS = ("random", "clustered")
DIRECTIONS = ("forward", "backward", "random")
NEEDLES = "What are the values of these keys?"
THREADS = "Take the value of a key as the next key, and so on until a value is no key. What are the last values, from these keys?"
BRANCHED = (
    "Take the value of a key as the next key, and so on until a value is no key. A key may be there several times: follow the longest way. "
    "What are the last values, from these keys?"
)
Link = tuple[int, int]
"""A pair of a thread, as numbers of the symbols that are its key and its value."""


@dataclass(frozen=True)
class Item:
    """One question on one haystack. What does not apply to its task is None.

    keys: those the question names, in its order; none for conditional needles. values: the right answers, in the order of `keys`, or of
    the haystack where there are none. positions: numbers of the pairs that lead to the answers, thread by thread in the order of links.
    needle_depth: in per cent of the haystack. thread_length: links on the way to an answer.
    """

    haystack: str
    question: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    positions: tuple[int, ...]
    num_kv_pairs: int
    repeat_number: int = 0
    needle_depth: float | None = None
    num_needles: int | None = None
    needle_placement: str | None = None
    conditional_character: str | None = None
    thread_length: int | None = None
    thread_direction: str | None = None
    num_threads: int | None = None

    @property
    def context_length(self) -> int:
        """Characters of the haystack."""
        return len(self.haystack)

    @property
    def prompt(self) -> str:
        """What a solver reads: the haystack, and the question on a line of its own."""
        return f"{self.haystack}\n{self.question}"


def single_needle(rng: np.random.Generator, pairs: int, depth: float) -> Item:
    """The value of the one key at `depth` per cent of the haystack, the pair number round(depth (n - 1) / 100)."""
    require(0 <= depth <= 100, "depth", depth, "0 to 100 per cent")
    require(pairs >= 1, "pairs", pairs, "at least 1")
    position = round(depth * (pairs - 1) / 100)
    return _linked(rng, pairs, [(0, 1)], np.array([position]), [0], NEEDLES, needle_depth=depth, num_needles=1)


def multiple_needles(rng: np.random.Generator, pairs: int, needles: int, placement: str) -> Item:
    """The values of several keys, anywhere or side by side, asked for in random order."""
    positions = rng.permutation(place_needles(rng, pairs, needles, placement))
    links = [(2 * needle, 2 * needle + 1) for needle in range(needles)]
    starts = [key for key, _ in links]
    return _linked(rng, pairs, links, positions, starts, NEEDLES, num_needles=needles, needle_placement=placement)


def conditional_needles(rng: np.random.Generator, pairs: int, needles: int, placement: str, character: str) -> Item:
    """The values of all keys that contain a character no UUID has; it stands for one digit, so that all pairs have one length."""
    choose("character", character, MARKS)
    positions = np.sort(place_needles(rng, pairs, needles, placement))
    haystack = [(uuid(rng), uuid(rng)) for _ in range(pairs)]
    for position in positions:
        key, value = haystack[position]
        place = rng.choice([index for index, digit in enumerate(key) if digit != "-"])
        haystack[position] = f"{key[:place]}{character}{key[place + 1 :]}", value
    question = (
        f'What are the values of all keys that contain "{character}"? Answer with the values only, separated by commas.'
    )
    return Item(
        as_json(haystack),
        question,
        (),
        tuple(haystack[position][1] for position in positions),
        tuple(map(int, positions)),
        pairs,
        num_needles=needles,
        needle_placement=placement,
        conditional_character=character,
    )


def threads(rng: np.random.Generator, pairs: int, length: int, count: int, direction: str) -> Item:
    """The last values of `count` disjoint threads of `length` links each: every value is the next key, the last value is none."""
    require(length >= 1, "length", length, "at least 1")
    require(count >= 1, "count", count, "at least 1")
    require(length * count <= pairs, "length", length, f"threads of at most {pairs // count} links in {pairs} pairs")
    # Thread i has the symbols i (length + 1) to i (length + 1) + length.
    starts = [thread * (length + 1) for thread in range(count)]
    links = [(start + hop, start + hop + 1) for start in starts for hop in range(length)]
    spots = rng.permutation(pairs)[: length * count].reshape(count, length)
    return _linked(
        rng,
        pairs,
        links,
        np.concatenate([_in_direction(spot, direction) for spot in spots]),
        starts,
        THREADS,
        thread_length=length,
        thread_direction=direction,
        num_threads=count,
    )


def branched_thread(rng: np.random.Generator, pairs: int, links: Sequence[Link], start: int, direction: str) -> Item:
    """The end of the longest branch of a thread whose values may equal the keys of several pairs.

    links: an acyclic graph over symbols, whose pairs are placed in the order of `links` where the direction asks for one; a symbol with
    several links from it is a key that the haystack holds several times (the source's notes leave open how a value can equal several keys
    of one object; this is our reading). Raises `InvalidConfig` for a cycle, for links given twice, and where two branches are the longest.
    """
    path = longest_path(links, start)
    require(len(links) <= pairs, "links", len(links), f"at most {pairs}, one for each pair")
    positions = _in_direction(rng.permutation(pairs)[: len(links)], direction)
    return _linked(
        rng,
        pairs,
        links,
        positions,
        [start],
        BRANCHED,
        thread_length=len(path) - 1,
        thread_direction=direction,
        num_threads=1,
    )


def branched_links(rng: np.random.Generator, length: int, branches: int) -> list[Link]:
    """A thread of `length` links over the symbols 0 to `length`, with `branches` shorter ways at every value that allows one.

    From the symbols 1 to length - 2 start branches - 1 side threads of random lengths that end before the main one does. Sorted by their
    number of links from the start, so that in a forward thread no link lies before the one that leads to it.
    """
    require(length >= 1, "length", length, "at least 1")
    require(branches >= 1, "branches", branches, "at least 1")
    links = [(depth, (symbol, symbol + 1)) for depth, symbol in enumerate(range(length))]
    symbols = length + 1
    for origin in range(1, length - 1):
        for _ in range(branches - 1):
            previous = origin
            for step in range(int(rng.integers(1, length - origin))):
                links.append((origin + step, (previous, symbols)))
                previous, symbols = symbols, symbols + 1
    return [link for _, link in sorted(links, key=lambda pair: pair[0])]


def longest_path(links: Sequence[Link], start: int) -> list[int]:
    """The symbols on the longest way from `start`. Raises `InvalidConfig` for a cycle or where it is not the only one."""
    require(len(links) > 0, "links", links, "at least one")
    require(len(set(links)) == len(links), "links", links, "each once")
    following: dict[int, list[int]] = {}
    for key, value in links:
        following.setdefault(key, []).append(value)
    require(start in following, "start", start, "the key of a link")
    try:
        order = list(TopologicalSorter(following).static_order())  # what a link leads to comes before it
    except CycleError as error:
        raise InvalidConfig("links", links, f"links without a cycle, not {error.args[1]}") from None
    longest: dict[int, list[list[int]]] = {}
    for symbol in order:
        ways = [[symbol, *way] for value in following.get(symbol, []) for way in longest[value]] or [[symbol]]
        length = max(map(len, ways))
        longest[symbol] = [way for way in ways if len(way) == length][
            :2
        ]  # two are enough to know that it is not the only one
    require(len(longest[start]) == 1, "links", links, f"one longest way from {start}, not {longest[start]}")
    return longest[start][0]


def place_needles(rng: np.random.Generator, pairs: int, needles: int, placement: str) -> np.ndarray:
    """Different positions among `pairs`: a random choice, or a block that starts anywhere."""
    choose("placement", placement, PLACEMENTS)
    require(1 <= needles <= pairs, "needles", needles, f"1 to the {pairs} pairs of the haystack")
    if placement == "random":
        return rng.permutation(pairs)[:needles]
    return int(rng.integers(pairs - needles + 1)) + np.arange(needles)


def repeats(draw: Callable[[np.random.Generator], Item], seed: int, count: int) -> list[Item]:
    """Items 0 to `count` - 1 of a task; item r depends on (seed, r) alone."""
    return [replace(draw(np.random.default_rng((seed, r))), repeat_number=r) for r in range(count)]


def uuid(rng: np.random.Generator) -> str:
    """A random UUID (version 4): two of a haystack coincide with a probability below 1e-24 for a million pairs."""
    return str(UUID(bytes=rng.bytes(16), version=4))


def as_json(pairs: Sequence[tuple[str, str]]) -> str:
    """One JSON object of 80 characters per pair."""
    return "{" + ", ".join(f'"{key}": "{value}"' for key, value in pairs) + "}"


def _in_direction(spots: np.ndarray, direction: str) -> np.ndarray:
    choose("direction", direction, DIRECTIONS)
    if direction == "random":
        return spots
    return np.sort(spots) if direction == "forward" else np.sort(spots)[::-1]


def _linked(
    rng: np.random.Generator,
    pairs: int,
    links: Sequence[Link],
    positions: np.ndarray,
    starts: Sequence[int],
    question: str,
    **fields,
) -> Item:
    """Random pairs, those of `links` at `positions`, and the question for the ends of the longest ways from `starts`."""
    haystack = [(uuid(rng), uuid(rng)) for _ in range(pairs)]
    symbols = {symbol: uuid(rng) for symbol in sorted({symbol for link in links for symbol in link})}
    for position, (key, value) in zip(positions, links, strict=True):
        haystack[position] = symbols[key], symbols[value]
    keys = tuple(symbols[start] for start in starts)
    values = tuple(symbols[longest_path(links, start)[-1]] for start in starts)
    asked = f"{question} Answer with the values only, in the order of the keys, separated by commas: "
    asked += ", ".join(f'"{key}"' for key in keys)
    return Item(as_json(haystack), asked, keys, values, tuple(map(int, positions)), pairs, **fields)
