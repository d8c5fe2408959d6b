"""A projector from an encoder to a language model for any number of visual tokens: adaptive pooling, then SwiGLU (TokenFLEX).

Hu et al. 2025 (arXiv 2504.03154), method card tokenflex. Whether the paper normalises in between, and how wide it is inside, is not known
here: features are pooled as they come. The number of tokens is a shape: draw it on the host, and compile one program for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lexinv.merging.plan import check_axes, check_whole
from lexinv.nn.linear import linear
from lexinv.validation import Checked, Count, require


def pool_matrix(grid: int, n: int) -> Float[np.ndarray, "n grid"]:
    """Row i is the mean over floor(i grid / n) to ceil((i + 1) grid / n) - 1: bins overlap where n does not divide the grid.

    n above the grid repeats cells. Raises `InvalidConfig` for an n that is no whole number from 1.
    """
    check_whole(n=n)
    require(n >= 1, "n", n, "at least 1 token along a side")
    i, cell = np.arange(n)[:, None], np.arange(grid)[None, :]
    inside = (cell >= i * grid // n) & (cell < -(-(i + 1) * grid // n))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def adaptive_pool(x: Float[Array, "rows columns width"], n: int) -> Float[Array, "n n width"]:
    """Means over n by n bins, as PyTorch's `adaptive_avg_pool2d`."""
    check_axes(3, x=x)
    require(x.shape[0] == x.shape[1], "x", x.shape, "a square of features")
    by_row = jnp.asarray(pool_matrix(x.shape[0], n), x.dtype)
    return jnp.einsum("ri,ijw,cj->rcw", by_row, x, by_row)


@dataclass(frozen=True)
class FlexibleProjector(Checked):
    """W_out (silu(W_gate p) * (W_in p)) of every pooled feature p. read, hidden, width: of the encoder, inside, of the language model."""

    read: Count
    hidden: Count
    width: Count

    def initialize(self, key: Key[Array, ""]) -> dict[str, Array]:
        """Three matrices, none of which depends on the number of tokens; ~ N(0, 1/n)."""
        shapes = {"mlp_gate": (self.read, self.hidden), "mlp_in": (self.read, self.hidden)}
        shapes["mlp_out"] = (self.hidden, self.width)
        keys = jax.random.split(key, len(shapes))
        drawn = zip(shapes.items(), keys, strict=True)
        return {name: jax.random.normal(own, shape) * shape[0] ** -0.5 for (name, shape), own in drawn}

    def __call__(
        self, params: dict[str, Array], features: Float[Array, "grid grid read"], n: int
    ) -> Float[Array, "tokens width"]:
        """n^2 tokens of one image, row by row."""
        pooled = adaptive_pool(features, n).reshape(n * n, -1)
        return linear(
            jax.nn.silu(linear(pooled, params["mlp_gate"])) * linear(pooled, params["mlp_in"]), params["mlp_out"]
        )


def draw_budget(rng: np.random.Generator, budgets: Sequence[int], probabilities: Sequence[float]) -> int:
    """One of the budgets, for a whole batch: outside of any program.

    Raises `InvalidConfig` for budgets below 1, and for probabilities that are not one for each and 1 in all.
    """
    require(len(budgets) > 0 and min(budgets) >= 1, "budgets", tuple(budgets), "one or more, each at least 1")
    fits = len(probabilities) == len(budgets) and min(probabilities) >= 0 and abs(sum(probabilities) - 1) < 1e-6
    require(fits, "probabilities", tuple(probabilities), f"one for each of {len(budgets)} budgets, 1 in all")
    return int(rng.choice(np.asarray(budgets), p=np.asarray(probabilities, np.float64) / sum(probabilities)))
