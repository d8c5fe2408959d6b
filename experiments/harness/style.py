"""How every figure looks. Figures are made without pyplot: no global state, nothing to close."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.intervals import interval

# Okabe and Ito's palette: told apart under every common colour blindness.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#000000",
)
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, YELLOW)
GREY = "#767676"

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": 100,
    "font.size": 9,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "pdf.fonttype": 42,
    "savefig.dpi": 105,
    "svg.hashsalt": "lexinv",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def styled():
    """A context in which matplotlib draws in the house style."""
    return matplotlib.rc_context(STYLE)


def panels(
    rows: int = 1, columns: int = 1, width: float = 4.4, height: float = 3.3, titles: Sequence[str] = ()
) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels (`width` by `height` inches each) and its axes, row by row, the first ones with `titles`."""
    with styled():
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, title in zip(axes, titles, strict=False):
            panel.set_title(title)
    return figure, axes


def band(axes: Axes, x: Sequence[float], values, label: str, color: str, **line) -> None:
    """Draw the mean over seeds of `values` [seeds, points] with its 95 % Student t band."""
    intervals = [interval(column) for column in np.asarray(values, dtype=np.float64).T]
    axes.plot(x, [i.mean for i in intervals], label=label, color=color, **line)
    if intervals and intervals[0].n > 1:
        axes.fill_between(
            x, [i.low for i in intervals], [i.high for i in intervals], color=color, alpha=0.2, linewidth=0
        )


def reference(axes: Axes, y: float, label: str, color: str = GREY) -> None:
    """Draw a dashed horizontal line named in the legend: a bound, a chance level, a published value."""
    axes.axhline(y, color=color, linestyle="--", linewidth=1.0, label=label)
