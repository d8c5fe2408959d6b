"""Merged groups drawn over an image: which patches the tokens that are left are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import SubFigure

from experiments.harness.style import PALETTE
from lexinv.merging.picture import group_picture


def draw_groups(
    axes: Axes, image: UInt8[np.ndarray, "size size channels"], assign: Integer[np.ndarray, " patches"]
) -> None:
    """`group_picture` with lines between groups, and a dot in each patch of a group of two or more.

    Dots of one group have one colour; colours repeat after eight groups. One channel is drawn in grey.
    """
    shown, size = group_picture(image, assign), image.shape[0]
    axes.imshow(np.broadcast_to(shown, (size, size, 3)), interpolation="nearest")
    across = round(len(assign) ** 0.5)
    scale, groups = size // across, np.asarray(assign).reshape(across, across)
    edges = []
    for row, column in np.ndindex(across, across):
        left, top = column * scale - 0.5, row * scale - 0.5
        if column and groups[row, column] != groups[row, column - 1]:
            edges.append([(left, top), (left, top + scale)])
        if row and groups[row, column] != groups[row - 1, column]:
            edges.append([(left, top), (left + scale, top)])
    axes.add_collection(LineCollection(edges, colors="white", linewidths=0.6))
    shared = [group for group in np.unique(groups) if group >= 0 and (groups == group).sum() > 1]
    for number, group in enumerate(shared):
        rows, columns = np.nonzero(groups == group)
        axes.plot(
            columns * scale + (scale - 1) / 2,
            rows * scale + (scale - 1) / 2,
            linestyle="none",
            marker="o",
            markersize=2.5,
            color=PALETTE[number % len(PALETTE)],
            markeredgecolor="white",
            markeredgewidth=0.3,
        )
    bare(axes)


def draw_pictures(drawn: SubFigure, pictures: Sequence[dict[str, Any]], labels: Mapping[str, str]) -> None:
    """A row for each picture {image, label, groups by method}: the image, and the groups that each method leaves."""
    rows = drawn.subplots(len(pictures), 1 + len(pictures[0]["groups"]), squeeze=False)
    for row, picture in zip(rows, pictures, strict=True):
        image = np.array(picture["image"], np.uint8)
        row[0].imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
        bare(row[0])
        row[0].set_title(picture["label"], fontsize=9)
        for panel, (method, groups) in zip(row[1:], picture["groups"].items(), strict=True):
            draw_groups(panel, image, np.array(groups))
            panel.set_title(labels[method], fontsize=9)


def bare(axes: Axes) -> None:
    """Without ticks and grid."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
