"""How often features fire, by rank: the law that densities follow, judged and drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes

from experiments.harness.style import BLACK
from experiments.harness.verdicts import above
from lexinv.sae.densities import MIDDLE, compare_laws

LAW = {"R^2 of a Zipf law": above(0.9), "minus R^2 of an exponential law": above(0)}
"""Where what `laws_of` gives has to lie."""


def laws_of(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`compare_laws` for each seed, of the densities at the ranks shown and the number of `live` ones of so many `features`."""
    pairs = zip(found["densities"], found["live"], strict=True)
    each = [compare_laws(np.array(row), live, found["features"]) for row, live in pairs]
    zipf, exponential = np.array(each).T
    return dict(zip(LAW, (zipf, zipf - exponential), strict=True))


def draw_law(
    panel: Axes,
    ranks: Int[np.ndarray, " ranks"],
    densities: Float[np.ndarray, " ranks"],
    alpha: float,
    live: int,
) -> None:
    """The Zipf law of this exponent through the middle ranks of `live` features that fire; nothing where none of them is shown."""
    inside = (ranks > MIDDLE[0] * live) & (ranks <= MIDDLE[1] * live) & (densities > 0)
    if inside.any():
        level = np.exp(np.mean(np.log(densities[inside]) + alpha * np.log(ranks[inside])))
        law = level * ranks[inside] ** -alpha
        panel.plot(ranks[inside], law, "--", color=BLACK, linewidth=1, label=f"Zipf, alpha = {alpha:.2f}")


def ranged(panel: Axes, x: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    """The mean of [seeds, points] with the range, where all are positive."""
    there = (values > 0).all(axis=0)
    panel.plot(x[there], values.mean(axis=0)[there], color=color, label=label, linewidth=1.3)
    ends = (end(axis=0)[there] for end in (values.min, values.max))
    panel.fill_between(x[there], *ends, color=color, alpha=0.2, lw=0)
