"""Markov sources drawn by NumPy: independent of the code under test, and nothing to compile."""

import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.markov_first_order import MarkovSource


@pytest.fixture(scope="session")
def markov_source():
    """A function (seed, vocab, concentration) that draws a stationary source with Dirichlet rows."""

    def draw(seed: int, vocab: int, concentration: float) -> MarkovSource:
        transition = np.random.default_rng(seed).dirichlet(np.full(vocab, concentration), vocab)
        initial = np.linalg.matrix_power(transition, 10_000)[0]
        return MarkovSource(jnp.asarray(np.log(transition)), jnp.asarray(np.log(initial)))

    return draw
