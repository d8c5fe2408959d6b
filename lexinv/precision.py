"""Double precision for computations whose result would otherwise be rounding: bounds that are attained, ranks, exact invariance."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def double_precision() -> Iterator[None]:
    """A context in which JAX computes in float64; on the host's CPU where the accelerator is a TPU, which has no float64."""
    if hasattr(jax, "enable_x64"):
        enabled = jax.enable_x64(True)
    else:
        from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]  # its place before jax 0.8

        enabled = enable_x64()
    device = jax.devices("cpu")[0] if jax.default_backend() == "tpu" else None
    with enabled, jax.default_device(device):
        yield
