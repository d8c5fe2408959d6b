"""Sparse probing: how well one, two or five latents tell a known class, beside a probe on all dimensions (Gurnee et al. 2023)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize

from lexinv.validation import require

Tokens = Float[np.ndarray, "tokens width"]
Labels = Bool[np.ndarray, "tokens classes"]


class Probe(NamedTuple):
    """A logistic regression for each class: ln(p / (1 - p)) = x weights + bias."""

    weights: Float[np.ndarray, "width classes"]
    bias: Float[np.ndarray, " classes"]

    def logits(self, x: Tokens) -> Float[np.ndarray, "tokens classes"]:
        """Above 0 where the class is the likelier."""
        return x.astype(np.float64) @ self.weights + self.bias


class Scores(NamedTuple):
    """Of the probe of each class, which says yes where its logit is above 0."""

    balanced_accuracy: Float[np.ndarray, " classes"]
    f1: Float[np.ndarray, " classes"]


def difference_of_means(x: Tokens, labels: Labels) -> Float[np.ndarray, "width classes"]:
    """The mean of x in each class minus that outside of it. Raises `InvalidConfig` for a class that holds no token, or all."""
    count = labels.sum(axis=0)
    both = bool(((count > 0) & (count < len(labels))).all())
    require(both, "labels", count.tolist(), f"in each class 1 to {len(labels) - 1} tokens")
    x = x.astype(np.float64)
    inside = x.T @ labels
    return inside / count - (x.sum(axis=0)[:, None] - inside) / (len(x) - count)


def most_different(x: Tokens, labels: Labels, k: int, either: bool = True) -> Int[np.ndarray, "classes k"]:
    """The k columns of x with the largest difference of means in standard deviations of the column, the largest first; constant ones last.

    either: of either sign; otherwise those that are larger in the class come first. (Up to a constant factor, the correlation with the
    label. SAEBench takes the difference as it is, which favours large activations.)
    """
    require(1 <= k <= x.shape[1], "k", k, f"1 to the {x.shape[1]} columns")
    deviation = x.astype(np.float64).std(axis=0)[:, None]
    found = difference_of_means(x, labels) / np.where(deviation > 0, deviation, np.inf)
    return np.argsort(-(np.abs(found) if either else found), axis=0, kind="stable")[:k].T


def fit_logistic(x: Tokens, labels: Labels, penalty: float = 1.0) -> Probe:
    """For each class the minimum of sum_n c_n ln(1 + exp(-y_n (w x_n + b))) + penalty |w|^2 / 2, y = +-1, by L-BFGS.

    c_n weighs the tokens so that a class and all else count as half of them each. The columns are centred and scaled to unit deviation for
    the fit, constant ones only centred, and the probe is in the units of x. All classes are one problem, as one matrix product is faster
    than many.
    """
    x = x.astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    z, sign = (x - mean) / scale, np.where(labels, 1.0, -1.0)
    count = labels.sum(axis=0)
    weigh = len(x) / 2 / np.where(labels, count, len(x) - count)

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = np.split(point.reshape(-1, sign.shape[1]), [z.shape[1]])
        margin = sign * (z @ weights + bias)
        wrong = (
            -weigh * sign * np.exp(-np.logaddexp(0.0, margin))
        )  # the derivative of ln(1 + exp(-margin)) by the logit
        value = (weigh * np.logaddexp(0.0, -margin)).sum() + penalty * np.square(weights).sum() / 2
        return value, np.concatenate([z.T @ wrong + penalty * weights, wrong.sum(axis=0)[None]]).ravel()

    start = np.zeros((x.shape[1] + 1) * labels.shape[1])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6}).x
    weights, bias = np.split(found.reshape(-1, labels.shape[1]), [x.shape[1]])
    weights = weights / scale[:, None]
    return Probe(weights, bias[0] - mean @ weights)


def scores(logits: Float[np.ndarray, "tokens classes"], labels: Labels) -> Scores:
    """How well each column of the logits tells its class."""
    positive, said = labels.sum(axis=0), logits > 0
    negative, right = len(labels) - positive, (said & labels).sum(axis=0)
    return Scores(
        balanced_accuracy=(right / positive + (~said & ~labels).sum(axis=0) / negative) / 2,
        f1=2 * right / (said.sum(axis=0) + positive),
    )


def sparse_probing(
    train: tuple[Tokens, Labels],
    held_out: tuple[Float[np.ndarray, "held width"], Bool[np.ndarray, "held classes"]],
    latents: Int[np.ndarray, "classes k"],
    penalty: float = 1.0,
) -> Scores:
    """On held-out tokens, of probes that read `latents` alone of each class, such as `most_different` of the training tokens."""
    (x, labels), (held, truth) = train, held_out
    logits = [
        fit_logistic(x[:, columns], labels[:, [c]], penalty).logits(held[:, columns])
        for c, columns in enumerate(latents)
    ]
    return scores(np.concatenate(logits, axis=1), truth)
