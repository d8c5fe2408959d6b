"""Invariance of predictors: gaps against gradients and brute force, the causal oracle, the adversary on either side of the rank."""

import math
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.lexinvariance.invariance import (
    Predictor,
    adversarial_predictors,
    environment_rank,
    environment_vectors,
    excess_risk,
    guaranteed_violation,
    head_gap,
    invariance_gap,
    invariant_subset,
    irm_fit,
    masked_least_squares,
    optimal_head,
    pooled,
    random_predictor,
    residual,
    risk,
    sufficient_environments,
    transfer_factors,
    vc_dimension,
    vc_dimension_of_span,
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


@pytest.mark.long
def test_adversary_is_stopped_by_as_many_environments_as_they_span():
    _, seen = environments(1, 200)
    rank = environment_rank(np.asarray(environment_vectors(seen)))
    search = jax.jit(adversarial_predictors, static_argnums=(3, 4, 5))

    def part(start, stop):
        return jax.tree.map(lambda leaf: leaf[start:stop], seen)

    def largest_gap(count):
        train, test = part(0, count), part(100, 200)
        found = search(jax.random.key(0), train, part(40, 100), 1, 4, 60)
        gaps = [(gap(p, train).max(), gap(p, test).max()) for p in members(found)]
        return max((after for before, after in gaps if before < 1e-8), default=None)

    assert largest_gap(rank // 3) > 1e-2
    assert largest_gap(rank) < 1e-8


def members(found):
    return [Predictor(*leaves) for leaves in zip(found.representation, found.head, strict=True)]


@pytest.mark.long
def test_adversary_finds_representations_of_unit_norm_with_several_features():
    _, seen = environments(1, 40)
    found = adversarial_predictors(jax.random.key(0), jax.tree.map(lambda leaf: leaf[:2], seen), seen, 2, 2, 30)
    np.testing.assert_allclose(jnp.linalg.norm(found.representation, axis=(1, 2)), 1.0)
    for predictor in members(found):
        assert gap(predictor, seen)[:2].max() < 1e-8
        assert gap(predictor, seen).max() > 1e-2


def test_gaps_transfer_by_the_coefficients_of_the_environment():
    _, seen = environments(5, 60)
    vectors = environment_vectors(seen)
    factors, outside = transfer_factors(vectors[:20], vectors[20:])
    assert outside.max() < 1e-8
    for seed in range(20):
        gaps = gap(random_predictor(jax.random.key(seed), pooled(seen), 2), seen)
        assert (gaps[20:] <= factors * gaps[:20].max() * (1 + 1e-9)).all()
    assert transfer_factors(vectors[:2], vectors[20:])[1].max() > 1e-3  # two environments do not span the others
    axes = jnp.eye(3)[:2]
    factors, outside = transfer_factors(axes, jnp.array([[3.0, -4.0, 0.0], [0.0, 0.0, 2.0]]))
    np.testing.assert_allclose(factors, [7.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(outside, [0.0, 1.0], atol=1e-12)


@pytest.mark.long
def test_irm_goes_from_least_squares_to_invariance():
    _, seen = environments(6, strength=1.0)
    least = masked_least_squares(jnp.ones(7), pooled(seen))
    fit = jax.jit(irm_fit, static_argnames=("features", "penalty", "steps"))
    with jax.numpy_dtype_promotion("standard"):  # optax's bias correction raises a float to an int32 power
        free, bound = (
            fit(jax.random.key(0), seen, features=1, penalty=penalty, steps=3000) for penalty in (0.0, 100.0)
        )
    assert float(risk(free, pooled(seen))[0]) == pytest.approx(float(risk(least, pooled(seen))[0]), rel=1e-3)
    assert gap(bound, seen).max() < 0.5 * gap(free, seen).max()
    assert float(jnp.linalg.norm(bound.representation)) == pytest.approx(1.0)


def test_bounds_at_values_worked_out_by_hand():
    assert vc_dimension(1, 5) == pytest.approx(2 * 6 * math.log2(48 * math.e))
    assert vc_dimension_of_span(1, 4) == pytest.approx(20 * math.log2(6))
    # 8 log2(40) + 16 · 10 · log2(26) = 42.58 + 752.07
    assert sufficient_environments(10.0, 0.5, 0.05) == 795
    assert guaranteed_violation(10.0, 795, 0.05) == pytest.approx(0.5, abs=1e-3)
    assert guaranteed_violation(10.0, 100, 0.05) == 1.0
