"""Functions on lists of integers, in words and in code: right ones written differently, and wrong ones; running them tells which."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from experiments.subjects.program_runner import passes

STEPS = {
    "reverse it": ("x[::-1]", "list(reversed(x))", "list(x)[::-1]"),
    "sort it": ("sorted(x)", "sorted(x, key=lambda v: v)", "sorted(x[::-1])"),
    "sort it downwards": ("sorted(x, reverse=True)", "sorted(x, key=lambda v: -v)", "sorted(x)[::-1]"),
    "double each": ("[2 * v for v in x]", "[v + v for v in x]", "list(map(lambda v: v * 2, x))"),
    "add one to each": ("[v + 1 for v in x]", "[1 + v for v in x]", "list(map(lambda v: v + 1, x))"),
    "negate each": ("[-v for v in x]", "[0 - v for v in x]", "list(map(lambda v: -v, x))"),
    "square each": ("[v * v for v in x]", "[v ** 2 for v in x]", "list(map(lambda v: v * v, x))"),
    "keep the even ones": (
        "[v for v in x if v % 2 == 0]",
        "[v for v in x if not v % 2]",
        "list(filter(lambda v: v % 2 == 0, x))",
    ),
    "keep the odd ones": (
        "[v for v in x if v % 2 == 1]",
        "[v for v in x if v % 2]",
        "list(filter(lambda v: v % 2, x))",
    ),
    "keep those above zero": ("[v for v in x if v > 0]", "[v for v in x if 0 < v]", "list(filter(lambda v: v > 0, x))"),
    "drop the first": ("x[1:]", "x[1 : len(x)]", "list(x)[1:]"),
    "drop the last": ("x[:-1]", "list(x)[:-1]", "x[::-1][1:][::-1]"),
}
"""By what is asked for: the code of the reference, then other ways to write the same."""
HEAD, TAIL = "def f(x):", "\n    return x"
TESTS = 12
"""Lists that a candidate has to treat as the reference does."""


@dataclass(frozen=True)
class Problem:
    """A composition of steps: its words, the code of the reference, and of candidates [C] with whether they pass its tests."""

    words: str
    reference: str
    candidates: tuple[str, ...]
    right: tuple[bool, ...]


def code(steps: Sequence[str], ways: Sequence[int]) -> str:
    """A function of these steps, each written in one of its ways."""
    lines = [f"\n    x = {STEPS[step][way]}" for step, way in zip(steps, ways, strict=True)]
    return "".join([HEAD, *lines, TAIL])


def problems(length: int, count: int, candidates: int, seed: int, kept: float) -> list[Problem]:
    """At most `count` compositions of `length` different steps, drawn by seed; half of the candidates are meant to be right.

    A step is written as in the reference with the chance `kept`, in right and wrong candidates alike. A wrong one has one step of another
    kind, or two neighbours exchanged; whether it is wrong is what running it says. Problems whose candidates are all alike are left out.
    """
    random = np.random.default_rng(seed)
    inputs = [random.integers(-9, 10, size).tolist() for size in random.integers(3, 9, TESTS)]
    found, programs, names = [], list[str](), list(STEPS)
    compositions = list(permutations(names, length))
    for place in random.permutation(len(compositions))[:count]:
        steps = compositions[place]
        written = list[str]()
        for index in range(candidates):
            changed = list(steps)
            if index % 2:
                at = int(random.integers(length))
                if at + 1 < length and random.random() < 0.5:
                    changed[at], changed[at + 1] = changed[at + 1], changed[at]
                else:
                    changed[at] = str(random.choice([name for name in names if name != steps[at]]))
            ways = [0 if random.random() < kept else int(random.integers(1, 3)) for _ in changed]
            written.append(code(changed, ways))
        reference = code(steps, [0] * length)
        found.append((", then ".join(steps), reference, tuple(written)))
        other = reference.replace("def f", "def g")
        programs += [f"{text}\n{other}\nfor x in {inputs}:\n    assert f(x) == g(x)" for text in written]
    right = np.array(passes(programs)).reshape(len(found), candidates)
    made = [Problem(*parts, tuple(row)) for parts, row in zip(found, right.tolist(), strict=True)]
    return [problem for problem in made if 0 < sum(problem.right) < candidates]


def tokens(text: str) -> list[str]:
    """Words, numbers and signs of code or prose."""
    return re.findall(r"\w+|[^\w\s]", text)
