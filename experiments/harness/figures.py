"""Panels that many experiments draw: the mean over seeds, and always its spread."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.harness.arms import Arms
from experiments.harness.intervals import Interval, interval
from experiments.harness.style import PALETTE, band


def tradeoff(
    axes: Axes,
    arms: Arms,
    x: str,
    y: str,
    labels: Mapping[str, str],
    ticks: Sequence[float] = (),
) -> None:
    """A line for each labelled arm that there is through its settings: the mean over seeds of y against that of x, with the range of y."""
    for (arm, label), color in zip(labels.items(), PALETTE, strict=False):
        if arm not in arms:
            continue
        across, values = arms[arm, x].mean(axis=0), arms[arm, y]
        order = np.argsort(across)
        axes.plot(across[order], values.mean(axis=0)[order], "o-", color=color, markersize=3.5, label=label)
        axes.vlines(across, values.min(axis=0), values.max(axis=0), color=color, linewidth=0.8, alpha=0.6)
    axes.set(xscale="log")
    if ticks:
        axes.set_xlim(min(ticks) / 1.5, max(ticks) * 2.5)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)


def bars(axes: Axes, groups: Sequence[str], within: Mapping[str, tuple[str, Any]]) -> None:
    """Grouped bars. within: by name the label and the values [seeds, groups]; means with their 95 % Student t interval over seeds."""
    width = 0.8 / len(within)
    for index, ((label, values), color) in enumerate(zip(within.values(), PALETTE, strict=False)):
        found = [interval(column) for column in np.asarray(values, np.float64).T]
        places = np.arange(len(groups)) + (index - (len(within) - 1) / 2) * width
        axes.bar(places, [one.mean for one in found], width, color=color, label=label)
        for place, one in zip(places, found, strict=True):
            if one.low is not None:
                axes.vlines(place, one.low, one.high, color="black", linewidth=0.9)
    axes.set_xticks(range(len(groups)), groups)


def dots(axes: Axes, values: Mapping[str, Any]) -> None:
    """A row for each label, from the top: every seed as a dot, the mean with its 95 % interval."""
    for row, seeds in enumerate(values.values()):
        found, color = interval(seeds), PALETTE[row % len(PALETTE)]
        axes.plot(seeds, [row] * len(seeds), ".", color=color, alpha=0.5, markersize=5)
        axes.plot(found.mean, row, "D", color=color, markersize=4.5)
        if found.low is not None and found.high is not None:
            axes.hlines(row, found.low, found.high, color=color, linewidth=1.6)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()


def labelled(axes: Axes, points: Mapping[str, tuple[Any, Any]]) -> None:
    """A mean for each name with the range of its seeds, and the name beside, moved up where another one is."""
    means = {name: (np.mean(x), np.mean(y)) for name, (x, y) in points.items()}
    wide, high = np.ptp(list(means.values()), axis=0)
    placed: list[tuple[Any, Any]] = []
    for number, (name, (x, y)) in enumerate(sorted(means.items(), key=lambda item: item[1][1])):
        color = PALETTE[number % len(PALETTE)]
        axes.plot(x, y, "o", color=color, markersize=4)
        axes.vlines(x, np.min(points[name][1]), np.max(points[name][1]), color=color)
        placed.append((x, max([y, *(other + high / 18 for near, other in placed if abs(near - x) < wide / 3)])))
        axes.annotate(name, placed[-1], xytext=(5, -2.5), textcoords="offset points", fontsize=7)
    axes.margins(x=0.22)


def lines(axes: Axes, x: Sequence[float], within: Mapping[str, Any]) -> None:
    """A line for each label through the means over seeds of [seeds, points], and at each point the range of the seeds, side by side.

    None in place of values takes a colour and draws nothing, so that panels with and without an arm look alike.
    """
    step = 0.008 * (max(x) - min(x))
    for index, ((label, values), color) in enumerate(zip(within.items(), PALETTE, strict=False)):
        if values is None:
            continue
        values, places = np.asarray(values, np.float64), np.asarray(x) + step * (index - (len(within) - 1) / 2)
        axes.plot(places, values.mean(axis=0), "o-", color=color, label=label, markersize=3, linewidth=1.4)
        axes.vlines(places, values.min(axis=0), values.max(axis=0), color=color, linewidth=1.0, alpha=0.6)


def curves(
    axes: Axes, x: Sequence[float], arms: Arms, metric: str, labels: Mapping[str, tuple[str, str]], ticks: bool = False
) -> None:
    """A line for each arm, labels giving its label and colour, with its 95 % band. ticks: x is logarithmic, and all of it is named."""
    for arm, (label, color) in labels.items():
        band(axes, x, arms[arm, metric], label, color, marker="o", markersize=3)
    if ticks:
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{tick:g}" for tick in x])
        axes.minorticks_off()


def legend_beside(axes: Axes) -> None:
    """The legend at the right of a panel, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7.5)


def medians(axes: Axes, x: Any, values: Any, label: str, color: str) -> None:
    """A line through the medians over seeds of [seeds, points], and the range of the seeds as a band."""
    values = np.asarray(values, np.float64)
    axes.plot(x, np.median(values, axis=0), label=label, color=color)
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.18, linewidth=0)


def whiskers(axes: Axes, x: Any, shares: Sequence[Interval], color: str, label: str, **line: Any) -> None:
    """Shares with their intervals."""
    ends = [(share.mean, share.low, share.high) for share in shares]
    mean, low, high = np.array(ends, np.float64).T
    style = {"marker": "o", "markersize": 3, "elinewidth": 0.8} | line
    axes.errorbar(x, mean, np.maximum([mean - low, high - mean], 0), color=color, label=label, **style)


def share_map(axes: Axes, shares: Sequence[Sequence[Interval]], columns: Sequence[str], rows: Sequence[str]) -> None:
    """A heat map of shares [rows, columns], each with its hits and cases."""
    axes.imshow([[share.mean for share in row] for row in shares], vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    for y, row in enumerate(shares):
        for x, share in enumerate(row):
            text, color = f"{round(share.mean * share.n)}/{share.n}", "black" if share.mean > 0.6 else "white"
            axes.text(x, y, text, ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
