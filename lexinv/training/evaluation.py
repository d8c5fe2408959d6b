"""Evaluation by position in the context."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from lexinv.validation import require

NllFn = Callable[[PyTree, dict[str, Array], Key[Array, ""]], Float[Array, "batch time"]]


def evaluate_by_position(
    nll_fn: NllFn,
    params: PyTree,
    windows: Int[np.ndarray, "windows time"],
    key: Key[Array, ""],
    batch_size: int,
) -> Float[np.ndarray, "windows time"]:
    """Negative log-likelihood in nats of every token of every window, in batches of `batch_size`.

    `nll_fn(params, batch, key)` gets {"tokens": int32[B, T], "row": int32[B]} as a loss function does, where `row` is
    the window's index: what is drawn per sequence is folded from key and row, and so does not depend on `batch_size`.
    It is compiled once; the last batch is filled up with copies of the first window, whose values are dropped.
    """
    count = len(windows)
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    require(count >= 1, "windows", count, "at least one window")
    batch_size = min(batch_size, count)
    evaluate = jax.jit(nll_fn)
    rows = np.arange(-(-count // batch_size) * batch_size, dtype=np.int32)
    rows[count:] = 0
    parts = []
    for row in rows.reshape(-1, batch_size):
        parts.append(evaluate(params, {"tokens": np.asarray(windows[row], np.int32), "row": row}, key))
    return np.concatenate(jax.device_get(parts))[:count].astype(np.float32)
