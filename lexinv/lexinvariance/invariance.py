"""Invariant representations across environments: gaps, risks, how many environments are enough, and how to find or break invariance.

Parulekar, Shanmugam and Shakkottai 2023 (arXiv 2205.15196). A representation Φ[features, covariates] with a head w[features] predicts
y by wᵀΦx. It is invariant on a set of environments if w is the optimal head in all of them. Only the paper's definitions and questions
are used here: the bounds are those derived in the method card pac-invariant-representations, and their constants are not the paper's.
"""

import math
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

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


def vc_dimension(features: int, covariates: int) -> float:
    """Upper bound on the VC dimension of the sets of environments {e : gap_e(Φ, w) <= ε} over all Φ and w.

    2 parameters · log2(8e · degree · inequalities), with k(q + 1) parameters, degree 3 and 2k inequalities (Goldberg and Jerrum 1995).
    """
    return 2 * features * (covariates + 1) * math.log2(8 * math.e * 3 * 2 * features)


def vc_dimension_of_span(features: int, rank: int) -> float:
    """The same where the environments span `rank` dimensions, whatever the number of covariates.

    Each set is an intersection of 2k half-spaces of that span: VC <= 2 (rank + 1) s log2(3 s), s = 2k (Blumer et al. 1989, lemma 3.2.3).
    """
    half_spaces = 2 * features
    return 2 * (rank + 1) * half_spaces * math.log2(3 * half_spaces)


def sufficient_environments(vc: float, tau: float, delta: float) -> int:
    """Training environments after which, with probability 1 - δ, every predictor that is ε-invariant on all of them is so on a fresh one
    with probability at least 1 - τ: (4/τ) log2(2/δ) + (8 VC/τ) log2(13/τ) (Blumer et al. 1989, theorem 2.1).

    The method card gives the sum; the theorem's maximum of the two would do. Raises `InvalidConfig` for τ or δ outside (0, 1).
    """
    require(0 < tau < 1, "tau", tau, "a probability between 0 and 1")
    require(0 < delta < 1, "delta", delta, "a probability between 0 and 1")
    return math.ceil(_sufficient(vc, tau, delta))


def _sufficient(vc: float, tau: float, delta: float) -> float:
    return 4 / tau * math.log2(2 / delta) + 8 * vc / tau * math.log2(13 / tau)


def guaranteed_violation(vc: float, environments: int, delta: float) -> float:
    """The smallest τ for which `environments` are sufficient; 1 where none below 1 is: then the bound says nothing."""
    from scipy.optimize import root_scalar

    if _sufficient(vc, 1.0, delta) >= environments:
        return 1.0
    found = root_scalar(lambda tau: _sufficient(vc, tau, delta) - environments, bracket=(1e-12, 1.0))
    return float(found.root)


def transfer_factors(
    train: Float[Array, "environments numbers"], test: Float[Array, "others numbers"]
) -> tuple[Float[Array, " others"], Float[Array, " others"]]:
    """‖α_e‖₁ of each test environment as Σ α_i train_i (the least α in the 2-norm), and the share of its length outside their span.

    Residuals are linear in the environments: inside the span, gap_e <= ‖α_e‖₁ max_i gap_i for every Φ and w.
    """
    inverse = jnp.linalg.pinv(train, rtol=1e-11)
    coefficients = test @ inverse
    outside = jnp.linalg.norm(test - coefficients @ train, axis=1) / jnp.linalg.norm(test, axis=1)
    return jnp.abs(coefficients).sum(axis=1), outside


def invariant_subset(moments: Moments, tolerance: float) -> Predictor:
    """Of all sets of covariates that are invariant, the one of least pooled risk, by trying them all: at most 16 covariates.

    Φ keeps the covariates of the set and w is their pooled least-squares fit; the empty set predicts 0 and always passes. Invariant: the
    gap is at most `tolerance` in every environment.
    """
    count = moments.cross.shape[1]
    require(count <= 16, "covariates", count, "at most 16: all subsets are tried")
    masks = jnp.array(list(product((0.0, 1.0), repeat=count)), moments.cross.dtype)
    together = pooled(moments)

    def judge(mask):
        predictor = masked_least_squares(mask, together)
        invariant = invariance_gap(predictor, moments).max() <= tolerance
        return jnp.where(invariant, risk(predictor, together)[0], jnp.inf)

    return masked_least_squares(masks[jnp.argmin(jax.lax.map(judge, masks))], together)


def masked_least_squares(mask: Float[Array, " covariates"], together: Moments) -> Predictor:
    """The representation that keeps the covariates where `mask` is 1, and its optimal head in a single environment; 0 for the others."""
    covariates = mask[:, None] * together.covariates[0] * mask[None] + jnp.diag(1.0 - mask)
    return Predictor(jnp.diag(mask), jnp.linalg.solve(covariates, mask * together.cross[0]))


def irm_fit(
    rng: Key[Array, ""],
    moments: Moments,
    features: int,
    penalty: float,
    steps: int,
    learning_rate: float = 1e-2,
) -> Predictor:
    """Minimise the mean over environments of risk + penalty · ‖∂risk/∂w‖² (IRMv1, Arjovsky et al. 2019) by Adam with a cosine schedule.

    Φ is scaled to Frobenius norm 1 in the objective: otherwise the penalty vanishes by making Φ small and w large.
    """
    optimizer = optax.scale_by_adam()
    rates = learning_rate * (1 + jnp.cos(jnp.linspace(0.0, jnp.pi, steps, dtype=moments.cross.dtype))) / 2

    def normalised(predictor: Predictor) -> Predictor:
        return Predictor(predictor.representation / jnp.linalg.norm(predictor.representation), predictor.head)

    def objective(predictor: Predictor) -> Float[Array, ""]:
        predictor = normalised(predictor)
        gradient = 2.0 * residual(predictor, moments)
        return jnp.mean(risk(predictor, moments) + penalty * (gradient**2).sum(axis=1))

    def step(carry, rate):
        predictor, state = carry
        updates, state = optimizer.update(jax.grad(objective)(predictor), state)
        return (jax.tree.map(lambda leaf, update: leaf - rate * update, predictor, updates), state), None

    start = random_predictor(rng, pooled(moments), features)
    return normalised(jax.lax.scan(step, (start, optimizer.init(start)), rates)[0][0])


def random_predictor(rng: Key[Array, ""], together: Moments, features: int) -> Predictor:
    """A random representation of Frobenius norm 1 with its optimal head in the single environment `together`."""
    phi = jax.random.normal(rng, (features, together.cross.shape[1]), together.cross.dtype)
    phi = phi / jnp.linalg.norm(phi)
    return Predictor(phi, optimal_head(phi, together)[0])


def adversarial_predictors(
    rng: Key[Array, ""],
    train: Moments,
    search: Moments,
    features: int,
    restarts: int,
    steps: int,
) -> Predictor:
    """Predictors [restarts] that are exactly invariant on the training environments and as far from it as possible on the search
    environments: the worst case that a bound for all (Φ, w) speaks of.

    Ascent of ln mean_e ‖residual_e‖² on the search environments along the tangent of {residual = 0 on the training environments}, with
    Gauss-Newton steps back onto it and ‖Φ‖_F = 1. An invariant predictor has the optimal head everywhere, so that its risk is at most
    that of predicting 0 without asking for it. Where the search fails to reach invariance the training gap shows it. Training environments
    may repeat.
    """
    shape = (features, train.cross.shape[1])
    size = shape[0] * shape[1]
    together = pooled(train)

    def unpack(x: Float[Array, " parameters"]) -> Predictor:
        return Predictor(x[:size].reshape(shape), x[size:])

    def pack(predictor: Predictor) -> Float[Array, " parameters"]:
        scale = jnp.linalg.norm(predictor.representation)  # the prediction stays what it was
        return jnp.concatenate([predictor.representation.reshape(-1) / scale, predictor.head * scale])

    def constraints(x):
        """Residuals on the training environments [equations], and their Jacobian."""
        phi, head = unpack(x)
        seen = jnp.einsum("ai,eij->eaj", phi, train.covariates)
        errors = jnp.einsum("eij,j->ei", train.covariates, phi.T @ head) - train.cross
        by_phi = jnp.einsum("b,eaj->eabj", head, seen) + jnp.einsum(
            "ab,ej->eabj", jnp.eye(features, dtype=x.dtype), errors
        )
        by_head = jnp.einsum("eaj,bj->eab", seen, phi)
        jacobian = jnp.concatenate([by_phi.reshape(*seen.shape[:2], size), by_head], axis=2)
        return (errors @ phi.T).reshape(-1), jacobian.reshape(-1, x.size)

    def least_norm(jacobian, values):
        """The shortest x with Jx = values, nearly; the damping leaves out equations that depend on others."""
        damping = 1e-13 * (jacobian**2).sum() + 1e-30
        if len(jacobian) > jacobian.shape[1]:
            normal = jacobian.T @ jacobian + damping * jnp.eye(jacobian.shape[1], dtype=jacobian.dtype)
            return jnp.linalg.solve(normal, jacobian.T @ values)
        return jacobian.T @ jnp.linalg.solve(
            jacobian @ jacobian.T + damping * jnp.eye(len(jacobian), dtype=jacobian.dtype), values
        )

    def objective(x):
        # Where there is nothing left to climb the residuals may be exactly 0.
        return jnp.log(jnp.mean((residual(unpack(x), search) ** 2).sum(axis=1)) + 1e-100)

    def climb(x, rate):
        gradient = jax.grad(objective)(x)
        _, jacobian = constraints(x)
        tangent = gradient - least_norm(jacobian, jacobian @ gradient)
        x = pack(unpack(x + rate * tangent / (jnp.linalg.norm(tangent) + 1e-12)))
        values, jacobian = constraints(x)
        return pack(unpack(x - least_norm(jacobian, values))), None

    # Steps of size 0 only go back to invariance.
    falling = 0.3 * jnp.linspace(1.0, 0.0, steps, endpoint=False, dtype=train.cross.dtype) ** 2
    rates = jnp.pad(falling, 10)

    def restart(rng):
        start = pack(random_predictor(rng, together, features))
        return unpack(jax.lax.scan(climb, start, rates)[0])

    return jax.lax.map(restart, jax.random.split(rng, restarts))
