"""The exact Bayes predictor of Markov sources that are drawn anew for every sequence: what in-context learning can reach at best."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lexinv.data.markov import MOST_CONTEXTS
from lexinv.data.symbols import require_symbols
from lexinv.validation import require


def predictive_log_probs(
    tokens: Int[Array, "batch time"], order: int, symbols: int, alpha: float = 1.0
) -> Float[Array, "batch time symbols"]:
    """log p(x_t = a | x_<t) in nats, for a source of known order whose kernel rows are independent Dirichlet(alpha, ..., alpha) draws.

    The first `order` symbols are uniform. After that, with n(c, a) the number of times that a has followed the context c so far,
    p = (n(c, a) + alpha) / (n(c) + alpha S). Averaged over such sources no predictor has a smaller expected loss, at any position; for the
    sources of `random_kernel` alpha is their `concentration`. Order 0 is the in-context unigram counter.

    Raises `InvalidConfig` for an order below 0, above the length or with more than 4096 contexts, for fewer than two symbols, for
    alpha <= 0, and for no tokens or others than the symbols.
    Source: conjugacy; the add-alpha estimator of Rajaraman et al. 2024 (arXiv 2407.17686, section 2) is this with alpha = 1.
    """
    require(symbols >= 2, "symbols", symbols, "at least 2")
    require(
        order >= 0 and symbols**order <= MOST_CONTEXTS, "order", order, f"0 or more, at most {MOST_CONTEXTS} contexts"
    )
    require(order <= tokens.shape[1], "order", order, f"at most the {tokens.shape[1]} tokens of a sequence")
    require(alpha > 0, "alpha", alpha, "a positive number")
    require_symbols("tokens", tokens, symbols)
    return _predictive_log_probs(tokens, order, symbols, alpha)


@partial(jax.jit, static_argnames=("order", "symbols", "alpha"))
def _predictive_log_probs(
    tokens: Int[Array, "batch time"], order: int, symbols: int, alpha: float
) -> Float[Array, "batch time symbols"]:
    def row(sequence: Array) -> Array:
        def step(carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
            context, counts = carry
            seen = counts[context] + jnp.float32(alpha)
            following = (context * symbols + x) % symbols**order
            return (following, counts.at[context, x].add(1.0)), jnp.log(seen / jnp.sum(seen))

        first = jnp.sum(sequence[:order] * symbols ** np.arange(order - 1, -1, -1, dtype=np.int32))
        start = (first, jnp.zeros((symbols**order, symbols), jnp.float32))
        _, learned = jax.lax.scan(step, start, sequence[order:])
        return jnp.concatenate([jnp.full((order, symbols), -jnp.log(jnp.float32(symbols))), learned])

    return jax.vmap(row)(tokens.astype(jnp.int32))
