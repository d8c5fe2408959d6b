"""The suite of symbol tasks as a model of text is asked it: in characters of the text's tokenizer, for exact answers."""

import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.subjects.text import Text
from lexinv.lexinvariance.symbol_tasks import FAMILIES, MARKS, symbol_task
from lexinv.lexinvariance.task_scores import LENGTHS, Answer, Logits, Scores, chance, encode_answers, score_task
from lexinv.lexinvariance.tasks import Task, load_bigbench, prompts
from lexinv.validation import Checked, Count, CountOrZero, require

Accuracies = dict[str, dict[str, float]]
"""By scoring and task: an answer is the most probable among the "whole" vocabulary, or among the symbols that the "prompt" shows."""


@dataclass(frozen=True)
class SuiteConfig(Checked):
    """The tasks. length, demonstrations, symbols: see `lexinv.lexinvariance.symbol_tasks`. items: of each family and seed.

    bigbench: a BIG-bench JSON task file or a folder of them to be asked beside the suite, each example after `shots` others; no claim is
    about them.
    """

    length: Count = 4
    demonstrations: Count = 4
    items: Count = 64
    symbols: str = "abcdefghijklmnopqrstuvwxyz"
    bigbench: str | None = None
    shots: CountOrZero = 0

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        for name in FAMILIES:
            self.draw(name, seed=0, items=1)  # refuses sizes that the symbols do not allow
        yield from ()

    def draw(self, name: str, seed: int, items: int) -> Task:
        """A family's task without choices; every seed and every family has its own random items."""
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        sizes = {"length": self.length, "demonstrations": self.demonstrations, "count": items}
        task = symbol_task(name, rng, self.symbols, **sizes)
        return replace(task, examples=tuple(example._replace(choices=()) for example in task.examples))

    def others(self) -> list[Task]:
        """Those of `bigbench`; warns of every problem of their files. Raises `InvalidConfig` where two tasks have one name."""
        if self.bigbench is None:
            return []
        tasks, problems = load_bigbench(Path(self.bigbench))
        for problem in problems:
            warnings.warn(str(problem), stacklevel=2)
        for index, task in enumerate(tasks):
            taken = {*FAMILIES, *(other.name for other in tasks[:index])}
            require(task.name not in taken, "bigbench", task.name, "tasks with different names, none of the suite's")
        return tasks


class Suite(NamedTuple):
    """The tasks of one seed with their answers as tokens behind the prompts, and the tokens of the marks."""

    tasks: dict[str, tuple[Task, list[list[Answer]]]]
    marks: frozenset[int]
    vocab: int


def spell(config: SuiteConfig, text: Text, context: int, seed: int) -> Suite:
    """All tasks with the prompts of one seed, the same for all models.

    Raises `InvalidConfig` for prompts that `context` does not hold, and where the tokenizer does not keep a symbol or mark as one token.
    """
    ids = {}
    for character in (*config.symbols, *MARKS):
        around = f"{config.symbols[0]}{character}{config.symbols[0]}"
        encoded = text.tokenizer.encode(around).tolist()
        kept = len(encoded) == 3 and text.tokenizer.decode(encoded) == around
        require(kept, "symbols", character, f"characters that are one token of {text.tokenizer.name!r}")
        ids[character] = encoded[1]
    longest = context // LENGTHS * LENGTHS  # so that it fits after padding too
    tasks = {}
    for task in [*(config.draw(name, seed, config.items) for name in FAMILIES), *config.others()]:
        asked = prompts(task, np.random.default_rng(seed), 0 if task.name in FAMILIES else config.shots)
        tasks[task.name] = task, encode_answers(task, asked, text.tokenizer.encode, longest)
    return Suite(tasks, frozenset(ids[mark] for mark in MARKS), text.vocab)


def accuracies(logits: Logits, suite: Suite, batch_size: int) -> Accuracies:
    """The shares of exact answers that a model gives."""
    return means(
        {
            name: score_task(logits, *asked, marks=suite.marks, batch_size=batch_size)
            for name, asked in suite.tasks.items()
        }
    )


def guessed(suite: Suite) -> Accuracies:
    """The shares that guessing gets in expectation."""
    return means({name: chance(*asked, suite.vocab, suite.marks) for name, asked in suite.tasks.items()})


def means(scores: Mapping[str, Scores]) -> Accuracies:
    """Over the examples; "grade" of the tasks with choices, where there are any."""
    found = {
        scoring: {name: float(column.mean()) for name, each in scores.items() if len(column := getattr(each, scoring))}
        for scoring in Scores._fields
    }
    return {scoring: by_task for scoring, by_task in found.items() if by_task}
