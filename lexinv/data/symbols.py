"""Refusing text that a model of its symbols would give a number for."""

import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Integer

from lexinv.validation import InvalidConfig, require


def require_symbols(field: str, symbols: Integer[np.ndarray, "..."] | Integer[Array, "..."], size: int) -> None:
    """Raise `InvalidConfig`, with the place of the first, for symbols that are not among 0 to `size` - 1, and for no symbols at all.

    Arrays take an index that lies outside for another one, silently. The values of an argument of a function that is being compiled are
    not known, and are not looked at.
    """
    require(symbols.size > 0, field, symbols.size, "at least one symbol")
    if isinstance(symbols, Tracer):
        return
    values = np.asarray(symbols)
    for place in np.argwhere((values < 0) | (values >= size))[:1].tolist():
        raise InvalidConfig(f"{field}{place}", int(values[tuple(place)]), f"a symbol from 0 to {size - 1}")
