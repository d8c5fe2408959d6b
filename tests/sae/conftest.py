"""What tests of this folder share: an autoencoder of every kind with random parameters, and a browser."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.autoencoders import initialize
from lexinv.sae.methods import AutoencoderConfig


@pytest.fixture(scope="session")
def autoencoder():
    return make_autoencoder


def make_autoencoder(kind: str, width: int = 6, features: int = 9):
    """A config, random parameters, what inference needs (threshold, k), and data."""
    free, kind = kind == "free", "relu" if kind == "free" else kind
    prefixes = (3, features) if kind == "matryoshka" else ()
    steps = 2 if kind == "pursuit" else 0
    config = AutoencoderConfig(width, features, kind, free_norms=free, prefixes=prefixes, most_active=steps)
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
    return config, params | moved, thresholds.get(kind), 2 if config.method.needs == "k" else None, x


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], str]:
    """The document at a file:// address after its scripts have run, as HTML, as headless Chromium gives it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")

    def document(address: str) -> str:
        command = [browser, *QUIET.split(), f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", address]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return document
