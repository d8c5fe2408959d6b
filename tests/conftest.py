"""Every test runs with two CPU devices, strict dtype promotion and no implicit rank promotion, and with programs compiled in a hurry."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of what the tests do, and with all of XLA's optimisations takes almost twice as long. By the environment, so that the
# processes which tests start round as the tests do.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

MEMORY_MAPS = Path("/proc/self/maps")
MOST_MEMORY_MAPS = 25_000


@pytest.fixture(autouse=True, scope="module")
def let_go_of_compiled_programs() -> Iterator[None]:
    """Every program that XLA compiles on the CPU holds a few memory maps, of which Linux allows a process 65,530: then it crashes."""
    yield
    if MEMORY_MAPS.exists() and MEMORY_MAPS.read_bytes().count(b"\n") > MOST_MEMORY_MAPS:
        jax.clear_caches()
        gc.collect()
