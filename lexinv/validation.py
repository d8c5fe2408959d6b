"""Refusing bad input before anything is compiled: the field, the value, what is allowed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


class InvalidConfig(ValueError):
    """A configuration that cannot be run. The message names the field, its value and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str):
        super().__init__(f"{field} = {value!r} is not possible: {allowed}")
        self.field, self.value, self.allowed = field, value, allowed


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raise `InvalidConfig` unless `condition` holds."""
    if not condition:
        raise InvalidConfig(field, value, allowed)


def choose(field: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is among `known`; otherwise raise `InvalidConfig` with the nearest known names first."""
    known = list(known)
    if name in known:
        return name
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise InvalidConfig(field, name, f"{hint}known: {', '.join(known)}")


@dataclass(frozen=True)
class Allowed:
    """What a field may hold beside its type, in a test and in words. refused: values that the test has to turn down, for tests."""

    test: Callable[[Any], bool]
    text: str
    refused: tuple[Any, ...]


MOST = 2**31 - 1
"""No count is larger: indices of arrays are int32."""
MOST_SEEDS = 2**32
"""Keys are made of 32 bits of a seed: others would repeat one of these."""


def _each_once(values: tuple[Any, ...]) -> bool:
    return 0 < len(set(values)) == len(values)


Count = Annotated[int, Allowed(lambda n: 1 <= n <= MOST, f"from 1 to {MOST}", (0, -1, MOST + 1))]
CountOrZero = Annotated[int, Allowed(lambda n: 0 <= n <= MOST, f"from 0 to {MOST}", (-1, MOST + 1))]
Positive = Annotated[float, Allowed(lambda x: x > 0, "above 0", (0.0, -1.0))]
NonNegative = Annotated[float, Allowed(lambda x: x >= 0, "zero or more", (-1.0,))]
Share = Annotated[float, Allowed(lambda x: 0 <= x <= 1, "from 0 to 1", (-0.1, 1.1))]
Fraction = Annotated[float, Allowed(lambda x: 0 < x < 1, "between 0 and 1", (0.0, 1.0))]
Seeds = Annotated[
    tuple[int, ...],
    Allowed(
        lambda v: _each_once(v) and min(v) >= 0 and max(v) < MOST_SEEDS,
        "at least one, each once, from 0 and below 2**32",
        ((), (0, 0), (-1,), (MOST_SEEDS,)),
    ),
]
Counts = Annotated[
    tuple[int, ...],
    Allowed(
        lambda v: _each_once(v) and min(v) >= 1 and max(v) <= MOST,
        f"at least one, each once, from 1 to {MOST}",
        ((), (0,), (1, 1), (MOST + 1,)),
    ),
]
NonNegatives = Annotated[
    tuple[float, ...], Allowed(lambda v: len(v) > 0 and min(v) >= 0, "one or more, none negative", ((), (-1.0,)))
]
Shares = Annotated[
    tuple[float, ...],
    Allowed(
        lambda v: _each_once(v) and min(v) >= 0 and max(v) <= 1,
        "at least one, each once, from 0 to 1",
        ((), (-0.1,), (1.1,), (0.5, 0.5)),
    ),
]
Fractions = Annotated[
    tuple[float, ...],
    Allowed(
        lambda v: _each_once(v) and min(v) > 0 and max(v) < 1,
        "at least one, each once, between 0 and 1",
        ((), (0.0,), (1.0,), (0.5, 0.5)),
    ),
]
Distinct = Annotated[tuple[T, ...], Allowed(_each_once, "at least one, each once", ((),))]


def one_of(known: Iterable[str]) -> Allowed:
    """Of a field that holds one of these names: `Annotated[str, one_of(VARIANTS)]`."""
    names = tuple(known)
    return Allowed(lambda name: name in names, f"one of {', '.join(names)}", ("none of these",))


def some_of(known: Iterable[str]) -> Allowed:
    """Of a field that holds at least one of these names, each once: `Annotated[tuple[str, ...], some_of(VARIANTS)]`."""
    names = tuple(known)
    return Allowed(
        lambda v: _each_once(v) and set(v) <= set(names),
        f"at least one, each once, of {', '.join(names)}",
        ((), ("none of these",), (names[0],) * 2),
    )


@cache
def constraints(kind: type) -> dict[str, tuple[Allowed, ...]]:
    """What the annotations of a class say of its fields; of an optional field, what is allowed where it is not None."""

    def said(hint: Any) -> tuple[Allowed, ...]:
        found = tuple(a for a in getattr(hint, "__metadata__", ()) if isinstance(a, Allowed))
        return found or tuple(a for part in get_args(hint) if type(None) in get_args(hint) for a in said(part))

    return {field: found for field, hint in get_type_hints(kind, include_extras=True).items() if (found := said(hint))}


class Checked:
    """A configuration whose fields say what they allow: `steps: Count = 100`. `checks` yields (holds, field, what is allowed) of several.

    Raises `InvalidConfig` where it is made, before anything is compiled.
    """

    def __post_init__(self):
        for field, said in constraints(type(self)).items():
            value = getattr(self, field)
            for allowed in said:
                require(value is None or allowed.test(value), field, value, allowed.text)
        for holds, field, allowed in self.checks():
            value: Any = self
            for part in field.split("."):
                value = getattr(value, part)
            require(holds, field, value, allowed)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        return iter(())
