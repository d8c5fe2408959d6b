"""Sweeps as values: lists of overrides by dotted names, combined by product, zip and chain, and the configurations they give."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from experiments.harness.config import from_json, to_json
from lexinv.validation import InvalidConfig, choose, require

Config = TypeVar("Config")

Overrides = dict[str, Any]
"""Values by dotted name: one trial."""

Sweep = list[Overrides]

SEEDS = ("seeds", "training.seeds")
"""Where an experiment has its seeds."""

WORDS = {"None": None, "True": True, "False": False}


def product(*sweeps: Sweep) -> Sweep:
    """Every combination of one trial of each sweep, the last one changing fastest. Raises `InvalidConfig` for a name in two of them."""
    _each_name_once(sweeps)
    return [_merged(trials) for trials in itertools.product(*sweeps)]


def zipped(*sweeps: Sweep) -> Sweep:
    """The first trials of all sweeps together, then the second ones. Raises `InvalidConfig` for lengths that differ, or a name twice."""
    _each_name_once(sweeps)
    lengths = {", ".join(names(sweep)): len(sweep) for sweep in sweeps}
    require(len(set(lengths.values())) <= 1, "--zip", lengths, "fields with equally many values")
    return [_merged(trials) for trials in zip(*sweeps, strict=True)]


def chain(*sweeps: Sweep) -> Sweep:
    """The trials of one sweep after those of another."""
    return [dict(trial) for sweep in sweeps for trial in sweep]


def names(sweep: Sweep) -> list[str]:
    """The fields that a sweep sets, in the order in which they first appear."""
    return list(dict.fromkeys(name for trial in sweep for name in trial))


def _merged(trials: Sequence[Overrides]) -> Overrides:
    return {name: value for trial in trials for name, value in trial.items()}


def _each_name_once(sweeps: Sequence[Sweep]) -> None:
    swept = [name for sweep in sweeps for name in names(sweep)]
    twice = next((name for name in swept if swept.count(name) > 1), None)
    require(twice is None, "sweep", twice, "each field once")


def fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """The type of every field of a configuration by its dotted name, the parts that hold others included."""
    hints, found = get_type_hints(type(config)), {}
    for field in dataclasses.fields(config):
        name, value = f"{prefix}{field.name}", getattr(config, field.name)
        found[name] = hints[field.name]
        if dataclasses.is_dataclass(value):
            found |= fields(value, f"{name}.")
    return found


def read_values(config: Any, argument: str, option: str = "--grid") -> Sweep:
    """The sweep of one field that FIELD=V1,V2,... says, hyphens in the name as good as underscores.

    A value is JSON (lists in brackets), a bare word, None, True or False, and has to be of the field's type. Raises `InvalidConfig`
    for an unknown field with the known ones, and for a value with what is allowed.
    """
    name, equals, text = argument.partition("=")
    require(bool(equals and text), option, argument, "FIELD=VALUE,VALUE,...")
    kinds = fields(config)
    name = choose(option, name.replace("-", "_"), kinds)
    return [{name: _value(kinds[name], word, name)} for word in _split(text)]


def _split(text: str) -> list[str]:
    """At the commas outside of brackets and quotes."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += 0 if quoted else (character in "[{") - (character in "]}")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _value(kind: Any, text: str, name: str) -> Any:
    """The value of type `kind` that a text spells; the reading as a bare word comes last, so that `null` can be None."""
    readings: tuple[Callable[[str], Any], ...] = (json.loads, WORDS.__getitem__, float, str)
    errors = []
    for read in readings:
        try:
            return from_json(kind, read(text), name)
        except InvalidConfig as error:
            errors.append(error)
        except (ValueError, KeyError, RecursionError):  # not written in this way
            continue
    raise InvalidConfig(name, text, errors[0].allowed)


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """The configuration with the values at dotted names replaced, all of a part at once: no state between two values is ever checked."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        head, _, rest = name.partition(".")
        parts.setdefault(head, {})[rest] = value
    changes = {}
    for head, inner in parts.items():
        require(
            "" not in inner or len(inner) == 1,
            "sweep",
            head,
            "either a whole part of the configuration or fields in it",
        )
        changes[head] = inner[""] if "" in inner else override(getattr(config, head), inner)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def seed_overrides(config: Any, count: int) -> Overrides:
    """The override that gives an experiment `count` seeds, counted up from its first one. Raises `InvalidConfig` if it has none."""
    require(count >= 1, "--seeds", count, "at least 1")
    kinds = fields(config)
    name = next((name for name in SEEDS if name in kinds), None)
    if name is None:
        raise InvalidConfig(
            "--seeds", count, f"an experiment with a field {' or '.join(SEEDS)}; known: {', '.join(kinds)}"
        )
    first = value_at(config, name)[0]
    return {name: tuple(range(first, first + count))}


def value_at(config: Any, name: str) -> Any:
    """The value of a configuration at a dotted name; None where the part that it belongs to is another one or none."""
    for part in name.split("."):
        config = getattr(config, part, None)
    return config


def configurations(config: Config, sweep: Sweep) -> Iterator[tuple[Overrides, Config]]:
    """Every trial with its configuration. `InvalidConfig` of one that cannot be names the trial."""
    for trial in sweep:
        try:
            yield trial, override(config, trial)
        except InvalidConfig as error:
            error.args = (f"{error} (in the trial {describe(trial)})",)
            raise


def describe(overrides: Mapping[str, Any]) -> str:
    """A trial in one line: name=value, in the syntax of the command line."""
    return " ".join(f"{name}={spell(value)}" for name, value in overrides.items())


def spell(value: Any) -> str:
    """A value of a configuration, or its JSON, as the command line takes it: parts and lists as JSON, words alone bare."""
    if value is None or isinstance(value, str | bool):
        return str(value)
    return _compact(value if isinstance(value, dict | list) else to_json(value))


def _compact(value: Any) -> str:
    """JSON without spaces, numbers as short as they can be."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(name)}:{_compact(member)}' for name, member in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_compact, value))}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else json.dumps(value)
