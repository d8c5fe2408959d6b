"""What a sweep found: summary.json with the best configurations first, and a figure drawn from it alone."""

import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.config import config_hash, to_json
from experiments.harness.intervals import interval
from experiments.harness.style import BLUE, GREY, PALETTE, VERMILION, panels, styled
from experiments.harness.sweep_algebra import describe, names, spell, value_at
from experiments.harness.verify import verdict
from experiments.harness.workspace import plain, read_json, write_atomically, write_json
from lexinv.validation import InvalidConfig, choose, require

INTERVAL = {"mean", "low", "high", "n"}
VERDICTS, COLORS = {"holds": 2, "open": 1, "refuted": 0}, (VERMILION, "#C8C8C8", BLUE)
MAX_LINES, MAX_ROWS = 8, 60
"""More lines than this in a panel cannot be told apart, and more rows not be read."""


def metric_at(results: Any, path: str) -> dict[str, Any]:
    """The interval at a dotted path of results: of a list over its seeds, of a number alone, or one that the experiment has made itself.

    Parts of the path are keys, or places in a list from 0. Raises `InvalidConfig` with what there is in its place.
    """
    value = results
    for part in path.split("."):
        if isinstance(value, dict):
            value = value[choose("--metric", part, value)]
        elif isinstance(value, list):
            require(
                part.isdecimal() and int(part) < len(value), "--metric", path, f"{part} as a place below {len(value)}"
            )
            value = value[int(part)]
        else:
            raise InvalidConfig("--metric", path, f"a path that ends before {part}: there is {value!r}")
    if isinstance(value, dict) and value.keys() == INTERVAL:
        return value
    values = value if isinstance(value, list) else [value]
    numbers = bool(values) and all(type(item) in (int, float) and math.isfinite(item) for item in values)
    have = f"; it has {', '.join(value)}" if isinstance(value, dict) else ""
    require(numbers, "--metric", path, f"the path of a number or of a list of numbers{have}")
    return dataclasses.asdict(interval(values))


def summarize(
    experiment: str,
    preset: str,
    base: Any,
    trials: Sequence[Any],
    metric: str | None,
    best: Literal["lowest", "highest"],
) -> dict[str, Any]:
    """The summary of the trials of a sweep (`sweeps.Trial`), as JSON, the best first and those without a value last.

    Without a metric the best have the most claims that hold, and of these the fewest that are refuted. The row of a finished trial that
    does not have the metric says why in "trouble".
    """
    swept = names([trial.overrides for trial in trials])
    rows = []
    for trial in trials:
        value, trouble = None, trial.trouble
        if trial.status == "done" and metric is not None:
            try:
                value = metric_at(read_json(trial.folder / "results.json", dict), metric)
            except InvalidConfig as error:
                trouble = str(error)
        rows.append(
            {
                "trial": trial.folder.name,
                "values": {name: to_json(value_at(trial.config, name)) for name in swept},
                "status": trial.status,
                "seconds": None if trial.seconds() is None else round(trial.seconds(), 1),
                "value": value,
                "trouble": trouble,
                "claims": {claim["name"]: verdict(claim) for claim in trial.claims},
            }
        )

    def rank(row: dict[str, Any]) -> tuple[float, ...]:
        verdicts = list(row["claims"].values())
        claims = (-verdicts.count("holds"), verdicts.count("refuted"))
        if metric is None:
            return (row["status"] != "done", *claims)
        if row["value"] is None:
            return (1, 0, *claims)
        return (0, row["value"]["mean"] * (1 if best == "lowest" else -1), *claims)

    return plain(
        {
            "experiment": experiment,
            "preset": preset,
            "base_config_hash": config_hash(base),
            "metric": metric,
            "best": best if metric is not None else "most claims that hold",
            "swept": swept,
            "trials": sorted(rows, key=rank),
        }
    )


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """summary.json, figure.png and figure.pdf in the folder of the sweep; no figure where no trial is finished."""
    write_json(folder / "summary.json", summary)
    if not any(row["status"] == "done" for row in summary["trials"]):
        return
    drawn = figure(summary)
    for format in ("png", "pdf"):
        buffer = io.BytesIO()
        with styled():
            drawn.savefig(buffer, format=format)
        write_atomically(folder / f"figure.{format}", buffer.getvalue())


def figure(summary: dict[str, Any]) -> Figure:
    """The metric against every field that changes, or the verdicts of all trials if none has it, drawn from the summary alone."""
    done = [row for row in summary["trials"] if row["status"] == "done"]
    measured = [row for row in done if row["value"] is not None]
    rows = measured or done
    varied = [name for name in summary["swept"] if len({_key(row["values"][name]) for row in rows}) > 1]
    varied = varied or summary["swept"][:1]
    with styled():
        if not measured:
            return _verdicts(varied, rows[:MAX_ROWS])
        drawn, axes = panels(1, len(varied), height=4.2)
        for panel, name in zip(axes, varied, strict=True):
            _against(panel, name, [other for other in varied if other != name], rows)
            panel.set_xlabel(name)
        axes[0].set_ylabel(summary["metric"])
    return drawn


def _key(value: Any) -> str:
    return json.dumps(value)


def _against(axes: Axes, name: str, others: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """The metric against one field, one line for each combination of the others that change."""
    values = list({_key(row["values"][name]): row["values"][name] for row in rows}.values())
    numeric = all(type(value) in (int, float) for value in values)
    values.sort(key=(lambda value: value) if numeric else _key)
    places = {_key(value): value if numeric else index for index, value in enumerate(values)}
    lines: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for row in sorted(rows, key=lambda row: [_key(row["values"][other]) for other in others]):
        label = describe({other: row["values"][other] for other in others})
        lines.setdefault(label, []).append((places[_key(row["values"][name])], row["value"]))
    named = len(lines) <= MAX_LINES
    for index, (label, points) in enumerate(lines.items()):
        x, found = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        mean = [value["mean"] for value in found]
        ends = [[value["mean"] if value[end] is None else value[end] for value in found] for end in ("low", "high")]
        error = np.abs(np.subtract(ends, mean))
        color = PALETTE[index] if named else GREY
        axes.errorbar(x, mean, error, color=color, marker="o", markersize=4, capsize=2, label=label if named else None)
    if numeric and values[0] > 0 and values[-1] >= 10 * values[0]:
        axes.set_xscale("log")
    if not numeric:
        axes.set_xticks(list(places.values()), [spell(value) for value in values])
    if named and any(lines):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _verdicts(varied: Sequence[str], rows: Sequence[dict[str, Any]]) -> Figure:
    """A cell for each trial, the best at the top, and claim: holds, refuted, open."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    claims = list(dict.fromkeys(name for row in rows for name in row["claims"]))
    labels = [describe({name: row["values"][name] for name in varied}) for row in rows]
    cells = [[VERDICTS[row["claims"].get(name, "open")] for name in claims] for row in rows]
    drawn, (axes,) = panels(1, 1, 3.6 + 0.4 * len(claims), 1.8 + 0.22 * len(rows))
    axes.imshow(np.array(cells), cmap=ListedColormap(COLORS), vmin=0, vmax=2, aspect="auto")
    axes.set_xticks(range(len(claims)), claims, rotation=40, ha="right")
    axes.set_yticks(range(len(rows)), labels)
    axes.grid(visible=False)
    handles = [Patch(color=COLORS[place], label=word) for word, place in VERDICTS.items()]
    drawn.legend(handles=handles, loc="outside upper center", ncols=3)
    return drawn
