"""Sparse probing: how well one, two or five latents tell a known class, beside a probe on all dimensions (Gurnee et al. 2023)."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from scipy.optimize import minimize
from scipy.stats import rankdata

from lexinv.validation import require


class ProbeScore(NamedTuple):
    """On held-out tokens. latents: the columns that the probe reads, by decreasing difference of means."""

    latents: tuple[int, ...]
    accuracy: float
    balanced_accuracy: float
    auc: float


class Probe(NamedTuple):
    """Logistic regression: ln(p / (1 - p)) = weights x + bias."""

    weights: Float[np.ndarray, " width"]
    bias: float

    def logits(self, x: Float[np.ndarray, "tokens width"]) -> Float[np.ndarray, " tokens"]:
        """Above 0 where the class is the likelier."""
        return x.astype(np.float64) @ self.weights + self.bias


def class_difference(
    x: Float[np.ndarray, "tokens width"], labels: Bool[np.ndarray, " tokens"]
) -> Float[np.ndarray, " width"]:
    """Difference of the means of both classes, in standard deviations of each column; 0 for a column that is constant.

    (Up to a constant factor, the correlation with the label. SAEBench takes the difference as it is, which favours large activations.)
    """
    x = x.astype(np.float64)
    deviation = x.std(axis=0)
    difference = x[labels].mean(axis=0) - x[~labels].mean(axis=0)
    return np.where(deviation > 0, difference / np.where(deviation > 0, deviation, 1.0), 0.0)


def fit_logistic(
    x: Float[np.ndarray, "tokens width"], labels: Bool[np.ndarray, " tokens"], penalty: float = 1.0
) -> Probe:
    """The minimum of sum_n ln(1 + exp(-y_n (w x_n + b))) + penalty |w|^2 / 2, y = +-1, by L-BFGS; on columns of unit deviation.

    The columns are centred and scaled for the fit, constant ones only centred, and the probe is in the units of x.
    """
    x = x.astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    z, sign = (x - mean) / scale, np.where(labels, 1.0, -1.0)

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (z @ point[:-1] + point[-1])
        wrong = -sign * np.exp(-np.logaddexp(0.0, margin))  # the derivative of ln(1 + exp(-margin)) by the logit
        value = np.logaddexp(0.0, -margin).sum() + penalty * np.square(point[:-1]).sum() / 2
        return value, np.append(z.T @ wrong + penalty * point[:-1], wrong.sum())

    start = np.zeros(x.shape[1] + 1)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6}).x
    weights = found[:-1] / scale
    return Probe(weights, float(found[-1] - weights @ mean))


def area_under_curve(scores: Float[np.ndarray, " tokens"], labels: Bool[np.ndarray, " tokens"]) -> float:
    """The probability that a token of the class scores above one that is not of it; equal scores count one half."""
    positive = int(labels.sum())
    above = rankdata(scores)[labels].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(labels) - positive)))


def halves(
    labels: Bool[np.ndarray, " tokens"], key: Key[Array, ""]
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held"]]:
    """Indices of a training and a held-out half, with half of either class in each. Raises `InvalidConfig` for a class below 4 tokens."""
    order = np.asarray(jax.random.permutation(key, len(labels)))
    train, held = [], []
    for value in (False, True):
        members = order[labels[order] == value]
        require(len(members) >= 4, "labels", len(members), f"at least 4 tokens whose label is {value}")
        train.append(members[: len(members) // 2])
        held.append(members[len(members) // 2 :])
    return np.concatenate(train), np.concatenate(held)


def probe(
    x: Float[np.ndarray, "tokens width"],
    labels: Bool[np.ndarray, " tokens"],
    key: Key[Array, ""],
    k: int | None = None,
) -> ProbeScore:
    """Fit on one half of the tokens and score on the other; on all columns, or on the k with the largest `class_difference` of that half.

    The same key gives the same halves, whatever x: so codes and the activations they encode are judged on the same tokens.
    Raises `InvalidConfig` for labels that are not boolean: zeros and ones would be taken for indices.
    """
    require(labels.dtype == bool, "labels", str(labels.dtype), "bool")
    require(k is None or 1 <= k <= x.shape[1], "k", k, f"None, or 1 to the {x.shape[1]} columns")
    train, held = halves(labels, key)
    columns = np.arange(x.shape[1])
    if k is not None:
        columns = np.argsort(-np.abs(class_difference(x[train], labels[train])), kind="stable")[:k]
    fitted = fit_logistic(x[train][:, columns], labels[train])
    logits, truth = fitted.logits(x[held][:, columns]), labels[held]
    right = (logits > 0) == truth
    return ProbeScore(
        latents=() if k is None else tuple(columns.tolist()),
        accuracy=float(right.mean()),
        balanced_accuracy=float((right[truth].mean() + right[~truth].mean()) / 2),
        auc=area_under_curve(logits, truth),
    )


def sparse_probing(
    codes: Float[np.ndarray, "tokens latents"],
    activations: Float[np.ndarray, "tokens width"],
    labels: Bool[np.ndarray, " tokens"],
    key: Key[Array, ""],
    ks: tuple[int, ...] = (1, 2, 5),
) -> dict[str, ProbeScore]:
    """Scores of probes on k latents, named "1", "2", "5", and "activations" for one on all dimensions of what they encode."""
    return {str(k): probe(codes, labels, key, k) for k in ks} | {"activations": probe(activations, labels, key)}
