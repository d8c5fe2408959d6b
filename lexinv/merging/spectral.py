"""What merging does to the spectrum of the token graph: coarsening, lifting, and spectral distance, in float64 on the host.

Tran et al. 2024 (arXiv 2405.16148), section 4 and appendix, after Jin, Loukas and JaJa 2020; method card token-merging. What was found on
running the paper's theorem, of which 1 and 2 are tests and 3 and 4 claims of the experiment `spectral_distance`:

1. The lemma (the lifted Laplacian has the eigenvalues of the coarse graph, and ones) holds for the coarse graph of *sums*, not for the
   one of group means that the paper writes, unless all groups are equal. The spectral distance is taken from the lifted graph, where
   the question vanishes.
2. The bound 1.5 N sum eps is no oracle: its proof treats combinatorial Laplacians, while the distance is one of normalised Laplacians,
   which do not change when all weights shrink. Tokens in a narrow cone have a bound as small as one likes, and a distance that stays.
3. The theorem needs clusters of different sizes. Iterated merging makes sizes equal, and since every source must go somewhere, PiToMe
   with protection then merges across clusters, where ToMe does not.
4. After one step with the largest cluster on the indices of one parity, and for one large cluster among singletons, PiToMe's distance
   vanishes as the clusters tighten, and ToMe's stays: always in the first case, in a share of the draws in the second. In the first it is
   the order of the tokens that decides: a random bipartition does as well as energies.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Integer

from lexinv.merging.plan import check_axes
from lexinv.validation import choose, require


def token_graph(x: Float[np.ndarray, "tokens width"], eps: float = 1e-12) -> Float[np.ndarray, "tokens tokens"]:
    """Weights W_ij = 1 - cos(x_i, x_j), the diagonal 0. Raises `InvalidConfig` naming the first row that is not finite.

    A norm below `eps` counts as eps: a zero vector is at distance 1 from all.
    """
    check_axes(2, x=x)
    for row in np.flatnonzero(~np.isfinite(x).all(axis=1)):
        require(False, "tokens", x[row].tolist()[:4], f"finite numbers; row {row} is not")
    x = x.astype(np.float64)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), eps)
    weights = np.maximum(1 - unit @ unit.T, 0.0)
    np.fill_diagonal(weights, 0.0)
    return (weights + weights.T) / 2


def membership(assign: Integer[np.ndarray, " tokens"], targets: int) -> Float[np.ndarray, "tokens targets"]:
    """The matrix P: row i has its 1 at the target of token i. Raises `InvalidConfig` for an empty target or a token without one."""
    found = np.unique(assign)
    whole = found.tolist() == list(range(targets))
    require(
        whole,
        "assign",
        found.tolist(),
        f"every target from 0 to {targets - 1}, and no other (spectra are of merging, not pruning)",
    )
    return np.eye(targets)[assign]


def coarsen(
    weights: Float[np.ndarray, "tokens tokens"],
    assign: Integer[np.ndarray, " tokens"],
    targets: int,
    how: Literal["sum", "mean"] = "sum",
) -> Float[np.ndarray, "targets targets"]:
    """The graph of the targets, self-loops kept: sums P^T W P of the weights between groups, or their means S^-1 P^T W P S^-1."""
    choose("how", how, ("sum", "mean"))
    member = membership(assign, targets)
    coarse = member.T @ weights.astype(np.float64) @ member
    sizes = member.sum(axis=0)
    return coarse if how == "sum" else coarse / np.outer(sizes, sizes)


def lift(
    weights: Float[np.ndarray, "tokens tokens"], assign: Integer[np.ndarray, " tokens"], targets: int
) -> Float[np.ndarray, "tokens tokens"]:
    """The coarse graph seen from the tokens, P (S^-1 P^T W P S^-1) P^T: each weight replaced by the mean between its groups."""
    return coarsen(weights, assign, targets, "mean")[np.ix_(assign, assign)]


def normalised_laplacian(weights: Float[np.ndarray, "nodes nodes"]) -> Float[np.ndarray, "nodes nodes"]:
    """I - D^-1/2 W D^-1/2; row and column of a node without weight are 0, as in Chung's definition."""
    degrees = weights.sum(axis=1)
    there = degrees > 0
    scale = np.where(there, 1 / np.sqrt(np.where(there, degrees, 1.0)), 0.0)
    return np.diag(there.astype(np.float64)) - scale[:, None] * weights * scale[None, :]


def laplacian_spectrum(weights: Float[np.ndarray, "nodes nodes"]) -> Float[np.ndarray, " nodes"]:
    """Eigenvalues of the normalised Laplacian, ascending, from 0 to 2."""
    return np.linalg.eigvalsh(normalised_laplacian(weights.astype(np.float64)))


def spectral_distance(
    weights: Float[np.ndarray, "tokens tokens"], assign: Integer[np.ndarray, " tokens"], targets: int
) -> float:
    """sum_i |lambda_i(L) - lambda_i(L_lifted)| over all N eigenvalues, both ascending; 0 for the partition into single tokens.

    `assign` is that of a merging plan, composed over the layers, with all tokens in some target. O(N^3).
    """
    lifted = lift(weights, assign, targets)
    return float(np.abs(laplacian_spectrum(weights) - laplacian_spectrum(lifted)).sum())


def spectral_bound(weights: Float[np.ndarray, "tokens tokens"], pairs: list[tuple[int, int]]) -> float:
    """The paper's bound on the distance after merging these pairs, 1.5 N sum ||W[a] - W[b]||_1. See finding 2: it can be broken."""
    return 1.5 * len(weights) * sum(float(np.abs(weights[a] - weights[b]).sum()) for a, b in pairs)


def purity(assign: Integer[np.ndarray, " tokens"], clusters: Integer[np.ndarray, " tokens"]) -> float:
    """The share of tokens whose cluster is the most frequent one of their target: 1 where nothing was merged across clusters."""
    tokens = sum(np.bincount(clusters[assign == target]).max() for target in np.unique(assign))
    return float(tokens / len(assign))
