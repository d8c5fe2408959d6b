"""What tests of this folder share: an autoencoder of every kind with random parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.autoencoders import AutoencoderConfig, initialize


@pytest.fixture
def autoencoder():
    return make_autoencoder


def make_autoencoder(kind: str, width: int = 6, features: int = 9):
    """A config, random parameters, what inference needs (threshold, k), and data."""
    free, kind = kind == "free", "relu" if kind == "free" else kind
    prefixes = (3, features) if kind == "matryoshka" else ()
    config = AutoencoderConfig(width, features, kind, free_norms=free, prefixes=prefixes)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(50, width)) + 0.5, jnp.float32)
    params = initialize(config, x, jax.random.key(1))
    moved = {
        name: leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)
        for name, leaf in params.items()
        if name != "decoder"
    }
    if free:
        moved["decoder"] = params["decoder"] * jnp.asarray(rng.uniform(0.5, 2, size=(features, 1)), jnp.float32)
    thresholds = {"mutual": jnp.float32(0.4), "matryoshka": jnp.float32(0.2)}
    thresholds["feature"] = jnp.asarray(rng.uniform(0, 1, features), jnp.float32)
    return config, params | moved, thresholds.get(kind), 2 if kind == "topk" else None, x
