"""Texts of Markov sources of any order: one sequence step by step, or a long one in pieces at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from lexinv.data.markov import Kernel, order, stationary_distribution
from lexinv.randomness import threefry
from lexinv.validation import require


def sample(
    key: Key[Array, ""], kernel: Float[Array, "contexts symbols"], initial: Float[Array, " contexts"], length: int
) -> Int[Array, " length"]:
    """int32 symbols of one sequence whose first k are a context drawn from `initial`, such as the stationary distribution.

    One step after another; `vmap` it for many sequences. For one long sequence see `sample_stream`.
    """
    context_key, symbol_key = jax.random.split(threefry(key))
    context = _draw(jnp.cumsum(initial), jax.random.uniform(context_key))
    uniforms = jax.random.uniform(symbol_key, (max(length - order(kernel), 0),))
    _, following = jax.lax.scan(_stepper(kernel), context, uniforms)
    return jnp.concatenate([_context_symbols(kernel, context), following])[:length]


def sample_stream(
    key: Key[Array, ""],
    kernel: Float[Array, "contexts symbols"],
    initial: Float[Array, " contexts"],
    length: int,
    segments: int = 512,
) -> Int[Array, " length"]:
    """As `sample`, for one long sequence, in `segments` pieces at a time. The law is exactly that of the source.

    Given its uniform numbers, a piece is a map from the context before it to the context after it. First this map is computed for all
    pieces and contexts at once, then the pieces are joined, then all of them are run again from where they truly begin. The work is that
    of S^k + 1 sequences: for many contexts, sample several sequences instead.
    """
    context_key, symbol_key = jax.random.split(threefry(key))
    first = _draw(jnp.cumsum(initial), jax.random.uniform(context_key))
    contexts = kernel.shape[0]
    steps = -(-max(length - order(kernel), 0) // segments)
    uniforms = jax.random.uniform(symbol_key, (steps, segments))
    step = _stepper(kernel)

    def end_of_all(state: Array, u: Array) -> tuple[Array, None]:
        return jax.vmap(jax.vmap(step, (0, None)))(state, u)[0], None

    every = jnp.broadcast_to(jnp.arange(contexts, dtype=jnp.int32)[None], (segments, contexts))
    ends, _ = jax.lax.scan(end_of_all, every, uniforms)
    _, begins = jax.lax.scan(lambda context, end: (end[context], context), first, ends)
    _, following = jax.lax.scan(jax.vmap(step), begins, uniforms)
    return jnp.concatenate([_context_symbols(kernel, first), following.T.reshape(-1)])[:length]


@partial(jax.jit, static_argnums=2)
def _stationary_sample(key: Array, kernel: Array, length: int, initial: Array) -> Array:
    return sample_stream(key, kernel, initial, length)


def stationary_text(key: Key[Array, ""], kernel: Kernel, length: int) -> UInt8[np.ndarray, " length"]:
    """`length` symbols of the stationary source, on the host: `sample_stream` from the stationary distribution, in float32."""
    require(kernel.shape[1] <= 256, "symbols", kernel.shape[1], "at most 256, a byte for each character")
    initial = jnp.asarray(stationary_distribution(kernel), jnp.float32)
    drawn = _stationary_sample(key, jnp.asarray(kernel, jnp.float32), length, initial)
    return np.asarray(drawn).astype(np.uint8)


def _stepper(kernel: Float[Array, "contexts symbols"]):
    """`step(context, u) -> (next context, symbol)`: the symbol is the inverse of its distribution function at u."""
    contexts, symbols = kernel.shape
    cumulative = jnp.cumsum(kernel, axis=1)

    def step(context: Array, u: Array) -> tuple[Array, Array]:
        symbol = _draw(cumulative[context], u)
        return (context * symbols + symbol) % contexts, symbol

    return step


def _draw(cumulative: Float[Array, " n"], u: Float[Array, ""]) -> Int[Array, ""]:
    """Rounding of the last sum must not give a symbol that does not exist, so the last one is left out."""
    return jnp.sum(u >= cumulative[:-1]).astype(jnp.int32)


def _context_symbols(kernel: Float[Array, "contexts symbols"], context: Int[Array, ""]) -> Int[Array, " order"]:
    symbols, k = kernel.shape[1], order(kernel)
    return context // jnp.asarray(symbols ** np.arange(k - 1, -1, -1), jnp.int32) % symbols
