"""Every test runs with two CPU devices, strict dtype promotion and no implicit rank promotion, and with programs compiled in a hurry."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of what the tests do, and with all of XLA's optimisations takes almost twice as long. By the environment, so that the
# processes which tests start round as the tests do.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
