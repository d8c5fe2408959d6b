"""What the counts of a sequence of tokens say: laws of rank and size, growth, entropies, and what a code without memory saves."""

from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy.optimize import minimize
from scipy.special import betaln, digamma
from scipy.stats import yulesimon

from lexinv.validation import choose, require

BENFORD = np.log10(1 + 1 / np.arange(1, 10))
"""Shares of the first digits 1 to 9."""
ESTIMATORS = ("plug-in", "miller-madow", "grassberger")


def ngram_counts(tokens: Integer[np.ndarray, " tokens"], n: int = 1) -> Int[np.ndarray, " types"]:
    """How often each run of n tokens occurs that does, the most frequent first. Raises `InvalidConfig` where there is no such run."""
    require(1 <= n <= len(tokens), "n", n, f"from 1 to the {len(tokens)} tokens")
    runs = np.zeros(len(tokens) - n + 1, np.int64)
    for offset in range(n):  # numbered anew at every step, so that no product of vocabularies overflows
        part = tokens[offset : offset + len(runs)].astype(np.int64)
        runs = np.unique(runs * (int(part.max()) + 1) + part, return_inverse=True)[1]
    return np.sort(np.bincount(runs))[::-1]


def entropy(counts: Integer[np.ndarray, " types"], estimator: str = "miller-madow") -> float:
    """Entropy in bits of the law that these counts are drawn from, the bias of few counts corrected by one of `ESTIMATORS` but the first.

    Miller 1955; Grassberger 2003 (arXiv physics/0307138), equation 35, for counts of which many are small.
    """
    choose("estimator", estimator, ESTIMATORS)
    logs, tokens = np.log(_positive(counts)), counts.sum()
    if estimator == "grassberger":
        logs = digamma(counts) + (0.5 - counts % 2) * (digamma((counts + 1) / 2) - digamma(counts / 2))
    missed = (len(counts) - 1) / (2 * tokens) if estimator == "miller-madow" else 0.0
    return float(np.log(tokens) - counts @ logs / tokens + missed) / np.log(2)


def conditional_entropy(tokens: Integer[np.ndarray, " tokens"], n: int = 2, estimator: str = "grassberger") -> float:
    """h_n = H_n - H_(n-1): bits of a token given the n - 1 before it, in the sample; far too low where runs of n are rare."""
    return entropy(ngram_counts(tokens, n), estimator) - entropy(ngram_counts(tokens, n - 1), estimator)


def huffman_lengths(counts: Integer[np.ndarray, " types"]) -> Int[np.ndarray, " types"]:
    """Bits of each type's word in an optimal prefix code (Huffman 1952). Raises `InvalidConfig` for fewer than two types."""
    require(len(_positive(counts)) >= 2, "counts", counts.tolist(), "of at least two types")
    heap = [(int(count), node) for node, count in enumerate(counts)]
    parents = np.zeros(2 * len(counts) - 1, np.int64)
    heapify(heap)
    for node in range(len(counts), len(parents)):
        (least, one), (next_, other) = heappop(heap), heap[0]
        parents[[one, other]] = node
        heapreplace(heap, (least + next_, node))
    depths = np.zeros(len(parents), np.int64)
    for node in reversed(range(len(parents) - 1)):
        depths[node] = depths[parents[node]] + 1
    return depths[: len(counts)]


def huffman_saving(counts: Integer[np.ndarray, " types"]) -> float:
    """1 - L / log2(types): what Huffman's code saves of words of one length. It knows frequencies, and nothing of order."""
    return float(1 - counts @ huffman_lengths(counts) / counts.sum() / np.log2(len(counts)))


class ZipfMandelbrot(NamedTuple):
    """p(rank) proportional to (rank + shift)^-exponent for ranks from 1 to a number of types."""

    exponent: float
    shift: float = 0.0

    def probabilities(self, types: int) -> Float[np.ndarray, " types"]:
        weights = (np.arange(1, types + 1) + self.shift) ** -self.exponent
        return weights / weights.sum()


def fit_zipf_mandelbrot(counts: Integer[np.ndarray, " types"], shifted: bool = True) -> ZipfMandelbrot:
    """Of greatest likelihood, for counts by falling rank; Zipf's law unless `shifted`."""
    counts = np.sort(_positive(counts))[::-1]
    shares, ranks = counts / counts.sum(), np.arange(1, len(counts) + 1)

    def nats(free: np.ndarray) -> tuple[float, np.ndarray]:
        law = ZipfMandelbrot(free[0], np.expm1(free[1]) if shifted else 0.0)
        likely, places = law.probabilities(len(counts)), ranks + law.shift
        excess = shares - likely
        slope = excess @ np.log(places), law.exponent * (excess @ (1 / places)) * (1 + law.shift)
        return float(-shares @ np.log(likely)), np.array(slope[: len(free)])

    start, bounds = [1.0, 1.0][: 1 + shifted], [(0.0, 20.0), (0.0, np.log1p(10.0 * len(counts)))][: 1 + shifted]
    best = minimize(nats, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    return ZipfMandelbrot(float(best[0]), float(np.expm1(best[1])) if shifted else 0.0)


def rank_distance(counts: Integer[np.ndarray, " types"], law: ZipfMandelbrot) -> float:
    """Kolmogorov-Smirnov distance of the shares by falling rank from a law."""
    shares = np.sort(counts)[::-1] / counts.sum()
    return float(np.abs(np.cumsum(shares - law.probabilities(len(counts)))).max())


def zipf_test(counts: Integer[np.ndarray, " types"], rng: np.random.Generator, draws: int) -> tuple[float, float]:
    """(distance from the Zipf-Mandelbrot law that fits best, p): a share p of samples of that law, as large and fitted anew, is as far off.

    Ranks are those of the sample itself in both, which makes a straight line of noise (Piantadosi 2014). p is at least 1 / (draws + 1).
    """
    law = fit_zipf_mandelbrot(counts)
    distance, likely = rank_distance(counts, law), law.probabilities(len(counts))
    drawn = [sample[sample > 0] for sample in rng.multinomial(counts.sum(), likely, draws)]
    farther = sum(rank_distance(sample, fit_zipf_mandelbrot(sample)) >= distance for sample in drawn)
    return distance, (1 + farther) / (1 + draws)


def fit_yule_simon(counts: Integer[np.ndarray, " types"]) -> tuple[float, float]:
    """(rho, distance): P(a type occurs k times) = rho B(k, rho + 1) of greatest likelihood, and the sizes' Kolmogorov-Smirnov distance."""
    sizes, types = np.unique(_positive(counts), return_counts=True)

    def nats(free: np.ndarray) -> float:
        return float(-types @ (free[0] + betaln(sizes, np.exp(free[0]) + 1)) / types.sum())

    rho = float(np.exp(minimize(nats, [0.0], bounds=[(-7.0, 7.0)], method="L-BFGS-B").x[0]))
    return rho, float(np.abs(np.cumsum(types) / types.sum() - yulesimon.cdf(sizes, rho)).max())


def benford_distance(counts: Integer[np.ndarray, " types"]) -> float:
    """Mean absolute deviation of the shares of the counts' first digits from Benford's law."""
    digits = [int(str(count)[0]) for count in _positive(counts).tolist()]
    return float(np.abs(np.bincount(digits, minlength=10)[1:] / len(counts) - BENFORD).mean())


def vocabulary_growth(tokens: Integer[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    """Types seen up to and including each token."""
    new = np.zeros(len(tokens), np.int64)
    new[np.unique(tokens, return_index=True)[1]] = 1
    return np.cumsum(new)


def share_until(tokens: Integer[np.ndarray, " tokens"], share: float = 0.5) -> float:
    """The share of the tokens after which this share of all types has been seen."""
    seen = vocabulary_growth(tokens)
    return float(1 + np.argmax(seen >= share * seen[-1])) / len(tokens)


def _positive(counts: np.ndarray) -> np.ndarray:
    allowed = "whole numbers above 0, at least one"
    require(len(counts) > 0 and int(counts.min()) > 0, "counts", counts.tolist()[:10], allowed)
    return counts
