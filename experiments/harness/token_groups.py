"""Merged groups drawn over an image: which patches the tokens that are left are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from experiments.harness.style import PALETTE
from lexinv.validation import require


def draw_groups(
    axes: Axes, image: UInt8[np.ndarray, "size size channels"], assign: Integer[np.ndarray, " patches"]
) -> None:
    """The image with each group of patches in its mean colour, lines between groups, and a dot in each patch of a group of two or more.

    assign: the group of each patch, row by row, composed over the layers (`lexinv.merging.plan.compose`); -1 for a patch that was pruned,
    which is left white. Dots of one group have one colour; colours repeat after eight groups. One channel is drawn in grey.
    Raises `InvalidConfig` for patches that are not a square grid over the image.
    """
    across, size = round(len(assign) ** 0.5), image.shape[0]
    fits = across**2 == len(assign) and size % across == 0
    require(fits, "assign", len(assign), f"a square number of patches whose side divides {size} pixels")
    scale, groups = size // across, np.asarray(assign).reshape(across, across)
    mean = group_means(image, groups)
    pixels = np.where((groups < 0)[..., None], 255.0, mean).repeat(scale, 0).repeat(scale, 1)
    axes.imshow(np.broadcast_to(pixels, (size, size, 3)).astype(np.uint8), interpolation="nearest")
    for row, column in np.ndindex(across, across):
        left, top = column * scale - 0.5, row * scale - 0.5
        if column and groups[row, column] != groups[row, column - 1]:
            axes.plot([left, left], [top, top + scale], color="white", linewidth=0.8)
        if row and groups[row, column] != groups[row - 1, column]:
            axes.plot([left, left + scale], [top, top], color="white", linewidth=0.8)
    shared = [group for group in np.unique(groups) if group >= 0 and (groups == group).sum() > 1]
    for number, group in enumerate(shared):
        rows, columns = np.nonzero(groups == group)
        centre = (scale - 1) / 2
        axes.plot(
            columns * scale + centre,
            rows * scale + centre,
            linestyle="none",
            marker="o",
            markersize=3.5,
            color=PALETTE[number % len(PALETTE)],
            markeredgecolor="white",
            markeredgewidth=0.4,
        )
    bare(axes)


def draw_pictures(drawn: SubFigure, pictures: Sequence[dict[str, Any]], labels: Mapping[str, str]) -> None:
    """A row for each picture {image, label, groups by method}: the image, and the groups that each method leaves."""
    rows = drawn.subplots(len(pictures), 1 + len(pictures[0]["groups"]), squeeze=False)
    for row, picture in zip(rows, pictures, strict=True):
        image = np.array(picture["image"], np.uint8)
        row[0].imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
        bare(row[0])
        row[0].set_title(f"class {picture['label']}", fontsize=9)
        for panel, (method, groups) in zip(row[1:], picture["groups"].items(), strict=True):
            draw_groups(panel, image, np.array(groups))
            panel.set_title(labels[method], fontsize=9)


def bare(axes: Axes) -> None:
    """Without ticks and grid."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def group_means(
    image: UInt8[np.ndarray, "size size channels"], groups: Integer[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns channels"]:
    """The mean colour, 0 to 255, of each patch's group."""
    across = groups.shape[0]
    scale = image.shape[0] // across
    patches = image.reshape(across, scale, across, scale, -1).mean(axis=(1, 3))
    means = np.empty_like(patches)
    for group in np.unique(groups):
        means[groups == group] = patches[groups == group].mean(axis=0)
    return means
