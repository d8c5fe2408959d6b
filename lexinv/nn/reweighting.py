"""Attention for contexts longer than those of training: scores that grow with their number, softplus, and weights made sharper.

Gao and Spratling 2025 (arXiv 2501.13428); method card softplus-attention. N is how many keys a query sees, which is a number of its own
for each query and not the length of an array: what comes later then changes nothing, and a cache gives the same.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lexinv.nn.kernels import UNSEEN

Kind = Literal["softmax", "scaled_softmax", "softplus"]
"""softmax: of `q k / sqrt(dim)`. scaled_softmax: of `ln dim ln N cos(q, k)`. softplus: of the same, softplus in place of the exponential
(LSSA)."""
BLOCK, GROUPS = 64, 8
"""Queries whose weights exist at a time; in how many parts they are taken at most, each with the keys that any of it sees."""
WARM, ROUNDING = 3, 1e-5
"""Queries that see no more keys are not shifted; what is above a row's mean by less is rounding."""


def by_rows(kind: Kind, sharpness: Any) -> bool:
    """Whether weights are no softmax, so that kernels for one do not have them."""
    return kind == "softplus" or not isinstance(sharpness, int | float) or sharpness > 0


def seen_counts(there: Bool[Array, "batch time"], causal: bool, window: int = 0) -> Float[Array, "batch time"]:
    """N, at least 1, of the keys that are there."""
    total = jnp.cumsum(there.astype(jnp.float32), axis=1)
    if not causal:
        total = jnp.broadcast_to(total[:, -1:], total.shape)
    elif window:
        total = total - jnp.pad(total, ((0, 0), (window, 0)))[:, : total.shape[1]]
    return jnp.maximum(total, 1.0)


def of_kind(
    queries: Float[Array, "batch time heads dim"],
    keys: Float[Array, "batch keys key_heads dim"],
    counts: Float[Array, "#batch time"],
    kind: Kind,
) -> tuple[Float[Array, "batch time heads dim"], Float[Array, "batch keys key_heads dim"]]:
    """Queries and keys whose products over sqrt(dim) are the scores of the kind."""
    if kind == "softmax":
        return queries, keys
    dim = float(queries.shape[-1])
    scale = np.float32(np.log(dim) * dim**0.5) * jnp.log(counts)[:, :, None, None]
    return (unit(queries) * scale).astype(queries.dtype), unit(keys).astype(keys.dtype)


def unit(x: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
    """float32 vectors of length 1, zeros where x is zero."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return x.astype(jnp.float32) * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0))


def row_weights(
    scores: Float[Array, "*rows keys"],
    seen: Bool[Array, "*#rows #keys"],
    counts: Float[Array, "*#rows 1"],
    kind: Kind,
    sharpness: float | int | Float[Array, ""] = 0.0,
) -> Float[Array, "*rows keys"]:
    """Weights that sum to 1 over the keys that are seen and are 0 elsewhere; all 0 where none is. sharpness: p of `sharpen`, or 0."""
    if kind == "softplus":
        positive = jnp.where(seen, _softplus(scores), 0.0)
    else:
        most = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, where=seen, initial=UNSEEN))
        positive = jnp.where(seen, jnp.exp(jnp.where(seen, scores - most, 0.0)), 0.0)
    total = jnp.sum(positive, axis=-1, keepdims=True)
    weights = positive / jnp.where(total > 0, total, 1.0)
    return sharpen(weights, counts, sharpness) if by_rows("softmax", sharpness) else weights


def _softplus(x):
    """`jax.nn.softplus` without its selects for what is not finite, which cost half of its time."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def sharpen(
    weights: Float[Array, "*rows keys"], counts: Float[Array, "*#rows 1"], p: float | int | Float[Array, ""]
) -> Float[Array, "*rows keys"]:
    """`ReLU(N a - o)^p` over its sum, o = 1 but for rows of at most 3 keys: what is above the mean of its row, to the power p at least 1.

    Powers are of shares of the row's largest, so that none overflows; the gradient is that of the formula. A row without anything above its
    mean stays as it is. p may be traced.
    """
    above = jax.nn.relu(counts * weights - (counts > WARM).astype(weights.dtype))
    most = jax.lax.stop_gradient(jnp.max(above, axis=-1, keepdims=True))
    some = most > ROUNDING
    shares = jnp.where(some, above, 1.0) / jnp.where(some, most, 1.0)
    whole = isinstance(p, int | float) and int(p) == p  # a power by products alone
    powers = shares ** (int(p) if whole else p)
    return jnp.where(some, powers / jnp.sum(powers, axis=-1, keepdims=True), weights)


def mix(queries, keys, values, seen, counts, kind, sharpness):
    """Values [batch, heads, keys, dim] weighed for queries [batch, heads, queries, dim], of `of_kind`, that see what `seen` says."""
    queries = queries * jnp.asarray(queries.shape[-1] ** -0.5, queries.dtype)
    scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32)
    weights = row_weights(scores, seen, counts[:, None, :, None], kind, sharpness)
    return jnp.einsum("bhqk,bhkd->bhqd", weights.astype(values.dtype), values)


def attend_by_rows(queries, keys, values, counts, causal, window, mask, kind, sharpness):
    """`mix` of [batch, heads, time, dim], a block of queries after another: no weights of other blocks exist, in the gradient either."""
    time = queries.shape[2]
    size = min(BLOCK, time)
    blocks = -(-time // size)
    each = -(-blocks // GROUPS)
    room = blocks * size - time
    queries = jnp.pad(queries, ((0, 0), (0, 0), (0, room), (0, 0)))
    counts = jnp.pad(counts, ((0, 0), (0, room)), constant_values=1.0)
    outputs = []
    for block in range(0, blocks, each):
        many = min(each, blocks - block)
        first, stop = block * size, min((block + many) * size, time)
        low, high = (max(first - window + 1, 0) if window else 0), (stop if causal else time)
        found = (keys[:, :, low:high], values[:, :, low:high], None if mask is None else mask[:, None, None, low:high])
        rows = slice(first, first + many * size)
        parts = (
            jnp.moveaxis(queries[:, :, rows].reshape(*queries.shape[:2], many, size, -1), 2, 0),
            jnp.moveaxis(counts[:, rows].reshape(len(counts), many, size), 1, 0),
            first + size * jnp.arange(many) - low,
        )

        @jax.checkpoint
        def one(part, found=found):
            (rows, counted, at), (keys, values, there) = part, found
            query, key = at + jnp.arange(size)[:, None], jnp.arange(keys.shape[2])[None]
            seen = key <= query if causal else jnp.ones((size, keys.shape[2]), bool)
            seen = (seen & (key > query - window) if window else seen)[None, None]
            return mix(rows, keys, values, seen if there is None else seen & there, counted, kind, sharpness)

        mixed = jnp.moveaxis(jax.lax.map(one, parts), 0, 2)
        outputs.append(mixed.reshape(*mixed.shape[:2], many * size, -1))
    return jnp.concatenate(outputs, axis=2)[:, :, :time]
