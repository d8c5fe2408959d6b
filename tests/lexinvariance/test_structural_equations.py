"""Structural equation models: their moments against closed forms and samples, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.lexinvariance.invariance import environment_rank
from lexinv.lexinvariance.structural_equations import (
    Interventions,
    hard_interventions,
    intervene,
    make_sem,
    moments,
    random_sem,
    sample,
    second_moments,
    single_site_moments,
    soft_interventions,
    total_effects,
)
from lexinv.precision import double_precision


@pytest.fixture(autouse=True)
def exact():
    with double_precision():
        yield


@pytest.fixture
def sem():
    return random_sem(jax.random.key(3), 7, in_degree=3, target=2)


def only(variables, *chosen):
    return jnp.zeros(variables, bool).at[jnp.array(chosen)].set(True)


def test_random_models_have_the_promised_parents(sem):
    parents = np.asarray(sem.weights) != 0
    assert not np.triu(parents).any()
    np.testing.assert_array_equal(parents.sum(1), [0, 1, 2, 3, 3, 3, 3])
    assert parents[3, 2]
    assert np.abs(sem.weights)[parents].min() >= 0.1


@pytest.mark.parametrize("variables", [2, 3, 5, 8, 9])
def test_total_effects_are_the_inverse_in_any_order(variables):
    rng = np.random.default_rng(variables)
    order = rng.permutation(variables)
    weights = np.tril(rng.normal(size=(variables, variables)), -1)[order][:, order]
    expected = np.linalg.inv(np.eye(variables) - weights)
    np.testing.assert_allclose(total_effects(jnp.asarray(weights)), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_closed_form_of_one_soft_intervention(sem, noise):
    site = 5
    change = jnp.where(sem.weights[site] != 0, jnp.linspace(-1.0, 1.0, 7), 0.0)
    drawn = Interventions(
        jnp.zeros((1, 7, 7)).at[0, site].set(change),
        jnp.zeros((1, 7)).at[0, site].set(noise),
        jnp.zeros((1, 7)),
        jnp.zeros((1, 7), bool),
    )
    expected = second_moments(intervene(sem, drawn))[0]
    np.testing.assert_allclose(single_site_moments(sem, site, change, noise), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variables, parents, noise", [(6, 1, 0.0), (20, 2, 1.0), (6, 3, 1.0), (20, 4, 0.0)])
def test_one_site_spans_in_degree_plus_two(variables, parents, noise):
    @jax.jit
    def draw(key):
        model = random_sem(key, variables, in_degree=parents, target=1)
        drawn = soft_interventions(key, model, only(variables, variables - 1), 60, 0.5, noise)
        return second_moments(intervene(model, drawn))

    moved = np.asarray(draw(jax.random.key(parents)))
    assert environment_rank(moved.reshape(60, -1)) == parents + 2
    order = np.random.default_rng(0).permutation(variables)
    assert environment_rank(moved[:, order][:, :, order].reshape(60, -1)) == parents + 2


def test_hard_interventions_cut_the_parents_and_set_a_value(sem):
    drawn = hard_interventions(jax.random.key(0), sem, only(7, 4), 5, 2.0)
    moved = np.asarray(second_moments(intervene(sem, drawn)))
    value = np.asarray(drawn.noise_mean)[:, 4]
    assert len(np.unique(value)) == 5
    np.testing.assert_allclose(moved[:, 4, 4], value**2 + float(sem.noise_variance[4]))
    # Variables before the site have mean 0 and nothing to do with it any more.
    np.testing.assert_allclose(moved[:, 4, :4], 0.0, atol=1e-12)


def test_hard_interventions_are_there_in_their_share_of_environments(sem):
    drawn = hard_interventions(jax.random.key(0), sem, only(7, 3, 4), 4000, 2.0, share=0.3)
    hard, value = np.asarray(drawn.hard), np.asarray(drawn.noise_mean)
    np.testing.assert_allclose(hard.mean(axis=0), [0, 0, 0, 0.3, 0.3, 0, 0], atol=0.03)
    assert np.corrcoef(hard[:, 3], hard[:, 4])[0, 1] == pytest.approx(0.0, abs=0.05)
    np.testing.assert_array_equal(value != 0, hard)


@pytest.mark.long
def test_sample_moments_converge_as_the_root(sem):
    drawn = soft_interventions(jax.random.key(0), sem, only(7, 4, 5), 40, 0.5)
    models = intervene(sem, drawn)
    exact, counts, errors = second_moments(models), [100, 1000, 10_000], []
    for count in counts:
        x = sample(jax.random.key(1), models, count)
        assert x.shape == (40, count, 7)
        errors.append(float(jnp.abs(jnp.einsum("esi,esj->eij", x, x) / count - exact).mean()))
    assert -0.6 < np.polyfit(np.log(counts), np.log(errors), 1)[0] < -0.4


def test_moments_leave_the_target_out_and_mix_the_rest(sem):
    second = second_moments(intervene(sem, soft_interventions(jax.random.key(0), sem, only(7, 4), 3, 0.5)))
    plain = moments(second, 2)
    others = [0, 1, 3, 4, 5, 6]
    np.testing.assert_array_equal(plain.covariates, np.asarray(second)[:, others][:, :, others])
    np.testing.assert_array_equal(plain.cross, np.asarray(second)[:, others, 2])
    mixing = jax.random.normal(jax.random.key(5), (9, 6))
    mixed = moments(second, 2, mixing)
    np.testing.assert_allclose(mixed.covariates[1], mixing @ plain.covariates[1] @ mixing.T, rtol=1e-10)
    np.testing.assert_allclose(mixed.cross[1], mixing @ plain.cross[1], rtol=1e-10)
    np.testing.assert_array_equal(mixed.target, second[:, 2, 2])


def test_a_model_in_any_order_and_without_cycle_is_taken():
    model = make_sem(
        np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]]), np.ones(3), np.array([0.0, 0.0, 1.0])
    )
    assert model.weights.shape == (3, 3)
