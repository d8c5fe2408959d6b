"""Our promises about speed: claims on the ratios within rounds, and the panels that benchmarks draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.harness.intervals import Interval, interval, ratio_interval
from experiments.harness.style import GREY, PALETTE
from experiments.harness.verdicts import OURS, Claim, Rule, Values, above


def times(longer: Sequence[float], shorter: Sequence[float]) -> Interval:
    """How many times as long the first side took, by the ratio within each round."""
    return ratio_interval((np.asarray(longer) / np.asarray(shorter)).tolist())


def over_ours(seconds: Mapping[str, Sequence[float]], ours: str = "lexinv") -> dict[str, Interval]:
    """Times of all sides that are not ours over this one of ours."""
    return {label: times(found, seconds[ours]) for label, found in seconds.items() if not label.startswith("lexinv")}


def promise(
    name: str,
    statement: str,
    measured: Mapping[str, Values],
    rule: Rule | Mapping[str, Rule],
    unit: str,
    over: str = "rounds",
    published: str | None = None,
) -> list[Claim]:
    """The claim on what was measured; none where nothing was of all that its rules name."""
    if not isinstance(rule, Rule):
        rule = {label: one for label, one in rule.items() if label in measured}
    return [Claim(name, statement, OURS, measured, rule, unit, published, over)] if measured and rule else []


def speed(
    name: str,
    statement: str,
    measured: Mapping[str, Interval],
    least: float | Mapping[str, float],
    published: str | None = None,
) -> list[Claim]:
    """The promise to be more than `least` times as fast as every peer that is named there, or as all of them."""
    rule = {label: above(x) for label, x in least.items()} if isinstance(least, Mapping) else above(least)
    return promise(name, statement, measured, rule, "times as fast", published=published)


def bars(axes: Axes, values: Mapping[str, Any], colors: Sequence[str] | str, form: str = "{:.2f}") -> None:
    """Horizontal bars, the first on top: a number, an interval with its mean, or values of rounds with their median and range."""
    middles = []
    for row, value in enumerate(values.values()):
        if isinstance(value, Interval):
            middle, low, high = value.mean, value.low, value.high
        else:
            middle, low, high = np.median(value), np.min(value), np.max(value)
        middles.append(middle)
        if low is not None and low != high:
            axes.hlines(row, low, high, color="black", linewidth=1.2)
        place = axes.get_yaxis_transform()
        axes.text(1.02, row, form.format(middle), transform=place, va="center", fontsize=8)
    axes.barh(range(len(values)), middles, color=colors, height=0.6)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_xlim(0, 1.25 * max(middles))  # a few wild rounds reach far; the axis follows the bars
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def mark(axes: Axes, bound: float) -> None:
    """What is promised, as a dashed line across bars."""
    axes.axvline(bound, color=GREY, linestyle="--", linewidth=1)


def by_size(axes: Axes, sweep: Mapping[str, Mapping[str, Any]], relative: bool = False) -> None:
    """Seconds by size along each axis of a sweep, median and range over rounds, with the exponent. relative: sizes over the smallest."""
    for (label, found), color in zip(sweep.items(), PALETTE, strict=False):
        across = np.array(found["sizes"]) / (found["sizes"][0] if relative else 1)
        seconds, slope = np.array(found["seconds"]), interval(found["exponents"])
        name = f"{label} from {found['sizes'][0]}" if relative else label
        axes.plot(across, np.median(seconds, axis=1), "o-", color=color, label=f"{name}: {slope.mean:.2f}")
        axes.vlines(across, seconds.min(axis=1), seconds.max(axis=1), color=color, linewidth=0.8, alpha=0.6)
    axes.set(xscale="log", yscale="log", ylabel="seconds")
    ticks = sorted({size for found in sweep.values() for size in found["sizes"]})
    if not relative and len(ticks) < 6:
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.legend(loc="lower right" if relative else "upper left", title="exponents", title_fontsize=8)
