"""What a sparse autoencoder is judged by: reconstruction, sparsity, use of its features, and recovery of known ones."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from lexinv.validation import InvalidConfig, require


class Sums(NamedTuple):
    """Running sums over an evaluation set, float64 on the host; `add` a batch at a time. All metrics are ratios of such sums.

    (Ratios of each batch, or of each token, averaged afterwards are other numbers: three public codes shipped such an explained variance.)
    """

    tokens: int
    squared_error: float
    x: Float[np.ndarray, " width"]
    squared_x: float
    inner: float
    squared_reconstruction: float
    fired: Int[np.ndarray, " features"]
    active: Float[np.ndarray, "2"]
    """Sum and sum of squares over tokens of the number of active features."""


def start_sums(width: int, features: int) -> Sums:
    """Of nothing."""
    return Sums(0, 0.0, np.zeros(width), 0.0, 0.0, 0.0, np.zeros(features, np.int64), np.zeros(2))


def add(
    sums: Sums,
    x: Float[np.ndarray, "tokens width"],
    reconstruction: Float[np.ndarray, "tokens width"],
    codes: Float[np.ndarray, "tokens features"],
) -> Sums:
    """The sums with one more batch. Raises `InvalidConfig` naming the first row of `x` that is not finite."""
    for row in np.flatnonzero(~np.isfinite(x).all(axis=1)):
        raise InvalidConfig("activations", x[row].tolist()[:4], f"finite numbers; row {sums.tokens + row} is not")
    x, reconstruction = x.astype(np.float64), reconstruction.astype(np.float64)
    active = (codes != 0).sum(axis=1)
    return Sums(
        sums.tokens + len(x),
        sums.squared_error + float(np.square(x - reconstruction).sum()),
        sums.x + x.sum(axis=0),
        sums.squared_x + float(np.square(x).sum()),
        sums.inner + float((x * reconstruction).sum()),
        sums.squared_reconstruction + float(np.square(reconstruction).sum()),
        sums.fired + (codes != 0).sum(axis=0),
        sums.active + np.array([active.sum(), np.square(active).sum()]),
    )


def summarise(sums: Sums) -> dict[str, float]:
    """fvu, l0 and its standard deviation over tokens, dead (share of features that never fired), shrinkage, and Gini of the densities.

    fvu = sum ||x - xhat||^2 / sum ||x - mean||^2 with the mean of the whole set; shrinkage = sum ||xhat||^2 / sum <x, xhat>, 1 where
    reconstructions are as long as they should be. Raises `InvalidConfig` for a set without variance.
    """
    require(sums.tokens > 0, "tokens", sums.tokens, "at least 1")
    variance = sums.squared_x - float(np.square(sums.x).sum()) / sums.tokens
    require(
        variance > 1e-12 * max(sums.squared_x, 1e-300),
        "activations",
        "all equal",
        "activations that differ: nothing to explain",
    )
    mean, square = sums.active / sums.tokens
    return {
        "fvu": sums.squared_error / variance,
        "l0": mean,
        "l0_deviation": float(np.sqrt(max(square - mean**2, 0.0))),
        "dead": float(np.mean(sums.fired == 0)),
        "shrinkage": sums.squared_reconstruction / sums.inner if sums.inner else 0.0,
        "gini": gini(sums.fired / sums.tokens),
    }


def gini(densities: Float[np.ndarray, " features"]) -> float:
    """Gini coefficient: 0 where all features are used alike, towards 1 where few do everything; 0 for all zeros."""
    total, n = densities.sum(), len(densities)
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(densities) / (n * total))


def cross_entropy_recovered(clean: float, reconstructed: float, ablated: float) -> float | None:
    """(CE_ablated - CE_reconstructed) / (CE_ablated - CE_clean) of a model with its activations as they are, reconstructed, or ablated.

    1 where nothing is lost, 0 where no more is kept than by the ablation. Not clipped: above 1 or below 0 it says so. None where the
    ablation does not hurt, so that there is nothing to recover.
    """
    return (ablated - reconstructed) / (ablated - clean) if ablated > clean else None


class Recovery(NamedTuple):
    """mmcs: mean over true features of the largest cosine to a latent. mcc: mean |cosine| under the best one-to-one assignment.

    f1: mean over latents that fire of the F1 score of their firing against that of the true feature they predict best. uniqueness: the
    share of different true features among those best ones.
    """

    mmcs: float
    mcc: float
    f1: float
    uniqueness: float


def recovery(
    decoder: Float[np.ndarray, "latents width"],
    dictionary: Float[np.ndarray, "features width"],
    codes: Float[np.ndarray, "tokens latents"],
    truth: Float[np.ndarray, "tokens features"],
) -> Recovery:
    """How well latents are the features that made the data: their directions, and where they fire.

    The assignment is over the smaller of both sets (Hungarian, `scipy.optimize.linear_sum_assignment`).
    """
    cosines = _unit(decoder.astype(np.float64)) @ _unit(dictionary.astype(np.float64)).T
    rows, columns = linear_sum_assignment(-np.abs(cosines))
    fires, is_there = (codes != 0).astype(np.float32), (truth != 0).astype(np.float32)
    both = fires.T @ is_there
    scores = 2 * both / np.maximum(fires.sum(axis=0)[:, None] + is_there.sum(axis=0)[None], 1e-12)
    used = fires.sum(axis=0) > 0
    best = scores[used].argmax(axis=1)
    return Recovery(
        mmcs=float(cosines.max(axis=0).mean()),
        mcc=float(np.abs(cosines[rows, columns]).mean()),
        f1=float(scores[used].max(axis=1).mean()) if used.any() else 0.0,
        uniqueness=len(set(best.tolist())) / max(len(best), 1),
    )


def collapse(decoder: Float[np.ndarray, "latents width"]) -> float:
    """The largest cosine between two different decoder rows: near 1 where latents have become copies of each other."""
    cosines = _unit(decoder.astype(np.float64))
    cosines = cosines @ cosines.T
    np.fill_diagonal(cosines, -1.0)
    return float(cosines.max())


def calibrate_threshold(affinities: Float[np.ndarray, "tokens features"], k: float) -> float:
    """The threshold above which a token has k affinities on average, exactly on these held-out tokens; 0 where fewer are positive.

    The running threshold of training is a minimum over a batch, and lets too many through.
    """
    flat, kept = affinities.reshape(-1), round(k * len(affinities))
    require(0 <= kept < flat.size, "k", k, f"at most the {affinities.shape[1]} features")
    return float(max(np.partition(flat, flat.size - kept - 1)[flat.size - kept - 1], 0.0))


def calibrate_feature_thresholds(
    affinities: Float[np.ndarray, "tokens features"], shares: Float[np.ndarray, " features"]
) -> Float[np.ndarray, " features"]:
    """For each feature the threshold above which it is in its share of the tokens, exactly on these; 0 where it is positive in fewer."""
    tokens = len(affinities)
    kept = np.clip(np.round(shares * tokens).astype(int), 0, tokens - 1)
    ordered = np.sort(affinities, axis=0)[::-1]
    return np.maximum(ordered[kept, np.arange(len(shares))], 0.0).astype(np.float32)


def principal_components(
    x: Float[np.ndarray, "tokens width"], held_out: Float[np.ndarray, "held width"], ranks: list[int]
) -> list[float]:
    """FVU of held-out activations after projection on the first `rank` principal components of `x`: the best dense code of that size."""
    mean = x.mean(axis=0)
    _, _, directions = np.linalg.svd(x - mean, full_matrices=False)
    centred = held_out - mean
    total = np.square(held_out - held_out.mean(axis=0)).sum()
    return [float(np.square(centred - centred @ directions[:r].T @ directions[:r]).sum() / total) for r in ranks]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
