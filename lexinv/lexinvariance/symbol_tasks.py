"""A suite of tasks on symbols that mean nothing: LookUp, Permutation, and others in the spirit of BIG-bench's, all generated.

Huang et al. 2023 ask LookUp and Permutation, whose exact format is that of the method card lexinvariant-lm, and measure semi-lexinvariance
on a subset of BIG-bench with models of 150M parameters; the others are tasks that smaller models can be asked. An item shows what a family
does on `demonstrations` lines and asks the same of one line more:

    header . input , output . input , output . ... input ,          answer: the output

All symbols are drawn anew for every item, so that which symbol it is says nothing. The families of RECALL ask for what the prompt has
shown behind the same symbols, those of RULES for something it has not shown. The tasks are ordinary `lexinv.lexinvariance.tasks.Task`s,
with the demonstrations in the input.
"""

from collections.abc import Callable, Sequence
from math import perm
from typing import NamedTuple

import numpy as np

from lexinv.lexinvariance.tasks import Example, Task
from lexinv.validation import choose, require

CHOICES = 4


ARROW, END, GAP = MARKS = ",. "
"""The characters that are no symbols: between input and output, after a line, and within an input."""

Line = tuple[str, str]


class Family(NamedTuple):
    """How the items of one task are made.

    symbols: how many different ones an item has, by `length` and number of lines.
    draw: (rng, symbols, length, lines) -> (header, the lines with their outputs, the last of which is asked).
    arrow: whether there is a mark between input and output.
    """

    description: str
    symbols: Callable[[int, int], int]
    draw: Callable[[np.random.Generator, Sequence[str], int, int], tuple[str, list[Line]]]
    arrow: bool = True


def symbol_task(
    name: str,
    rng: np.random.Generator,
    symbols: str,
    *,
    length: int,
    demonstrations: int,
    count: int,
) -> Task:
    """`count` items of the family `name`; an input has about `length` symbols.

    Each offers up to four choices in random order: the answer and other arrangements of as many symbols of the line that is asked, or,
    where the answer is not made of these, of the lines' outputs. Raises `InvalidConfig` for an unknown family, repeated symbols, marks
    among them, and fewer symbols than an item needs.
    """
    family = FAMILIES[choose("family", name, FAMILIES)]
    require(len({*symbols, *MARKS}) == len(symbols) + len(MARKS), "symbols", symbols, f"each once, none of {MARKS!r}")
    require(length >= 3, "length", length, "at least 3")
    require(demonstrations >= 3, "demonstrations", demonstrations, "at least 3")
    require(count >= 1, "count", count, "at least 1")
    needed = family.symbols(length, demonstrations + 1)
    enough = f"at least {needed} for {name!r} with length {length} and {demonstrations} demonstrations"
    require(needed <= len(symbols), "symbols", symbols, enough)
    arrow, examples = ARROW if family.arrow else "", []
    for _ in range(count):
        drawn = [symbols[index] for index in rng.permutation(len(symbols))[:needed]]
        header, lines = family.draw(rng, drawn, length, demonstrations + 1)
        *shown, (asked, answer) = lines
        parts = [header] if header else []
        parts += [*(before + arrow + after for before, after in shown), asked]
        examples.append(Example(END.join(parts), (answer,), _choices(rng, lines)))
    return Task(
        name,
        family.description,
        tuple(examples),
        keywords=("symbols", "in-context learning"),
        metrics=("exact_str_match", "multiple_choice_grade"),
        preferred_score="exact_str_match",
        example_input_prefix="",
        example_output_prefix=arrow,
        append_choices_to_input=False,
        few_shot_example_separator=END,
    )


def _choices(rng: np.random.Generator, lines: list[Line]) -> tuple[tuple[str, float], ...]:
    asked, answer = lines[-1]
    pool = set(asked) - {GAP}
    if not set(answer) <= pool:
        pool = set("".join(output for _, output in lines))
    ordered, size = sorted(pool), len(answer)
    offered = {answer: 1.0}
    while len(offered) < min(CHOICES, perm(len(pool), size)):
        offered.setdefault("".join(rng.choice(ordered, size, replace=False)), 0.0)
    texts = list(offered)
    return tuple((texts[index], offered[texts[index]]) for index in rng.permutation(len(texts)))


def _by_line(description: str, rule: Callable[[np.random.Generator, str], Line], arrow: bool = True) -> Family:
    """`rule(rng, symbols)` makes one line of `length` symbols that occur on no other."""

    def draw(rng, symbols, length, lines):
        return "", [rule(rng, word) for word in _words(symbols, length)]

    return Family(description, lambda length, lines: lines * length, draw, arrow)


def _words(symbols: Sequence[str], length: int) -> list[str]:
    return ["".join(symbols[start : start + length]) for start in range(0, len(symbols), length)]


def _again(rng: np.random.Generator, shown: list[Line]) -> tuple[str, list[Line]]:
    """The lines, and one of them asked."""
    return "", [*shown, shown[rng.integers(len(shown))]]


# Recall.


def _lookup(rng, symbols, length, lines):
    return _again(rng, [(word[0], word[1]) for word in _words(symbols, 2)])


def _word(rng, symbols, length, lines):
    return _again(rng, [(word[0], word[1:]) for word in _words(symbols, length)])


def _by_word(rng, symbols, length, lines):
    return _again(rng, [(word[:-1], word[-1]) for word in _words(symbols, length + 1)])


def _shared_ending(rng, symbols, length, lines):
    ending, *rest = symbols
    return _again(rng, [(a + ending, b) for a, b in zip(rest[: lines - 1], rest[lines - 1 :], strict=True)])


def _latest(rng, symbols, length, lines):
    facts = lines - 1
    values, keys = symbols[:facts], symbols[facts:]
    # All keys have a value each, and all but the last, where their number is odd, another one later.
    inputs = [*keys, *rng.permutation(keys[: facts // 2])]
    shown = list(zip(map(str, inputs), values, strict=True))
    return "", [*shown, shown[rng.integers(len(keys), facts)]]


def _majority(rng, symbols, length, lines):
    key, usual, other, *rest = symbols
    others = zip(rest[::2], rest[1::2], strict=True)
    shown = [(key, usual), (key, usual), (key, other), *others]
    return "", [*(shown[index] for index in rng.permutation(len(shown))), (key, usual)]


def _category(rng, symbols, length, lines):
    first, second, *keys = symbols
    labels = rng.permutation([first, second, *rng.choice([first, second], len(keys) - 2)])
    return _again(rng, list(zip(keys, map(str, labels), strict=True)))


def _complete_word(rng, symbols, length, lines):
    half = length // 2
    return _again(rng, [(word[:-half], word[-half:]) for word in _words(symbols, length)])


def _continue_cycle(rng, symbols):
    place = rng.integers(1, len(symbols))
    return symbols + symbols[:place], symbols[place]


def _successor(rng, symbols, length, lines):
    places = rng.permutation(len(symbols))[:lines]
    shown = [(symbols[place], symbols[(place + 1) % len(symbols)]) for place in places]
    return "".join([*symbols, symbols[0]]), shown


RECALL = {
    "lookup": Family("The value of a key: a,b. c,d. a -> b.", lambda length, lines: 2 * (lines - 1), _lookup),
    "word": Family(
        "The word that a symbol stands for: a,bcd. e,fgh. a -> bcd.", lambda length, lines: length * (lines - 1), _word
    ),
    "by_word": Family(
        "The symbol that a word stands for: abc,d. efg,h. abc -> d.",
        lambda length, lines: (length + 1) * (lines - 1),
        _by_word,
    ),
    "shared_ending": Family(
        "What two symbols stand for, the second of which is always the same: az,b. cz,d. az -> b.",
        lambda length, lines: 1 + 2 * (lines - 1),
        _shared_ending,
    ),
    "latest": Family(
        "The value that a key was given last: a,b. c,d. a,e. a -> e.",
        lambda length, lines: (lines - 1) + lines // 2,
        _latest,
    ),
    "majority": Family(
        "The value that a key has more often: a,b. a,c. d,e. a,b. a -> b.",
        lambda length, lines: 3 + 2 * (lines - 4),
        _majority,
    ),
    "category": Family(
        "Which of two labels a symbol has: a,x. b,y. c,x. b -> y.", lambda length, lines: 2 + (lines - 1), _category
    ),
    "complete_word": Family(
        "The end of a word that was shown: abcd. efgh. ab -> cd.",
        lambda length, lines: length * (lines - 1),
        _complete_word,
        arrow=False,
    ),
    "continue_cycle": _by_line("The next symbol of a cycle: abcdab -> c.", _continue_cycle, arrow=False),
    "successor": Family(
        "The next symbol in the cyclic order of the header: abcdefgha. b -> c; h -> a.",
        lambda length, lines: max(2 * length, lines),
        _successor,
        arrow=False,
    ),
}


# Rules.


def _permutation(rng, symbols, length, lines):
    order = np.arange(length)
    while (order == np.arange(length)).all():  # the identity is `copy`
        order = rng.permutation(length)
    return "", [(word, "".join(word[place] for place in order)) for word in _words(symbols, length)]


def _delete_marked(rng, symbols):
    place = rng.integers(len(symbols))
    return symbols[: place + 1] + GAP + symbols[place + 1 :], symbols[:place] + symbols[place + 1 :]


def _missing(rng, symbols):
    missing, *others = rng.permutation(list(symbols))
    return symbols + GAP + "".join(others), str(missing)


def _odd_one_out(rng, symbols, length, lines):
    shown = []
    for usual, odd in zip(symbols[:lines], symbols[lines:], strict=True):
        place = rng.integers(length)
        shown.append((usual * place + odd + usual * (length - place - 1), odd))
    return "", shown


def _translate(rng, symbols, length, lines):
    meaning = dict(zip(symbols[:length], symbols[length:], strict=True))
    inputs = ["".join(rng.permutation(list(meaning))[: length - 1]) for _ in range(lines)]
    header = GAP.join(key + value for key, value in meaning.items())
    return header, [(text, "".join(meaning[key] for key in text)) for text in inputs]


def _two_hop(rng, symbols, length, lines):
    starts, middles, ends = (symbols[part * lines : (part + 1) * lines] for part in range(3))
    facts = [a + b for a, b in zip([*starts, *middles], [*middles, *ends], strict=True)]
    return GAP.join(rng.permutation(facts)), list(zip(starts, ends, strict=True))


def _same_or_different(rng, symbols, length, lines):
    same, different, *rest = symbols
    equal = np.append(rng.permutation([True, False, *(rng.random(lines - 3) < 0.5)]), rng.random() < 0.5)
    pairs = zip(rest[:lines], rest[lines:], equal, strict=True)
    return "", [(a + (a if alike else b), same if alike else different) for a, b, alike in pairs]


RULES = {
    "permutation": Family(
        "The input in another order, the same on every line: abcd -> cadb.",
        lambda length, lines: lines * length,
        _permutation,
    ),
    "copy": _by_line("The input again: abcd -> abcd.", lambda rng, symbols: (symbols, symbols)),
    "reverse": _by_line("The input backwards: abcd -> dcba.", lambda rng, symbols: (symbols, symbols[::-1])),
    "first": _by_line("The first symbol: abcd -> a.", lambda rng, symbols: (symbols, symbols[0])),
    "delete_marked": _by_line("The input without the symbol before the gap: abc d -> abd.", _delete_marked),
    "missing": _by_line("The symbol that the second group lacks: abcd bda -> c.", _missing),
    "odd_one_out": Family("The symbol that occurs once: aaba -> b.", lambda length, lines: 2 * lines, _odd_one_out),
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
FAMILIES = RECALL | RULES
