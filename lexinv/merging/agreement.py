"""How well predicted or merged groups agree with what is known to be there: intersection over union, mutual information."""

import numpy as np
from jaxtyping import Integer

from lexinv.validation import require


def confusion(
    truth: Integer[np.ndarray, " items"], found: Integer[np.ndarray, " items"], classes: int
) -> Integer[np.ndarray, "classes classes"]:
    """How many items of class i were given class j. Raises `InvalidConfig` for a label outside of 0 to classes - 1."""
    for name, labels in (("truth", truth), ("found", found)):
        outside = labels[(labels < 0) | (labels >= classes)]
        require(outside.size == 0, name, outside[:4].tolist(), f"labels from 0 to {classes - 1}")
    pairs = truth.astype(np.int64) * classes + found
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def mean_iou(counts: Integer[np.ndarray, "classes classes"]) -> float:
    """The mean over classes of intersection / union, TP / (TP + FP + FN), of a confusion; classes that never occur are left out.

    Add up the confusions of all images first, as is usual for segmentation.
    """
    hits = np.diag(counts).astype(np.float64)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return float(np.mean(hits[union > 0] / union[union > 0]))


def entropy(counts: Integer[np.ndarray, " values"]) -> float:
    """Of the distribution that the counts make, in nats."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def mutual_information(a: Integer[np.ndarray, " items"], b: Integer[np.ndarray, " items"]) -> float:
    """I(a; b) = H(a) + H(b) - H(a, b) of two labels of the same items, in nats; plug-in, which grows with the number of labels.

    Compare groupings only at equal numbers of groups.
    """
    first, second = (np.unique(labels, return_inverse=True)[1] for labels in (a, b))
    joint = first * (int(second.max()) + 1) + second
    parts = [entropy(np.bincount(labels)) for labels in (first, second, joint)]
    return float(max(parts[0] + parts[1] - parts[2], 0.0))
