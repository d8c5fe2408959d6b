"""Invariance of predictors: gaps against gradients and brute force, the causal oracle, what transfers, and a bound that is attained."""

import math
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.lexinvariance.invariance import (
    Predictor,
    environment_rank,
    environment_vectors,
    excess_risk,
    finite_class_violation,
    head_gap,
    invariance_gap,
    invariant_subset,
    masked_least_squares,
    optimal_head,
    pooled,
    residual,
    risk,
    subset_predictors,
    transfer_factors,
)
from lexinv.lexinvariance.structural_equations import (
    hard_interventions,
    intervene,
    make_sem,
    moments,
    random_sem,
    second_moments,
    soft_interventions,
)
from lexinv.precision import double_precision


@pytest.fixture(autouse=True, scope="module")
def exact():
    """Double precision for all, and the programs that most tests share compiled once."""
    with double_precision():
        _, seen = environments(0)
        gap(random_predictor(jax.random.key(1), pooled(seen), 1), seen)
        yield


@partial(jax.jit, static_argnames=("strength", "draw"))
def draw_environments(key, sites, strength, draw):
    sem_key, intervention_key = jax.random.split(key)
    sem = random_sem(sem_key, 8, 2, target=4)
    drawn = draw(intervention_key, sem, sites, 200, strength)
    return sem, moments(second_moments(intervene(sem, drawn)), 4)


def environments(seed, count=20, sites=(5, 6), strength=0.5, draw=soft_interventions):
    """Moments of a random model of 8 variables whose target is variable 4, at most 200; the model with them."""
    chosen = np.isin(np.arange(8), sites)
    sem, seen = jax.device_get(draw_environments(jax.random.key(seed), chosen, strength, draw))
    return jax.tree.map(jnp.asarray, (sem, jax.tree.map(lambda leaf: leaf[:count], seen)))


gap = jax.jit(invariance_gap)


def random_predictor(key, together, features):
    """A random representation of Frobenius norm 1 with its optimal head."""
    phi = jax.random.normal(key, (features, together.cross.shape[1]))
    phi = phi / jnp.linalg.norm(phi)
    return Predictor(phi, optimal_head(phi, together)[0])


def causal(sem, also=()):
    """Φ keeps the target's parents and the covariates `also`; the head is the target's equation."""
    weights = np.delete(np.asarray(sem.weights[4]), 4)
    keep = weights != 0
    keep[list(also)] = True
    return Predictor(jnp.eye(len(weights))[keep], jnp.asarray(weights[keep]))


@pytest.mark.parametrize("features", [1, 3])
def test_gap_is_half_the_gradient_of_the_risk(features):
    _, seen = environments(0)
    predictor = random_predictor(jax.random.key(1), pooled(seen), features)
    by_head = jax.jacrev(lambda head: risk(Predictor(predictor.representation, head), seen))
    gradient = jax.jit(by_head)(predictor.head)
    np.testing.assert_allclose(residual(predictor, seen), gradient / 2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gap(predictor, seen), np.abs(gradient / 2).max(1), rtol=1e-9)
    assert gap(predictor, seen).max() > 1e-3


def test_head_form_and_excess_risk_follow_from_the_residual():
    _, seen = environments(0)
    predictor = random_predictor(jax.random.key(1), pooled(seen), 3)
    phi, residuals = np.asarray(predictor.representation), np.asarray(residual(predictor, seen))
    for e, covariates in enumerate(np.asarray(seen.covariates)):
        inverse = np.linalg.inv(phi @ covariates @ phi.T)
        assert float(head_gap(predictor, seen)[e]) == pytest.approx(np.linalg.norm(inverse @ residuals[e]), rel=1e-8)
        expected = residuals[e] @ inverse @ residuals[e]
        assert float(excess_risk(predictor, seen)[e]) == pytest.approx(expected, rel=1e-6)
    best = Predictor(predictor.representation, optimal_head(predictor.representation, seen)[2])
    assert float(excess_risk(best, seen)[2]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("draw, breaks", [(soft_interventions, True), (hard_interventions, False)])
def test_parents_are_invariant_and_a_child_is_not_unless_it_is_cut_off(draw, breaks):
    sem, seen = environments(2, sites=(0, 1, 2, 3, 5, 6, 7), draw=draw)
    assert gap(causal(sem), seen).max() < 1e-12
    child = masked_least_squares(jnp.ones(7).at[jnp.array([5, 6])].set(0.0), pooled(seen))
    assert bool(gap(child, seen).max() > 1e-3) is breaks


def test_a_child_that_is_left_alone_keeps_invariance():
    # 0 -> 1 (target) -> 2, and 3 -> 4 with interventions on 4 only: invariance is not causality.
    weights = np.zeros((5, 5))
    weights[1, 0], weights[2, 1], weights[4, 3] = 0.8, 1.2, 0.5
    sem = make_sem(weights, np.array([1.0, 0.5, 0.7, 1.0, 1.0]))
    drawn = soft_interventions(jax.random.key(0), sem, jnp.array([False] * 4 + [True]), 20, 0.5)
    seen = moments(second_moments(intervene(sem, drawn)), 1)
    with_child = masked_least_squares(jnp.array([1.0, 1.0, 0.0, 0.0]), pooled(seen))
    assert gap(with_child, seen).max() < 1e-12
    assert float(risk(with_child, seen)[0]) < 0.5  # below the noise of the target, which the parents cannot pass
    np.testing.assert_array_equal(jnp.diag(invariant_subset(seen, 1e-8).representation)[:2], [1.0, 1.0])


def test_best_invariant_subset_is_that_of_brute_force():
    _, seen = environments(4)
    covariates, cross = np.asarray(seen.covariates), np.asarray(seen.cross)
    together, target = covariates.mean(0), np.asarray(seen.target).mean()
    best = math.inf
    for kept in product((False, True), repeat=7):
        chosen = np.flatnonzero(kept)
        head = np.linalg.lstsq(together[np.ix_(chosen, chosen)], cross.mean(0)[chosen], rcond=None)[0]
        largest = np.abs(covariates[:, chosen][:, :, chosen] @ head - cross[:, chosen]).max(initial=0.0)
        if largest <= 1e-8:
            best = min(best, target - cross.mean(0)[chosen] @ head)
    found = invariant_subset(seen, 1e-8)
    assert gap(found, seen).max() <= 1e-8
    assert float(risk(found, pooled(seen))[0]) == pytest.approx(best)
    least = masked_least_squares(jnp.ones(7), pooled(seen))
    assert gap(least, seen).max() > 1e-3  # least squares on everything would have been refused


def test_gaps_transfer_by_the_coefficients_of_the_environment():
    _, seen = environments(5, 60)
    vectors = np.asarray(environment_vectors(seen))
    factors = transfer_factors(vectors[:20], vectors[20:])
    assert np.isfinite(factors).all() and factors.max() > 1
    for seed in range(20):
        gaps = gap(random_predictor(jax.random.key(seed), pooled(seen), 2), seen)
        assert (gaps[20:] <= factors * gaps[:20].max() * (1 + 1e-9)).all()
    # Two environments do not span the others.
    assert np.isinf(transfer_factors(vectors[:2], vectors[20:])).all()
    # What is a training environment itself has the gap that it had.
    np.testing.assert_allclose(transfer_factors(vectors[:20], vectors[:20]), 1.0)


def test_transfer_factors_are_the_smallest():
    """The unit ball of the factor is the convex hull of ± the training environments."""
    train = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    test = np.array([[3.0, -4.0], [2.0, 1.0], [0.0, 0.0], [-1.0, -3.0]])
    np.testing.assert_allclose(transfer_factors(train, test), [7.0, 2.0, 0.0, 3.0], atol=1e-12)
    outside = transfer_factors(np.eye(3)[:2], np.array([[3.0, -4.0, 0.0], [0.0, 0.0, 2.0]]))
    np.testing.assert_allclose(outside, [7.0, np.inf])


def test_mixed_covariates_transfer_as_the_latent_ones():
    """With X = GZ the environments of X are an injective linear function of those of Z: indirect observation needs no more of them."""
    sem, seen = environments(5, 60)
    mixing = jax.random.normal(jax.random.key(0), (14, 7))
    covariates = jnp.einsum("ai,eij,bj->eab", mixing, seen.covariates, mixing)
    mixed = seen._replace(covariates=covariates, cross=seen.cross @ mixing.T)
    latent, observed = (np.asarray(environment_vectors(one)) for one in (seen, mixed))
    assert environment_rank(latent) == environment_rank(observed)
    factors = transfer_factors(latent[:20], latent[20:])
    np.testing.assert_allclose(transfer_factors(observed[:20], observed[20:]), factors, rtol=1e-6)
    unmixed = Predictor(causal(sem).representation @ jnp.linalg.pinv(mixing), causal(sem).head)
    assert gap(unmixed, mixed).max() < 1e-10


def test_subsets_come_with_their_heads():
    _, seen = environments(4)
    together = pooled(seen)
    found = subset_predictors(together)
    assert found.head.shape == (2**7, 7)
    np.testing.assert_array_equal(found.head[0], 0.0)
    chosen = [2, 4, 5]
    mask = np.isin(np.arange(7), chosen)
    place = int("".join(str(int(kept)) for kept in mask), 2)
    np.testing.assert_array_equal(np.diag(found.representation[place]), mask)
    covariates, cross = np.asarray(together.covariates[0]), np.asarray(together.cross[0])
    expected = np.linalg.solve(covariates[np.ix_(chosen, chosen)], cross[chosen])
    np.testing.assert_allclose(found.head[place][mask], expected, rtol=1e-9)


def test_bound_of_a_finite_class_is_attained_by_predictors_that_fail_one_by_one():
    assert finite_class_violation(1, 1, 0.05) == pytest.approx(0.95)
    assert finite_class_violation(20, 2, 0.2) == pytest.approx(0.9)
    tau, predictors, count = finite_class_violation(8, 10, 0.1), 8, 20_000
    # Predictors that are violated independently, just above τ: that any passes 10 environments has a probability just below δ.
    rng = np.random.default_rng(0)
    passed = (rng.random((count, predictors, 10)) > tau).all(axis=2).any(axis=1).mean()
    assert passed == pytest.approx(1 - (1 - 0.1 / 8) ** 8, abs=4 * math.sqrt(0.09 / count))
    assert passed < 0.1
