"""Losses along a context and along a training, as results keep them and figures draw them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def rounded(values: np.ndarray) -> Any:
    """Nested lists to four decimals, which is all that a figure or an interval of losses in nats needs."""
    return np.round(values.astype(np.float64), 4).tolist()


def significant(values: Any) -> Any:
    """Nested lists of numbers to five significant digits, where they span several powers of ten."""
    return [significant(row) for row in values] if np.ndim(values) else float(f"{float(values):.5g}")


def by_position(nats: Sequence[Float[np.ndarray, "windows time"]]) -> list[list[float]]:
    """Mean nats at each position, a row per seed."""
    return [rounded(member.mean(axis=0)) for member in nats]


def by_tens(losses: Float[np.ndarray, "seeds steps"]) -> list[list[float]]:
    """Losses averaged over every 10 steps."""
    count = max(losses.shape[1] // 10, 1)
    return rounded(losses[:, : count * 10].reshape(len(losses), count, -1).mean(axis=2))


def crossing(losses: list[float], level: float) -> int | None:
    """The first step (of every 10th) at which the training loss is below `level`; None if it never is."""
    under = np.flatnonzero(np.array(losses) < level)
    return int(under[0] + 1) * 10 if len(under) else None


def reached(
    level: Float[np.ndarray, " seeds"], at: Float[np.ndarray, " points"], losses: Float[np.ndarray, "seeds points"]
) -> Float[np.ndarray, " seeds"]:
    """Where each seed's losses, taken `at` ascending points, first are below its level: linear between points, infinite for never."""
    found = []
    for bound, course in zip(level, losses, strict=True):
        first = next(iter(np.flatnonzero(course < bound)), None)
        if first is None:
            found.append(np.inf)
        elif first == 0:
            found.append(at[0])
        else:
            share = (course[first - 1] - bound) / (course[first - 1] - course[first])
            found.append(at[first - 1] + share * (at[first] - at[first - 1]))
    return np.array(found, np.float64)


def bins(context: int, width: int = 8) -> tuple[Float[np.ndarray, " bins"], Callable[[Any], np.ndarray]]:
    """Centres of bins of `width` positions, and the function that averages rows of nats over them."""
    count = max(context // width, 1)

    def average(rows: Any) -> np.ndarray:
        values = np.asarray(rows)[:, : count * width]
        return values.reshape(len(values), count, -1).mean(axis=2)

    return (np.arange(count) + 0.5) * width, average
