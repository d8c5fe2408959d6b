"""Linear structural equation models, interventions on them, and what an environment is to a linear predictor: its second moments.

    X = B X + η,   η_i independent with mean μ_i and variance ω_i,   A = (I - B)⁻¹,   E[XXᵀ] = A (diag ω + μμᵀ) Aᵀ

Row i of B holds the weights of variable i's parents. Leading axes stand for environments. Run under
`lexinv.precision.double_precision`: ranks and exact invariance mean nothing in float32.
"""

from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from lexinv.validation import require


class LinearSEM(NamedTuple):
    """A linear structural equation model, or one in every environment."""

    weights: Float[Array, "*environments variables variables"]
    """B: the weight of the second variable in the equation of the first."""
    noise_variance: Float[Array, "*environments variables"]
    noise_mean: Float[Array, "*environments variables"]


class Interventions(NamedTuple):
    """What each environment changes in the mechanisms of its sites; all zeros and False where it changes nothing."""

    weights: Float[Array, "environments variables variables"]
    """δ, added to B (a soft intervention)."""
    noise_variance: Float[Array, "environments variables"]
    """Added to ω."""
    noise_mean: Float[Array, "environments variables"]
    """Added to μ: with `hard`, the value that the variable is set to."""
    hard: Bool[Array, "environments variables"]
    """Cut from all parents."""


class Moments(NamedTuple):
    """E[xxᵀ], E[xy] and E[y²] of the covariates x and the target y in every environment."""

    covariates: Float[Array, "environments covariates covariates"]
    cross: Float[Array, "environments covariates"]
    target: Float[Array, " environments"]


def make_sem(weights: np.ndarray, noise_variance: np.ndarray, noise_mean: np.ndarray | None = None) -> LinearSEM:
    """A model from numbers, checked.

    Raises `InvalidConfig` for shapes that do not fit, a graph with a cycle, and a noise variance that is not positive (which would make
    the covariance singular).
    """
    weights, noise_variance = np.asarray(weights), np.asarray(noise_variance)
    count = len(noise_variance)
    noise_mean = np.zeros(count) if noise_mean is None else np.asarray(noise_mean)
    require(weights.shape == (count, count), "weights", weights.shape, f"({count}, {count}), as there are noises")
    require(noise_mean.shape == (count,), "noise_mean", noise_mean.shape, f"({count},), as there are noises")
    require(
        bool((noise_variance > 0).all()), "noise_variance", noise_variance.tolist(), "positive: a singular covariance"
    )
    try:
        TopologicalSorter({i: np.flatnonzero(row).tolist() for i, row in enumerate(weights)}).prepare()
    except CycleError as error:
        require(False, "weights", error.args[1], "a graph without a cycle")
    return LinearSEM(*map(jnp.asarray, (weights, noise_variance, noise_mean)))


def random_sem(rng: Key[Array, ""], variables: int, in_degree: int, target: int) -> LinearSEM:
    """A random model in topological order whose `target` has a child, the variable after it.

    Variable i has min(i, in_degree) parents among those before it, with weights N(0, 0.36) of size at least 0.1, and noise of mean 0 and
    variance U[0.5, 1.5]. Source: method card pac-invariant-representations, small reproduction.
    """
    require(1 <= target < variables - 1, "target", target, f"1 to {variables - 2}: it has a parent and a child")
    require(in_degree >= 1, "in_degree", in_degree, "at least 1")
    graph_rng, weight_rng, noise_rng = jax.random.split(rng, 3)
    order = jnp.arange(variables)
    # The parents are the variables with the highest scores among those before.
    scores = jax.random.uniform(graph_rng, (variables, variables)).at[target + 1, target].set(2.0)
    scores = jnp.where(order[None, :] < order[:, None], scores, -1.0)
    rank = jnp.argsort(jnp.argsort(-scores, axis=1), axis=1)
    parents = (rank < in_degree) & (scores >= 0)
    weights = 0.6 * jax.random.normal(weight_rng, (variables, variables))
    weights = jnp.sign(weights) * jnp.maximum(jnp.abs(weights), 0.1)
    noise = jax.random.uniform(noise_rng, (variables,), minval=0.5, maxval=1.5)
    return LinearSEM(jnp.where(parents, weights, 0.0), noise, jnp.zeros(variables))


def soft_interventions(
    rng: Key[Array, ""],
    sem: LinearSEM,
    sites: Bool[Array, " variables"],
    count: int,
    strength: float | Float[Array, ""],
    noise: float = 0.0,
) -> Interventions:
    """`count` environments that add U[-strength, strength] to the weights of the sites' parents, and U[0, noise] to their noise variances.

    The target must not be among the sites: no predictor is invariant when its own mechanism changes (`check_sites`).
    """
    weight_rng, noise_rng = jax.random.split(rng)
    shape = sem.weights.shape
    change = jax.random.uniform(weight_rng, (count, *shape), minval=-strength, maxval=strength)
    change = jnp.where(sites[None, :, None] & (sem.weights != 0)[None], change, 0.0)
    added = jnp.zeros((count, shape[0]))
    if noise:
        added = jnp.where(sites[None], jax.random.uniform(noise_rng, added.shape, maxval=noise), 0.0)
    return Interventions(change, added, jnp.zeros_like(added), jnp.zeros(added.shape, bool))


def hard_interventions(
    rng: Key[Array, ""],
    sem: LinearSEM,
    sites: Bool[Array, " variables"],
    count: int,
    strength: float | Float[Array, ""],
    share: float = 1.0,
) -> Interventions:
    """`count` environments that cut each site from its parents with probability `share` and then set it to a value from
    U[-strength, strength] plus its own noise.
    """
    value_rng, cut_rng = jax.random.split(rng)
    shape = count, sem.weights.shape[0]
    hard = sites[None] & jax.random.bernoulli(cut_rng, share, shape)
    values = jnp.where(hard, jax.random.uniform(value_rng, shape, minval=-strength, maxval=strength), 0.0)
    return Interventions(jnp.zeros((count, *sem.weights.shape)), jnp.zeros_like(values), values, hard)


def check_sites(sites: np.ndarray, target: int) -> None:
    """Raises `InvalidConfig` if the target is among the sites."""
    require(not sites[target], "sites", np.flatnonzero(sites).tolist(), f"without the target, variable {target}")


def intervene(sem: LinearSEM, interventions: Interventions) -> LinearSEM:
    """The model in every environment."""
    weights = jnp.where(interventions.hard[:, :, None], 0.0, sem.weights[None] + interventions.weights)
    noise_variance = sem.noise_variance[None] + interventions.noise_variance
    return LinearSEM(weights, noise_variance, sem.noise_mean[None] + interventions.noise_mean)


def total_effects(weights: Float[Array, "*environments n n"]) -> Float[Array, "*environments n n"]:
    """A = (I - B)⁻¹ = I + B + B² + ... = (I + B)(I + B²)(I + B⁴)..., which ends, since the graph has no cycle.

    Matrix products instead of a solve: see `lexinv.training.population.create_population` on batched LAPACK calls.
    """
    identity = jnp.broadcast_to(jnp.eye(weights.shape[-1], dtype=weights.dtype), weights.shape)
    power, effects = weights, identity + weights
    for _ in range(max(weights.shape[-1] - 1, 1).bit_length() - 1):
        power = power @ power
        effects = effects + effects @ power
    return effects


def second_moments(sem: LinearSEM) -> Float[Array, "environments variables variables"]:
    """E[XXᵀ] in every environment."""
    total = total_effects(sem.weights)
    covariance = jnp.einsum("eij,ej,ekj->eik", total, sem.noise_variance, total)
    mean = jnp.einsum("eij,ej->ei", total, sem.noise_mean)
    return covariance + mean[:, :, None] * mean[:, None, :]


def sample(rng: Key[Array, ""], sem: LinearSEM, count: int) -> Float[Array, "environments samples variables"]:
    """`count` draws of X in every environment, with Gaussian noise."""
    environments, variables = sem.noise_mean.shape
    noise = jax.random.normal(rng, (environments, count, variables), sem.weights.dtype)
    noise = sem.noise_mean[:, None] + jnp.sqrt(sem.noise_variance)[:, None] * noise
    return noise @ jnp.swapaxes(total_effects(sem.weights), 1, 2)


def moments(
    second: Float[Array, "environments variables variables"],
    target: int,
    mixing: Float[Array, "observed covariates"] | None = None,
) -> Moments:
    """The moments of target and covariates, given E[XXᵀ].

    With `mixing` G the other variables are latent and the covariates are G times them (the indirect observation model).
    """
    others = np.delete(np.arange(second.shape[-1]), target)
    covariates, cross = second[:, others[:, None], others[None, :]], second[:, others, target]
    if mixing is not None:
        covariates = jnp.einsum("ai,eij,bj->eab", mixing, covariates, mixing)
        cross = jnp.einsum("ai,ei->ea", mixing, cross)
    return Moments(covariates, cross, second[:, target, target])


def single_site_moments(
    sem: LinearSEM, site: int, change: Float[Array, " variables"], noise: float | Float[Array, ""] = 0.0
) -> Float[Array, "variables variables"]:
    """E[XXᵀ] after adding `change` δ to the weights of one site and `noise` Δω to its noise variance, in closed form (noise of mean 0).

    With a = A e_i:  Σ' = Σ + a (δᵀΣ) + (Σδ) aᵀ + (δᵀΣδ + Δω) a aᵀ, which is exact since δ is zero but on the site's parents, which do
    not descend from it. Over all δ this spans p + 2 dimensions for p parents, however many variables there are.
    Source: method card pac-invariant-representations, dimension-free case (derived there).
    """
    column = total_effects(sem.weights)[:, site]
    sigma = second_moments(jax.tree.map(lambda leaf: leaf[None], sem))[0]
    moved = sigma @ change
    outer = jnp.outer
    return sigma + outer(column, moved) + outer(moved, column) + (change @ moved + noise) * outer(column, column)
