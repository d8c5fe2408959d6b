"""In-context n-gram counters: what can be predicted from the window alone, by one who knows nothing of the language.

A lexinvariant model that stays above them has not even learned to count; one below them knows the language and infers the key.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lexinv.data.symbols import require_symbols

DISCOUNTS = (0.0, 0.3, 0.5, 0.7, 0.9)
CONCENTRATIONS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


def in_context_ngram(
    tokens: Int[Array, " time"],
    vocab: int,
    discounts: Float[Array, " orders"],
    concentrations: Float[Array, " orders"],
) -> Float[Array, "orders time"]:
    """Nats of each token under back-off counters of order 0 (frequencies), 1 (bigram), ... that have seen only the window before it.

    Order k is the Pitman-Yor predictive rule with one table per type (interpolated Kneser-Ney; Teh 2006), with c_k(v) the times that
    v followed the present suffix of length k earlier in the window, n_k their sum and u_k the number of types among them:

        p_k(v) = (max(c_k(v) - d_k, 0) + (theta_k + d_k u_k) p_{k-1}(v)) / (n_k + theta_k),    p_{-1} = 1 / vocab

    and p_k = p_{k-1} where n_k = 0.

    `discounts` d_k and `concentrations` theta_k have one entry per order. Row k of the result backs off through all orders below it.
    Negative tokens are padding and get 0 nats. Raises `InvalidConfig` for no tokens and for those that are not below `vocab`.
    """
    time = tokens.shape[0]
    seen = jnp.maximum(tokens, 0)
    require_symbols("tokens", seen, vocab)
    nexts = jax.nn.one_hot(seen, vocab, dtype=jnp.float32)
    earlier = jnp.tril(jnp.ones((time, time), bool), -1)
    matches = earlier
    lower = jnp.full((time, vocab), 1.0 / vocab, jnp.float32)
    nats = []
    for order in range(discounts.shape[0]):
        discount, concentration = discounts[order], concentrations[order]
        if order:
            # The suffixes of this length before t and before j agree if those one shorter do and tokens t-order and j-order are equal.
            moved = jnp.concatenate([jnp.full((order,), -1), seen])[:time]
            known = jnp.arange(time) >= order
            matches = matches & (moved[:, None] == moved[None, :]) & known[:, None] & known[None, :]
        counts = matches.astype(jnp.float32) @ nexts
        total = jnp.sum(counts, axis=1, keepdims=True)
        types = jnp.sum(counts > 0, axis=1, keepdims=True).astype(jnp.float32)
        kept = jnp.maximum(counts - discount, 0.0) + (concentration + discount * types) * lower
        lower = jnp.where(total > 0, kept / jnp.maximum(total + concentration, 1e-30), lower)
        probability = jnp.take_along_axis(lower, seen[:, None], axis=1)[:, 0]
        nats.append(jnp.where(tokens >= 0, -jnp.log(jnp.maximum(probability, 1e-30)), 0.0))
    return jnp.stack(nats)


def counter_nll(
    windows: Int[np.ndarray, "n time"], vocab: int, discounts: Sequence[float], concentrations: Sequence[float]
) -> Float[np.ndarray, "orders n time"]:
    """`in_context_ngram` for each window, one after another in one program (bounded memory); refused as there."""
    require_symbols("windows", np.maximum(windows, 0), vocab)
    parameters = jnp.asarray(discounts, jnp.float32), jnp.asarray(concentrations, jnp.float32)
    count = jax.jit(lambda batch: jax.lax.map(lambda row: in_context_ngram(row, vocab, *parameters), batch))
    return np.moveaxis(np.asarray(count(jnp.asarray(windows))), 0, 1)


def tune_counter(windows: Int[np.ndarray, "n time"], vocab: int, max_order: int) -> tuple[list[float], list[float]]:
    """Discount and concentration of each order, fitted to the given windows (take them from the training split).

    Order by order, the pair of the grid that predicts the second half of the windows best, given the orders below. The counter so gets the
    tuning that a baseline deserves; the two numbers per order are all that it knows of the language.
    """
    require_symbols("windows", np.maximum(windows, 0), vocab)
    half = windows.shape[1] // 2
    discounts: list[float] = []
    concentrations: list[float] = []
    rows = jnp.asarray(windows)

    @jax.jit
    def last_order(parameters: Float[Array, "2 orders"]) -> Float[Array, ""]:
        nats = jax.lax.map(lambda row: in_context_ngram(row, vocab, *parameters)[-1], rows)
        return jnp.mean(nats[:, half:])

    for _ in range(max_order + 1):
        grid = [(d, c) for d in DISCOUNTS for c in CONCENTRATIONS if d + c > 0]
        losses = [float(last_order(jnp.array([[*discounts, d], [*concentrations, c]]))) for d, c in grid]
        discount, concentration = grid[int(np.argmin(losses))]
        discounts.append(discount)
        concentrations.append(concentration)
    return discounts, concentrations
