"""Probes against scikit-learn, and on states whose labels are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.lexinvariance.cipher_probes import probe_features
from lexinv.lexinvariance.probes import ProbeConfig, fit_probe, probe_log_probs, probe_loss

CLASSES, WIDTH, COUNT = 4, 6, 600


def problem(seed: int = 0, layers: int = 1):
    """Noisy clusters: states [layers, n, width] of root mean square one, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, COUNT)
    centres = rng.normal(size=(layers, CLASSES, WIDTH))
    states = centres[:, labels] + rng.normal(size=(layers, COUNT, WIDTH))
    states /= np.sqrt(np.mean(states**2, axis=-1, keepdims=True))
    return jnp.asarray(states, jnp.float32), jnp.asarray(labels, jnp.int32)


def fit(config: ProbeConfig, states, labels):
    batches = jnp.zeros((config.steps,))
    repeated = jnp.broadcast_to(labels[None], (config.steps, COUNT))
    return jax.jit(partial(fit_probe, config=config, classes=CLASSES, states=lambda _: states))(
        jax.random.key(0), batches=batches, labels=repeated
    )


@pytest.mark.long
def test_logistic_regression_reaches_the_optimum_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    states, labels = problem()
    probe, losses = fit(ProbeConfig(steps=3000, learning_rate=0.05), states, labels)
    peer = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000).fit(np.asarray(states[0]), np.asarray(labels))
    optimum = log_loss(np.asarray(labels), peer.predict_proba(np.asarray(states[0])))
    assert float(probe_loss(probe, states, labels)[0]) == pytest.approx(optimum, abs=1e-4)
    assert losses[0, 0] == pytest.approx(np.log(CLASSES), rel=1e-5)
    found = probe_log_probs(probe, states)[0].argmax(-1)
    assert (np.asarray(found) == peer.predict(np.asarray(states[0]))).mean() > 0.99


def test_a_hidden_layer_solves_what_no_line_can():
    rng = np.random.default_rng(1)
    corners = rng.choice([-1.0, 1.0], size=(1, COUNT, 2))
    labels = jnp.asarray(corners[0].prod(axis=1) > 0, jnp.int32)
    states = jnp.asarray(corners, jnp.float32)
    accuracy = {}
    for hidden in (0, 16):
        probe, _ = fit(ProbeConfig(hidden, steps=500, learning_rate=0.03), states, labels)
        accuracy[hidden] = float((probe_log_probs(probe, states)[0].argmax(-1) == labels).mean())
    assert accuracy[16] == 1.0
    assert accuracy[0] < 0.8


def test_layers_are_probed_independently():
    states, labels = problem(layers=2)
    config = ProbeConfig(8, steps=20)
    together, _ = fit(config, states, labels)
    changed, _ = fit(config, states.at[1].set(0.5), labels)
    np.testing.assert_array_equal(together["out"][0], changed["out"][0])
    assert (together["out"][1] != changed["out"][1]).any()


def test_only_one_batch_of_states_exists_at_a_time():
    """The compiled program of 50 steps needs hardly more memory than that of 5."""
    n, width = 2000, 64

    def memory(steps: int) -> int:
        config = ProbeConfig(steps=steps)
        run = partial(
            fit_probe, config=config, classes=CLASSES, states=lambda key: jax.random.normal(key, (3, n, width))
        )
        batches = jax.random.split(jax.random.key(0), steps)
        labels = jnp.zeros((steps, n), jnp.int32)
        return (
            jax.jit(run)
            .lower(jax.random.key(1), batches=batches, labels=labels)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert memory(50) < memory(5) + 3 * n * width * 4


def test_what_is_in_features_is_read_and_no_more():
    """One class of two is marked in features of three; the other two are told apart by nothing."""
    labels = np.random.default_rng(2).integers(3, size=(12, 20))
    marked = np.stack([labels == 0, labels != 0, np.ones_like(labels)], axis=-1).astype(np.float32)
    config = ProbeConfig(16, steps=100, learning_rate=0.03)
    found = probe_features(marked[:8], labels[:8], marked[8:], labels[8:], 3, config, seed=0)
    read, told = found.log_probs.argmax(axis=-1), labels[8:]
    assert ((read == 0) == (told == 0)).all()
    assert (read == told)[told != 0].mean() < 0.65
    np.testing.assert_allclose(found.accuracy[0], (read == told).mean(axis=0))
