"""Invariant representations across environments: gaps, risks, what approximate invariance in some guarantees in others.

Parulekar, Shanmugam and Shakkottai 2023 (arXiv 2205.15196). A representation Φ[features, covariates] with a head w[features] predicts
y by wᵀΦx. It is invariant on a set of environments if w is the optimal head in all of them. Only the paper's definitions and questions
are used here: the bounds are those derived in the method card pac-invariant-representations, and their constants are not the paper's.
"""

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lexinv.lexinvariance.structural_equations import Moments
from lexinv.validation import require

Representation = Float[Array, "features covariates"]
Head = Float[Array, " features"]


class Predictor(NamedTuple):
    """y is predicted by `head · representation · x`."""

    representation: Representation
    head: Head


def risk(predictor: Predictor, moments: Moments) -> Float[Array, " environments"]:
    """E_e[(y - wᵀΦx)²] in every environment."""
    theta = predictor.representation.T @ predictor.head
    explained = jnp.einsum("i,eij,j->e", theta, moments.covariates, theta)
    return moments.target - 2.0 * moments.cross @ theta + explained


def residual(predictor: Predictor, moments: Moments) -> Float[Array, "environments features"]:
    """Φ(E_e[xxᵀ]Φᵀw - E_e[xy]): half the gradient of the risk with respect to the head; zero where the head is optimal."""
    phi, head = predictor
    return (jnp.einsum("eij,j->ei", moments.covariates, phi.T @ head) - moments.cross) @ phi.T


def invariance_gap(predictor: Predictor, moments: Moments) -> Float[Array, " environments"]:
    """‖Φ(E_e[xxᵀ]Φᵀw - E_e[xy])‖_∞, the normal-equation form; defined for singular Φ E_e[xxᵀ] Φᵀ too. It scales with Φ: normalise it."""
    return jnp.abs(residual(predictor, moments)).max(axis=1)


def optimal_head(representation: Representation, moments: Moments) -> Float[Array, "environments features"]:
    """(Φ E_e[xxᵀ] Φᵀ)⁻¹ Φ E_e[xy]; not finite where that matrix is singular."""
    gram = jnp.einsum("ai,eij,bj->eab", representation, moments.covariates, representation)
    return jnp.linalg.solve(gram, (moments.cross @ representation.T)[..., None])[..., 0]


def head_gap(predictor: Predictor, moments: Moments) -> Float[Array, " environments"]:
    """‖w*_e - w‖₂, the distance to the optimal head: does not depend on the scale of Φ, but on the conditioning of Φ E_e[xxᵀ] Φᵀ."""
    return jnp.linalg.norm(optimal_head(predictor.representation, moments) - predictor.head[None], axis=1)


def excess_risk(predictor: Predictor, moments: Moments) -> Float[Array, " environments"]:
    """Risk above that of the environment's own optimal head on the same representation."""
    heads = optimal_head(predictor.representation, moments)
    best = jnp.einsum("ea,ai,ei->e", heads, predictor.representation, moments.cross)
    return risk(predictor, moments) - (moments.target - best)


def pooled(moments: Moments) -> Moments:
    """All environments as one, in equal shares."""
    return jax.tree.map(lambda leaf: leaf.mean(axis=0, keepdims=True), moments)


def environment_vectors(moments: Moments) -> Float[Array, "environments numbers"]:
    """All that a gap depends on in an environment, (E_e[xxᵀ], E_e[xy]), as a vector; every residual is linear in it."""
    count = moments.cross.shape[1]
    upper = np.triu_indices(count)
    return jnp.concatenate([moments.covariates[:, upper[0], upper[1]], moments.cross], axis=1)


def environment_rank(vectors: Float[np.ndarray, "environments numbers"], tolerance: float = 1e-9) -> int:
    """Dimension of the span of the environments: singular values above `tolerance` times the largest. Needs float64."""
    values = np.linalg.svd(vectors, compute_uv=False)
    return int((values > tolerance * values[0]).sum())


def finite_class_violation(predictors: int, environments: int, delta: float) -> float:
    """τ = 1 - (δ/K)^(1/m): with probability 1 - δ over m training environments, each of K predictors that is ε-invariant on all of
    them is so on a fresh one with probability at least 1 - τ.

    One that is not passes with probability below (1 - τ)^m. The predictors must not depend on these environments; ε may be anything.
    Raises `InvalidConfig` for δ outside (0, 1) and for no predictor or environment.
    """
    require(0 < delta < 1, "delta", delta, "a probability between 0 and 1")
    require(predictors >= 1, "predictors", predictors, "at least 1")
    require(environments >= 1, "environments", environments, "at least 1")
    return 1.0 - (delta / predictors) ** (1.0 / environments)


def transfer_factors(
    train: Float[np.ndarray, "environments numbers"], test: Float[np.ndarray, "others numbers"]
) -> Float[np.ndarray, " others"]:
    """How many times its largest training gap a predictor may have as a gap in each test environment, whatever it is.

    That is the least ‖α‖₁ with Σ α_i train_i = test_e, by a linear program; infinite outside of the span of the training environments.
    Residuals are linear in the environments, so that gap_e <= ‖α‖₁ max_i gap_i for every Φ and w; by duality no smaller factor serves
    all linear functions of an environment. Both sets are `environment_vectors`. Needs float64.
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye, kron

    left, values, basis = np.linalg.svd(train, full_matrices=False)
    kept = values > 1e-9 * values[0]
    left, values, basis = left[:, kept], values[kept], basis[kept]
    places = test @ basis.T
    inside = np.linalg.norm(test - places @ basis, axis=1) <= 1e-8 * np.linalg.norm(test, axis=1)
    factors = np.full(len(test), np.inf)
    if inside.any():
        # One program for all test environments; in these coordinates the training environments have orthonormal columns.
        equations = kron(eye(inside.sum()), np.hstack([left.T, -left.T]), format="csc")
        wanted = (places[inside] / values).ravel()
        found = linprog(np.ones(2 * len(train) * inside.sum()), A_eq=equations, b_eq=wanted, method="highs")
        factors[inside] = np.reshape(found.x, (inside.sum(), -1)).sum(axis=1)
    return factors


def subset_predictors(together: Moments) -> Predictor:
    """For every set of covariates the representation that keeps it, with its optimal head in a single environment; leaves [subsets, ...].

    In the order of `itertools.product`: the empty set, which predicts 0, is the first. Raises `InvalidConfig` for over 16 covariates.
    """
    count = together.cross.shape[1]
    require(count <= 16, "covariates", count, "at most 16: all subsets are tried")
    masks = jnp.array(list(product((0.0, 1.0), repeat=count)), together.cross.dtype)
    return jax.lax.map(lambda mask: masked_least_squares(mask, together), masks)


def invariant_subset(moments: Moments, tolerance: float | Float[Array, ""]) -> Predictor:
    """Of all sets of covariates that are invariant up to `tolerance` in every environment, the one of least pooled risk.

    Their heads are optimal on the pool. The empty set always passes. Raises `InvalidConfig` as `subset_predictors`.
    """
    together = pooled(moments)
    predictors = subset_predictors(together)

    def judge(predictor: Predictor) -> Float[Array, ""]:
        invariant = invariance_gap(predictor, moments).max() <= tolerance
        return jnp.where(invariant, risk(predictor, together)[0], jnp.inf)

    best = jnp.argmin(jax.lax.map(judge, predictors))
    return jax.tree.map(lambda leaf: leaf[best], predictors)


def masked_least_squares(mask: Float[Array, " covariates"], together: Moments) -> Predictor:
    """The representation that keeps the covariates where `mask` is 1, and its optimal head in a single environment; 0 for the others."""
    covariates = mask[:, None] * together.covariates[0] * mask[None] + jnp.diag(1.0 - mask)
    return Predictor(jnp.diag(mask), jnp.linalg.solve(covariates, mask * together.cross[0]))
