"""A loss that does not mind where a target's n-grams stand: each is matched with all n-grams of the output (EISL).

Liu et al. 2022 (arXiv 2106.15078); method card edit-invariant-sequence-loss. P(y_{t:t+n} = y*_{i:i+n}) is taken as a product over
positions, which is exact where positions are independent given the source: in models that are not autoregressive.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.randomness import threefry
from lexinv.validation import choose, require

FLOOR = -20.0
"""Nats below which a log-probability is cut, as in the released code."""


def ngram_scores(
    log_probs: Float[Array, "batch time vocab"], targets: Int[Array, "batch length"], n: int
) -> Float[Array, "batch starts ngrams"]:
    """g[t, i] = 1/n sum_{j<n} max(log p(y*_{i+j} at position t + j), FLOOR): nats per token of n-gram i at t.

    Raises `InvalidConfig` unless n is from 1 to both lengths.
    """
    (batch, time, _), length = log_probs.shape, targets.shape[1]
    require(1 <= n <= min(time, length), "n", n, f"1 to {min(time, length)}, the shorter of output and target")
    wanted = jnp.broadcast_to(targets[:, None], (batch, time, length))
    scores = jnp.maximum(jnp.take_along_axis(log_probs, wanted, axis=2), FLOOR)
    diagonal = [scores[:, j : time - n + 1 + j, j : length - n + 1 + j] for j in range(n)]
    return jnp.mean(jnp.stack(diagonal), axis=0)


def edit_invariant_loss(
    log_probs: Float[Array, "batch time vocab"],
    targets: Int[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    n: int,
    reduce: Literal["softmax", "exact"] = "softmax",
    key: Key[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Mean over the n-grams of all targets, in nats per token of an n-gram; 0 where there is none without padding.

    softmax: -sum_t w_t g_t with w = softmax_t(g), the paper's; with a key, of g and Gumbel noise, by which n-grams are reached that are not
    matched yet. exact: -1/n log sum_t exp(n g_t), of the expected number of matches itself, which softmax is never below. The released
    criterion takes the columns of padding as 0 and counts them; here n-grams with padding, where `mask` is false, do not count. With n
    the whole of both lengths either is cross-entropy.
    """
    choose("reduce", reduce, ("softmax", "exact"))
    g = ngram_scores(log_probs, targets, n)
    whole = jnp.all(jnp.stack([mask[:, j : mask.shape[1] - n + 1 + j] for j in range(n)]), axis=0)
    if reduce == "exact":
        losses = -jax.nn.logsumexp(n * g, axis=1) / n
    else:
        noise = jnp.zeros_like(g) if key is None else jax.random.gumbel(threefry(key), g.shape, g.dtype)
        losses = -jnp.sum(jax.nn.softmax(g + noise, axis=1) * g, axis=1)
    return jnp.sum(jnp.where(whole, losses, 0.0)) / jnp.maximum(jnp.sum(whole.astype(losses.dtype)), 1.0)
