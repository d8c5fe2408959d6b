"""Refusing bad input before anything is compiled: the field, the value, what is allowed."""

from collections.abc import Iterable
from difflib import get_close_matches


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
