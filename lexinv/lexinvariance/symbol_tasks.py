"""A suite of symbol-manipulation tasks in the spirit of BIG-bench's, generated, with symbols that mean nothing.

Huang et al. 2023 measure semi-lexinvariance on a subset of BIG-bench with models of 150M parameters; these are tasks that smaller models
can be asked. An item shows what a family does on `demonstrations` lines and asks the same of one line more:

    header . input , output . input , output . ... input ,          answer: the output

All symbols are drawn anew for every item, without replacement, so that which symbol it is says nothing; only four families use a symbol
on several lines. The tasks are ordinary `lexinv.lexinvariance.tasks.Task`s, with the demonstrations in the input.
"""

from collections.abc import Callable, Sequence
from math import perm
from typing import NamedTuple

import numpy as np

from lexinv.lexinvariance.tasks import Example, Task
from lexinv.validation import choose, require

CHOICES = 4


class Marks(NamedTuple):
    """The characters that are no symbols: between input and output, after a line, and within an input."""

    arrow: str = ","
    end: str = "."
    gap: str = " "


MARKS = Marks()
Line = tuple[str, str]
Symbols = Sequence[str]


class Family(NamedTuple):
    """How the items of one task are made.

    symbols: how many different ones an item has, by `length` and number of lines.
    draw: (rng, symbols, length, lines, gap) -> (header, the lines with their outputs, the last of which is asked).
    """

    description: str
    symbols: Callable[[int, int], int]
    draw: Callable[[np.random.Generator, Symbols, int, int, str], tuple[str, list[Line]]]


def symbol_task(
    name: str,
    rng: np.random.Generator,
    symbols: str,
    *,
    length: int,
    demonstrations: int,
    count: int,
    marks: Marks = MARKS,
) -> Task:
    """`count` items of the family `name`; an input has about `length` symbols.

    Each offers up to four choices in random order: the answer and other arrangements of as many symbols of the line that is asked, or,
    where the answer is not made of these, of the lines' outputs. Raises `InvalidConfig` for an unknown family, repeated symbols, marks
    among them, and fewer symbols than an item needs.
    """
    family = FAMILIES[choose("family", name, FAMILIES)]
    require(len(set(symbols + "".join(marks))) == len(symbols) + 3, "symbols", symbols, f"each once, none of {marks}")
    require(length >= 3, "length", length, "at least 3")
    require(demonstrations >= 2, "demonstrations", demonstrations, "at least 2")
    require(count >= 1, "count", count, "at least 1")
    needed = family.symbols(length, demonstrations + 1)
    enough = f"at least {needed} for {name!r} with length {length} and {demonstrations} demonstrations"
    require(needed <= len(symbols), "symbols", symbols, enough)
    examples = []
    for _ in range(count):
        drawn = [symbols[index] for index in rng.permutation(len(symbols))[:needed]]
        header, lines = family.draw(rng, drawn, length, demonstrations + 1, marks.gap)
        *shown, (asked, answer) = lines
        parts = [header] if header else []
        parts += [*(before + marks.arrow + after for before, after in shown), asked]
        examples.append(Example(marks.end.join(parts), (answer,), _choices(rng, lines, marks.gap)))
    return Task(
        name,
        family.description,
        tuple(examples),
        keywords=("symbols", "in-context learning"),
        metrics=("exact_str_match", "multiple_choice_grade"),
        preferred_score="exact_str_match",
        example_input_prefix="",
        example_output_prefix=marks.arrow,
        append_choices_to_input=False,
        few_shot_example_separator=marks.end,
    )


def _choices(rng: np.random.Generator, lines: list[Line], gap: str) -> tuple[tuple[str, float], ...]:
    asked, answer = lines[-1]
    pool = set(asked) - {gap}
    if not set(answer) <= pool:
        pool = set("".join(output for _, output in lines))
    ordered, size = sorted(pool), len(answer)
    offered = {answer: 1.0}
    while len(offered) < min(CHOICES, perm(len(pool), size)):
        offered.setdefault("".join(rng.choice(ordered, size, replace=False)), 0.0)
    texts = list(offered)
    return tuple((texts[index], offered[texts[index]]) for index in rng.permutation(len(texts)))


# Families whose lines have nothing in common but the rule.


def _by_line(description: str, taken: Callable[[int], int], rule: Callable[..., Line]) -> Family:
    """`rule(rng, symbols, gap)` makes one line of `taken(length)` symbols that occur on no other."""

    def draw(rng, symbols, length, lines, gap):
        each = taken(length)
        return "", [rule(rng, "".join(symbols[line * each : (line + 1) * each]), gap) for line in range(lines)]

    return Family(description, lambda length, lines: lines * taken(length), draw)


def _repeated(rng, symbols, gap):
    shown = "".join(rng.permutation([*symbols, symbols[0]]))
    return shown, symbols[0]


def _delete_marked(rng, symbols, gap):
    place = rng.integers(len(symbols))
    return symbols[: place + 1] + gap + symbols[place + 1 :], symbols[:place] + symbols[place + 1 :]


def _interleave(rng, symbols, gap):
    half = len(symbols) // 2
    pairs = zip(symbols[:half], symbols[half:], strict=True)
    return symbols[:half] + gap + symbols[half:], "".join(left + right for left, right in pairs)


def _missing(rng, symbols, gap):
    missing, *others = rng.permutation(list(symbols))
    return symbols + gap + "".join(others), str(missing)


def _continue_cycle(rng, symbols, gap):
    place = rng.integers(1, len(symbols))
    return symbols + symbols[:place], symbols[place]


# Families whose lines have something in common, or symbols that they show several times.


def _odd_one_out(rng, symbols, length, lines, gap):
    shown = []
    for usual, odd in zip(symbols[:lines], symbols[lines:], strict=True):
        place = rng.integers(length)
        shown.append((usual * place + odd + usual * (length - place - 1), odd))
    return "", shown


def _successor(rng, symbols, length, lines, gap):
    places = rng.permutation(len(symbols))[:lines]
    return "".join(symbols), [(symbols[place], symbols[(place + 1) % len(symbols)]) for place in places]


def _translate(rng, symbols, length, lines, gap):
    meaning = dict(zip(symbols[:length], symbols[length:], strict=True))
    inputs = ["".join(rng.permutation(list(meaning))[: length - 1]) for _ in range(lines)]
    header = gap.join(key + value for key, value in meaning.items())
    return header, [(text, "".join(meaning[key] for key in text)) for text in inputs]


def _two_hop(rng, symbols, length, lines, gap):
    starts, middles, ends = (symbols[part * lines : (part + 1) * lines] for part in range(3))
    facts = [a + b for a, b in zip([*starts, *middles], [*middles, *ends], strict=True)]
    return gap.join(rng.permutation(facts)), list(zip(starts, ends, strict=True))


def _same_or_different(rng, symbols, length, lines, gap):
    same, different, *rest = symbols
    equal = np.append(rng.permutation([True, False, *(rng.random(lines - 3) < 0.5)]), rng.random() < 0.5)
    pairs = zip(rest[:lines], rest[lines:], equal, strict=True)
    return "", [(a + (a if alike else b), same if alike else different) for a, b, alike in pairs]


FAMILIES = {
    "copy": _by_line("The input again: abcd -> abcd.", lambda length: length, lambda rng, s, gap: (s, s)),
    "reverse": _by_line("The input backwards: abcd -> dcba.", lambda length: length, lambda rng, s, gap: (s, s[::-1])),
    "first": _by_line("The first symbol: abcd -> a.", lambda length: length, lambda rng, s, gap: (s, s[0])),
    "last": _by_line("The last symbol: abcd -> d.", lambda length: length, lambda rng, s, gap: (s, s[-1])),
    "swap_ends": _by_line(
        "The first and the last symbol exchanged: abcd -> dbca.",
        lambda length: length,
        lambda rng, s, gap: (s, s[-1] + s[1:-1] + s[0]),
    ),
    "delete_marked": _by_line(
        "The input without the symbol before the gap: abc d -> abd.", lambda length: length, _delete_marked
    ),
    "interleave": _by_line(
        "Two halves merged symbol by symbol: ab cd -> acbd.", lambda length: length // 2 * 2, _interleave
    ),
    "repeated": _by_line("The symbol that occurs twice: acba -> a.", lambda length: length - 1, _repeated),
    "missing": _by_line("The symbol that the second group lacks: abcd bda -> c.", lambda length: length, _missing),
    "continue_cycle": _by_line("The next symbol of a cycle: abcdab -> c.", lambda length: length, _continue_cycle),
    "odd_one_out": Family("The symbol that occurs once: aaba -> b.", lambda length, lines: 2 * lines, _odd_one_out),
    "successor": Family(
        "The symbol after this one in the cyclic order of the header: abcdefgh. b -> c; h -> a.",
        lambda length, lines: max(2 * length, lines),
        _successor,
    ),
    "translate": Family(
        "Symbol by symbol by the dictionary of the header: ax by cz dw. bdc -> ywz.",
        lambda length, lines: 2 * length,
        _translate,
    ),
    "two_hop": Family(
        "Two steps along the pairs of the header: ab de bc ef. a -> c.", lambda length, lines: 3 * lines, _two_hop
    ),
    "same_or_different": Family(
        "One label for two equal symbols and one for two different ones, as the demonstrations, which have both, show: aa -> x; bc -> y.",
        lambda length, lines: 2 + 2 * lines,
        _same_or_different,
    ),
}
