"""Tasks of text in, text out, as BIG-bench has them: reading and writing its JSON files, and building prompts.

Srivastava et al. 2022 (arXiv 2206.04615), "Beyond the Imitation Game". Only JSON tasks: nothing in a file is ever evaluated as code.
The fields and their defaults are those of the benchmark's documentation of `task.json`.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lexinv.validation import require


class Example(NamedTuple):
    """One question. `targets`: the accepted answers. `choices`: what a multiple choice offers, each with its score; may be empty."""

    input: str
    targets: tuple[str, ...]
    choices: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Task:
    """A BIG-bench JSON task. The fields after `examples` have the names and the defaults of the format."""

    name: str
    description: str
    examples: tuple[Example, ...]
    keywords: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    preferred_score: str = ""
    task_prefix: str = ""
    example_input_prefix: str = "\nQ: "
    example_output_prefix: str = "\nA: "
    choice_prefix: str = "\n  choice: "
    append_choices_to_input: bool = True
    few_shot_example_separator: str = "\n"


class Kind(NamedTuple):
    """What a field of the format holds."""

    name: str
    fits: Callable[[Any], bool]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _scored(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(map(_number, value.values()))


TEXT = Kind("a string", lambda value: isinstance(value, str))
TEXTS = Kind("a list of strings", _texts)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
FIELDS = {
    "name": Kind("a string that is not empty", lambda value: isinstance(value, str) and value != ""),
    "description": TEXT,
    "keywords": TEXTS,
    "metrics": TEXTS,
    "preferred_score": TEXT,
    "task_prefix": TEXT,
    "example_input_prefix": TEXT,
    "example_output_prefix": TEXT,
    "choice_prefix": TEXT,
    "append_choices_to_input": FLAG,
    "few_shot_example_separator": TEXT,
    "examples": Kind("a list of examples, at least one", lambda value: isinstance(value, list) and len(value) > 0),
}
REQUIRED = ("name", "description", "keywords", "metrics", "examples")
EXAMPLE_FIELDS = {
    "input": TEXT,
    "target": Kind(
        "a string or a list of strings", lambda value: isinstance(value, str) or (_texts(value) and len(value) > 0)
    ),
    "target_scores": Kind("an object of choices with a number each", _scored),
}


def prompts(task: Task, rng: np.random.Generator, shots: int = 0) -> list[str]:
    """What a model reads before it answers, for every example: `shots` other examples with an accepted answer each, then the example.

    Choices, where the task shows them, are shuffled. Raises `InvalidConfig` for more shots than there are other examples.
    """
    others = len(task.examples) - 1
    require(0 <= shots <= others, "shots", shots, f"0 to {others}, the other examples of {task.name!r}")

    def asked(example: Example) -> str:
        offered = [choice for choice, _ in example.choices] if task.append_choices_to_input else []
        listed = (task.choice_prefix + offered[index] for index in rng.permutation(len(offered)))
        return "".join([task.example_input_prefix, example.input, *listed, task.example_output_prefix])

    texts = []
    for index, example in enumerate(task.examples):
        drawn = rng.choice(others, shots, replace=False) if shots else []
        shown = [task.examples[other + (other >= index)] for other in drawn]  # all but the example itself
        solved = [asked(other) + other.targets[0] for other in shown]
        texts.append(task.task_prefix + task.few_shot_example_separator.join([*solved, asked(example)]))
    return texts


def as_bigbench(task: Task) -> dict[str, Any]:
    """The JSON object of the task's file; `load_bigbench` reads it back as an equal task."""
    examples = [
        {"input": example.input, "target": list(example.targets)}
        | ({"target_scores": dict(example.choices)} if example.choices else {})
        for example in task.examples
    ]
    return {field: getattr(task, field) for field in FIELDS} | {"examples": examples}


class Problem(NamedTuple):
    """What is wrong with a task file: the field, such as `examples[3].input`, and what it must be."""

    file: Path
    field: str
    wrong: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field} {self.wrong}"


class Loaded(NamedTuple):
    """What could be read, and a line for everything that could not."""

    tasks: list[Task]
    problems: list[Problem]


def load_bigbench(path: Path) -> Loaded:
    """Read one JSON task file, or all of a folder: every `*.json` directly in it and every `task.json` below it.

    Whatever is missing or not of its type is a `Problem`, and the rest still loads: a bad field has its default, a bad example is left
    out; a file that is no JSON object, or has no name or no good example, gives no task. Fields that are not in `FIELDS` are ignored. As
    in BIG-bench, an example without `target` accepts its choices of the highest score.
    Raises `InvalidConfig` where there is no such file, and for a folder without one.
    """
    files = [path] if path.is_file() else sorted({*path.glob("*.json"), *path.rglob("task.json")})
    require(len(files) > 0, "path", str(path), "a JSON task file or a folder of them")
    loaded = Loaded([], [])
    for file in files:
        task, problems = _read(file)
        loaded.tasks.extend([] if task is None else [task])
        loaded.problems.extend(problems)
    return loaded


def _read(file: Path) -> tuple[Task | None, list[Problem]]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return None, [Problem(file, "as a whole", f"cannot be read as JSON: {error}")]
    if not isinstance(content, dict):
        return None, [Problem(file, "as a whole", f"is {_shown(content)}, not an object")]
    fields, problems = _fields(content, FIELDS, REQUIRED, file)
    examples = []
    for index, row in enumerate(fields.pop("examples", [])):
        at = f"examples[{index}]"
        if not isinstance(row, dict):
            problems.append(Problem(file, at, f"is {_shown(row)}, not an object"))
            continue
        required = ("input",) if "target_scores" in row else ("input", "target")
        parts, wrong = _fields(row, EXAMPLE_FIELDS, required, file, f"{at}.")
        problems += wrong
        if not wrong:
            examples.append(_example(**parts))
    if "name" not in fields or not examples:
        return None, problems
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in fields.items()}
    return Task(**{"description": "", **given, "examples": tuple(examples)}), problems


def _fields(
    content: dict[str, Any], kinds: dict[str, Kind], required: tuple[str, ...], file: Path, at: str = ""
) -> tuple[dict[str, Any], list[Problem]]:
    """The known fields of a JSON object that are what they must be, and the problems of the others."""
    good, problems = {}, []
    for field, kind in kinds.items():
        if field not in content:
            if field in required:
                problems.append(Problem(file, f"{at}{field}", "is missing"))
        elif kind.fits(content[field]):
            good[field] = content[field]
        else:
            problems.append(Problem(file, f"{at}{field}", f"is {_shown(content[field])}, not {kind.name}"))
    return good, problems


def _example(
    input: str, target: str | list[str] | None = None, target_scores: Mapping[str, int | float] | None = None
) -> Example:
    choices = tuple((choice, float(score)) for choice, score in (target_scores or {}).items())
    best = max((score for _, score in choices), default=0.0)
    if target is None:
        target = [choice for choice, score in choices if score == best]
    return Example(input, (target,) if isinstance(target, str) else tuple(target), choices)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
