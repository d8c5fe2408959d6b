"""Activations and their gradients: brute force, invariances, and estimators against the derivative they estimate."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.autoencoders import decode, encode, geometric_median, initialize
from lexinv.sae.jumprelu import entry_size, jump_relu, near, step
from lexinv.sae.methods import AutoencoderConfig
from lexinv.sae.training import BEGINNING, OptimizerConfig, create_autoencoder_state, make_optimizer


def test_the_geometric_median_has_the_smallest_sum_of_distances():
    x = jax.random.normal(jax.random.key(5), (200, 3)).at[:20].add(50.0)  # a tenth far away

    def distances(point):
        return float(np.linalg.norm(np.asarray(x) - np.asarray(point), axis=1).sum())

    median = jax.jit(geometric_median)(x)
    moved = [distances(median + 0.02 * step) for step in (*np.eye(3, dtype=np.float32), *-np.eye(3, dtype=np.float32))]
    assert distances(median) < min(moved)
    assert float(jnp.linalg.norm(median)) < 0.5 < 5 < float(jnp.linalg.norm(jnp.mean(x, axis=0)))
    config = AutoencoderConfig(3, 4, centre="median")
    np.testing.assert_array_equal(initialize(config, x, jax.random.key(0))["decoder_bias"], geometric_median(x))


@pytest.mark.parametrize("seed", range(5))
def test_mutual_choice_is_optimal_on_an_orthonormal_dictionary(seed):
    """Tied weights, no biases: of all selections of M matches (enumerated) none has a smaller error; so neither TopK nor Feature Choice."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0].astype(np.float32)
    params = dict.fromkeys(("encoder_bias", "decoder_bias"), jnp.zeros(4))
    params |= {"encoder": jnp.asarray(rotation.T), "decoder": jnp.asarray(rotation)}
    x = jnp.asarray(rng.normal(size=(3, 4)) + 0.5, jnp.float32)

    def error(kind: str, budget) -> float:
        codes = encode(AutoencoderConfig(4, 4, kind), params, x, budget)
        return float(jnp.sum(jnp.square(x - decode(params, codes.activations))))

    affinities = np.maximum(np.asarray(x) @ rotation.T, 0)
    places = [(n, j) for n in range(3) for j in range(4)]
    best = np.inf
    for chosen in combinations(places, 4):
        z = np.zeros((3, 4), np.float32)
        for n, j in chosen:
            z[n, j] = affinities[n, j]
        best = min(best, float(np.square(np.asarray(x) - z @ rotation).sum()))
    assert error("mutual", 4) == pytest.approx(best, rel=1e-5)
    assert error("mutual", 3) <= error("topk", 1) + 1e-5
    assert error("mutual", 4) <= error("feature", jnp.array([1, 1, 1, 1])) + 1e-5


def test_gate_and_magnitude_by_hand():
    config = AutoencoderConfig(1, 1, "gated")
    params = {name: jnp.zeros(1) for name in ("encoder_bias", "decoder_bias", "magnitude_bias")}
    params |= {"encoder": jnp.ones((1, 1)), "decoder": jnp.ones((1, 1)), "log_magnitude": jnp.log(jnp.array([3.0]))}
    params |= {"encoder_bias": jnp.array([-1.0]), "magnitude_bias": jnp.array([0.5])}
    codes = encode(config, params, jnp.array([[0.5], [2.0]]))
    np.testing.assert_allclose(codes.activations, [[0.0], [6.5]], rtol=1e-6)
    np.testing.assert_allclose(codes.affinities, [[0.0], [1.0]])


@pytest.mark.parametrize("function, scale", [(jump_relu, 1.0), (step, 1.0)])
def test_threshold_gradients_estimate_the_derivative_of_the_mean(function, scale):
    """For a smooth density p of affinities: d/dtheta E[a 1(a > theta)] = -theta p(theta), d/dtheta P(a > theta) = -p(theta)."""
    a = jnp.abs(jax.random.normal(jax.random.key(0), (400_000, 1)))
    theta = 0.7
    gradient = jax.grad(lambda t: jnp.mean(function(a, t, 0.05)))(jnp.array([theta]))[0]
    density = 2 * np.exp(-(theta**2) / 2) / np.sqrt(2 * np.pi)
    assert float(gradient) == pytest.approx(-density * (theta if function is jump_relu else 1.0), rel=0.02)


def test_inactive_features_do_not_pull_on_thresholds():
    """relu makes most affinities exactly 0, within half a bandwidth of a small threshold: they are not near it for all that."""
    affinities = jnp.concatenate([jnp.zeros((99, 1)), jnp.array([[3.0]])])
    for function in (step, jump_relu):
        gradient = jax.grad(lambda t, f=function: jnp.mean(f(affinities, t, 0.2)))(jnp.array([0.05]))
        np.testing.assert_array_equal(gradient, 0.0)
    np.testing.assert_array_equal(step(affinities, jnp.array([-0.01]), 0.2)[:, 0], np.asarray(affinities)[:, 0] > 0)


def test_jumprelu_passes_gradients_above_the_threshold_only():
    a, theta = jnp.array([[0.5, 2.0]]), jnp.array([1.0, 1.0])
    np.testing.assert_array_equal(jax.grad(lambda a: jnp.sum(jump_relu(a, theta, 0.1)))(a), [[0.0, 1.0]])
    np.testing.assert_array_equal(jax.grad(lambda a: jnp.sum(step(a, theta, 0.1)))(a), [[0.0, 0.0]])


def test_the_kernel_may_reach_the_affinities_too():
    """theta / eps = 10 and 1 / eps = 10 where |a - theta| is below half of 0.1, on top of what is above the threshold."""
    a, theta = jnp.array([[0.98, 1.02, 2.0]]), jnp.ones(3)
    np.testing.assert_allclose(jax.grad(lambda a: jnp.sum(jump_relu(a, theta, 0.1, True)))(a), [[10, 11, 1]], rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda a: jnp.sum(step(a, theta, 0.1, True)))(a), [[10, 10, 0]], rtol=1e-5)


def test_the_kernel_grows_with_the_affinities_and_says_what_is_near():
    """Active are 3, 4 and 5: their root mean square is the unit. With 0.4 of it as the bandwidth 3 and 2.2 of these lie near 2.5."""
    a, theta = jnp.array([[2.2, 3.0, 0.0], [4.0, 0.3, 5.0]]), jnp.full(3, 2.5)
    unit = (50 / 3) ** 0.5
    for scale in (1.0, 1000.0):
        assert float(entry_size(scale * a, scale * theta)) == pytest.approx(scale * unit, rel=1e-6)
        assert float(near(scale * a, scale * theta, 0.4 * scale * unit)) == pytest.approx(2 / 3)
    assert float(entry_size(a, jnp.full(3, 9.0))) == 5.0
    assert float(near(a, theta, 0.1)) == 0.0


def test_jumprelu_begins_at_a_multiple_of_its_target_in_any_units():
    config = AutoencoderConfig(8, 24, "jumprelu")
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=1), config, 10)
    sample = jax.random.normal(jax.random.key(0), (200, 8))
    for scale in (0.01, 100.0):
        state = create_autoencoder_state(config, optimizer, scale * sample, 2.0, 0.3, jax.random.key(1))
        codes = encode(config, state.params, scale * sample).activations
        assert abs(int((codes > 0).sum()) - BEGINNING * 2 * 200) <= 1
