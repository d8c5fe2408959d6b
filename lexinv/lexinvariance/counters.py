"""What can be predicted from the window alone, by one who knows nothing of the language: in-context counters, and Bayes' rule.

A lexinvariant model that stays above them has not even learned to count. One below them may know the language and infer the key, or count
better than they do: that it deciphers takes a look at its key.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lexinv.data.symbols import require_symbols

DISCOUNTS = (0.0, 0.3, 0.5, 0.7, 0.9)
CONCENTRATIONS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
DECAYS = (1.0, 0.998, 0.995, 0.99, 0.98)


class Counter(NamedTuple):
    """How the counts of each order 0, 1, ... are read; all that a counter knows of the language."""

    discounts: Float[Array, " orders"]
    concentrations: Float[Array, " orders"]
    decays: Float[Array, " orders"]
    """By how much an occurrence counts less with every position that it lies back."""


def in_context_ngram(tokens: Int[Array, " time"], vocab: int, counter: Counter) -> Float[Array, "orders time"]:
    """Nats of each token under back-off counters of order 0 (frequencies), 1 (bigram), ... that have seen only the window before it.

    Order k is the Pitman-Yor predictive rule with one table per type (interpolated Kneser-Ney; Teh 2006). c_k(v) is the sum of g_k^(age)
    over the times that v followed the present suffix of length k earlier in the window, the age of the latest possible one being 0, and
    n_k the sum of c_k:

        p_k(v) = (max(c_k(v) - d_k, 0) + (theta_k + sum_u min(c_k(u), d_k)) p_{k-1}(v)) / (n_k + theta_k),    p_{-1} = 1 / vocab

    and p_k = p_{k-1} where n_k = 0. With the decay g_k = 1 they are counts, and the sum is d_k times the number of types.

    Row k of the result backs off through all orders below it. Negative tokens are padding and get 0 nats. Raises `InvalidConfig` for no
    tokens and for those that are not below `vocab`.
    """
    require_symbols("tokens", jnp.maximum(tokens, 0), vocab)
    agreeing = _agreeing_suffixes(tokens, counter.discounts.shape[0])

    def back_off(lower, inputs):
        order, discount, concentration, decay = inputs
        found = _count(tokens, agreeing >= order, vocab, decay)
        lower = _interpolate(found, lower, discount, concentration)
        return lower, jnp.where(tokens >= 0, -jnp.log(jnp.maximum(lower, 1e-30)), 0.0)

    orders = jnp.arange(counter.discounts.shape[0]), *counter
    return jax.lax.scan(back_off, jnp.full(tokens.shape, 1.0 / vocab, jnp.float32), orders)[1]


class _Counts(NamedTuple):
    """Of the types that followed the suffix before each position."""

    own: Float[Array, " time"]
    """Of the token that came."""
    every: Float[Array, "time vocab"]


def _agreeing_suffixes(tokens: Int[Array, " time"], orders: int) -> Int[Array, "time time"]:
    """How many symbols before position t agree with those before an earlier j, `orders` - 1 at most; -1 where j is not earlier."""
    time = tokens.shape[0]
    place = jnp.arange(time)
    agree = place[:, None] > place[None, :]
    lengths = agree.astype(jnp.int32) - 1
    for back in range(1, orders):
        moved = jnp.concatenate([jnp.full((back,), -1), jnp.maximum(tokens, 0)])[:time]
        agree = agree & (moved[:, None] == moved[None, :]) & (place >= back)[None, :]
        lengths += agree.astype(jnp.int32)
    return lengths


def _count(tokens: Int[Array, " time"], matches: Bool[Array, "time time"], vocab: int, decay: Array) -> _Counts:
    place, seen = jnp.arange(tokens.shape[0]), jnp.maximum(tokens, 0)
    age = jnp.maximum(place[:, None] - place[None, :] - 1, 0).astype(jnp.float32)
    every = jnp.where(matches, decay**age, 0.0) @ jax.nn.one_hot(seen, vocab, dtype=jnp.float32)
    return _Counts(jnp.take_along_axis(every, seen[:, None], axis=1)[:, 0], every)


def _interpolate(counts: _Counts, lower: Float[Array, " time"], discount: Array, concentration: Array) -> Array:
    """p_k of the tokens that came, from p_{k-1}."""
    total = counts.every.sum(axis=1)
    taken = jnp.minimum(counts.every, discount).sum(axis=1)
    kept = jnp.maximum(counts.own - discount, 0.0) + (concentration + taken) * lower
    return jnp.where(total > 0, kept / jnp.maximum(total + concentration, 1e-30), lower)


def counter_nll(windows: Int[np.ndarray, "n time"], vocab: int, counter: Counter) -> Float[np.ndarray, "orders n time"]:
    """`in_context_ngram` for each window, one after another in one program (bounded memory); refused as there."""
    require_symbols("windows", np.maximum(windows, 0), vocab)
    return np.moveaxis(np.asarray(_counter_nll(jnp.asarray(windows), vocab, counter)), 0, 1)


@partial(jax.jit, static_argnames="vocab")
def _counter_nll(windows, vocab, counter):
    return jax.lax.map(lambda row: in_context_ngram(row, vocab, counter), windows)


def tune_counter(
    windows: Int[np.ndarray, "n time"], vocab: int, max_order: int, decays: Sequence[float] = DECAYS
) -> Counter:
    """A counter fitted to the given windows (take them from the training split).

    Order by order, the discount, concentration and decay of the grid that predict the second half of the windows best, given the orders
    below: the tuning that a baseline deserves. One program for the whole grid and all orders. decays: (1.0,) for plain counts.
    """
    require_symbols("windows", np.maximum(windows, 0), vocab)
    return _tune_counter(jnp.asarray(windows), vocab, max_order, tuple(decays))


@partial(jax.jit, static_argnames=("vocab", "max_order", "decays"))
def _tune_counter(windows, vocab, max_order, decays):
    time = windows.shape[1]
    # No discount and no concentration would leave nothing to what has not been seen.
    pairs = jnp.array([(d, c) for d in DISCOUNTS for c in CONCENTRATIONS if d + c > 0], jnp.float32)
    grid = jnp.array(decays, jnp.float32)

    def tune_order(lower, order):
        def matches(row):
            return _agreeing_suffixes(row, max_order + 1) >= order

        def losses(inputs):
            row, below = inputs

            def at(decay):
                counts = _count(row, matches(row), vocab, decay)
                probs = jax.lax.map(lambda pair: _interpolate(counts, below, *pair), pairs)
                return jnp.where(row >= 0, -jnp.log(jnp.maximum(probs, 1e-30)), 0.0)[:, time // 2 :].mean(axis=1)

            return jax.lax.map(at, grid)

        mean = jax.lax.map(losses, (windows, lower)).mean(axis=0)
        decay, pair = jnp.unravel_index(mean.argmin(), mean.shape)
        chosen = Counter(pairs[pair, 0], pairs[pair, 1], grid[decay])

        def apply(inputs):
            row, below = inputs
            counts = _count(row, matches(row), vocab, chosen.decays)
            return _interpolate(counts, below, chosen.discounts, chosen.concentrations)

        return jax.lax.map(apply, (windows, lower)), chosen

    uniform = jnp.full(windows.shape, 1.0 / vocab, jnp.float32)
    return jax.lax.scan(tune_order, uniform, jnp.arange(max_order + 1))[1]


def language_free_bayes(
    tokens: Int[Array, " time"], vocab: int, concentrations: Float[Array, " mixture"]
) -> Float[Array, " time"]:
    """Nats of each token under Bayes' rule for a Markov source that is unknown but for how its rows were drawn.

    The rows of the source are independent draws of a symmetric Dirichlet distribution, whose concentration is one of the given ones with
    equal probability, and the first symbol is uniform: p(v | u) is (N_uv + a) / (N_u + a vocab) for each concentration a, mixed by what
    each gave the window so far. It has no symbol's name and no language, and no predictor without them is better on such sources. (Where
    the first symbol is a stationary one it tells a little of the rows too, which is not used.)

    Raises `InvalidConfig` for no tokens and for those that are not below `vocab`.
    """
    require_symbols("tokens", tokens, vocab)
    followed = _agreeing_suffixes(tokens, 2) == 1
    counts = _count(tokens, followed, vocab, jnp.float32(1.0))
    smoothing = concentrations[:, None]
    nats = jnp.log(counts.every.sum(axis=1)[None] + smoothing * vocab) - jnp.log(counts.own[None] + smoothing)
    before = jnp.cumsum(nats, axis=1) - nats
    return jax.nn.logsumexp(-before, axis=0) - jax.nn.logsumexp(-before - nats, axis=0)
