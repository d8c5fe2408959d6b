"""The picture of what merged: an image in which every patch has the mean colour of its group."""

import numpy as np
from jaxtyping import Integer, UInt8

from lexinv.validation import require


def group_picture(
    image: UInt8[np.ndarray, "size size channels"], groups: Integer[np.ndarray, " patches"]
) -> UInt8[np.ndarray, "size size channels"]:
    """The image with each group of patches in its mean colour, and those that were pruned in white.

    groups: of each patch, row by row, such as the `assign` of a plan composed over the layers (`lexinv.merging.plan.composed`), CLS left
    out; -1 for a patch that was pruned. Raises `InvalidConfig` for patches that are not a square grid over the image.
    """
    across, size = round(len(groups) ** 0.5), image.shape[0]
    fits = across**2 == len(groups) and across > 0 and size % across == 0 and image.shape[1] == size
    require(fits, "groups", len(groups), f"a square number of patches whose side divides {size} pixels")
    scale = size // across
    patches = image.reshape(across, scale, across, scale, -1).mean(axis=(1, 3)).reshape(across**2, -1)
    colours = np.full_like(patches, 255.0)
    for group in np.unique(groups[groups >= 0]):
        colours[groups == group] = patches[groups == group].mean(axis=0)
    return colours.reshape(across, across, -1).repeat(scale, 0).repeat(scale, 1).astype(np.uint8)
