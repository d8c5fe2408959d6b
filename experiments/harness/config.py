"""Configurations: nested frozen dataclasses, plain JSON both ways, a hash that names a run."""

import dataclasses
import hashlib
import json
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lexinv.validation import InvalidConfig

Config = TypeVar("Config")


def to_json(config: Any) -> Any:
    """The configuration as plain JSON values: dataclasses become objects, tuples become lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [to_json(value) for value in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"a configuration holds dataclasses, tuples, numbers, strings, booleans and None, not {config!r}")


def from_json(kind: type[Config], value: Any, field: str = "config", older: bool = False) -> Config:
    """The value of type `kind` that `to_json` wrote. Every field is checked: `InvalidConfig` names an unknown, missing or wrong one.

    older: written by code before this, so that a field may be missing that has a default, which must be what the code did without it.
    """
    return _parse(kind, value, field, older)


def _parse(kind: Any, value: Any, field: str, older: bool) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _parse_dataclass(kind, value, field, older)
    if origin is Literal:
        # `in` alone would take True for 1.
        if any(value == known and type(value) is type(known) for known in arguments):
            return value
        raise InvalidConfig(field, value, f"one of {', '.join(map(repr, arguments))}")
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        if len(options) == 1:
            return _parse(options[0], value, field, older)
        for option in options:
            try:
                return _parse(option, value, field, older)
            except InvalidConfig:
                continue
        raise InvalidConfig(field, value, f"a value of type {kind}")
    if origin is tuple:
        if not isinstance(value, list):
            raise InvalidConfig(field, value, "a list")
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(kinds) != len(value):
            raise InvalidConfig(field, value, f"a list of {len(kinds)} values")
        return tuple(_parse(k, v, f"{field}[{i}]", older) for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if kind is float and type(value) in (int, float):
        if math.isfinite(value):
            return float(value)
        raise InvalidConfig(field, value, "a finite number")
    if kind in (bool, int, float, str, type(None)):
        if type(value) is kind:
            return value
        raise InvalidConfig(field, value, f"a value of type {kind.__name__}")
    raise TypeError(f"{field}: a configuration cannot hold the type {kind}")


def _parse_dataclass(kind: Any, value: Any, field: str, older: bool) -> Any:
    if not isinstance(value, dict):
        raise InvalidConfig(field, value, f"an object with the fields of {kind.__name__}")
    names = [f.name for f in dataclasses.fields(kind)]
    if older:
        absent = (f for f in dataclasses.fields(kind) if f.name not in value)
        value = value | {
            f.name: to_json(default) for f in absent if (default := _default(f)) is not dataclasses.MISSING
        }
    for name in value:
        if name not in names:
            raise InvalidConfig(f"{field}.{name}", value[name], f"unknown field; known: {', '.join(names)}")
    for name in names:
        if name not in value:
            raise InvalidConfig(f"{field}.{name}", None, "missing field")
    hints = get_type_hints(kind)
    return kind(**{name: _parse(hints[name], value[name], f"{field}.{name}", older) for name in names})


def _default(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def config_hash(config: Any) -> str:
    """16 hexadecimal digits that name the configuration: equal for equal values, whichever way they were written (1 or 1.0)."""
    normal = to_json(from_json(type(config), to_json(config)))
    return hashlib.sha256(json.dumps(normal, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]
