"""How many tokens to keep, learned: differentiable discrete proxies (DiffRate), and learned thresholds as the simpler control.

Chen et al. 2023 (arXiv 2305.17997), method card token-merging. In training no token leaves: a mask with straight-through gradient stands
for it in a masked softmax, and (FLOPs - target)^2, with `costs.block_flops` of the expected counts, is added to the loss. The counts
that come out are then a static schedule.
Learned thresholds follow Kim et al. 2022 (Learned Token Pruning, arXiv 2107.00910) [recalled, unverified; no card describes them].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lexinv.merging.plan import check_whole
from lexinv.validation import require


def candidates(tokens: int, granularity: int = 1) -> Int[Array, " candidates"]:
    """The counts to choose from: N, N - g, N - 2g, ... down to 1 at least."""
    check_whole(tokens=tokens, granularity=granularity)
    require(tokens >= 1, "tokens", tokens, "at least 1")
    require(granularity >= 1, "granularity", granularity, "at least 1 token")
    return jnp.arange(tokens, 0, -granularity, dtype=jnp.int32)


def kept_count(logits: Float[Array, " candidates"], counts: Int[Array, " candidates"]) -> Float[Array, ""]:
    """ceil(sum_k p_k c_k) of p = softmax(logits), with the gradient of the sum (straight-through)."""
    mean = jnp.sum(jax.nn.softmax(logits) * counts.astype(logits.dtype))
    return mean + jax.lax.stop_gradient(jnp.ceil(mean - 1e-4) - mean)


def survival(
    logits: Float[Array, " candidates"], counts: Int[Array, " candidates"], tokens: int
) -> Float[Array, " tokens"]:
    """The probability that the token of rank i (from 0) is kept: that of all counts above i. Never rising in i."""
    kept = counts[None, :] > jnp.arange(tokens, dtype=counts.dtype)[:, None]
    return jnp.sum(jnp.where(kept, jax.nn.softmax(logits)[None, :], 0.0), axis=1)


def survival_mask(
    logits: Float[Array, " candidates"], counts: Int[Array, " candidates"], tokens: int
) -> Float[Array, " tokens"]:
    """1 for the first `kept_count` ranks and 0 after, with the gradient of `survival`."""
    soft = survival(logits, counts, tokens)
    hard = (jnp.arange(tokens, dtype=soft.dtype) < kept_count(logits, counts)).astype(soft.dtype)
    return soft + jax.lax.stop_gradient(hard - soft)


def masked_softmax(logits: Float[Array, "*rows keys"], mask: Float[Array, " keys"]) -> Float[Array, "*rows keys"]:
    """exp(l_j) m_j / sum_j exp(l_j) m_j: a masked key is as good as gone, yet its mask has a gradient. Zeros where all are masked."""
    mask = jnp.broadcast_to(mask, logits.shape)
    # The largest of those that count: a masked one far above them would leave nothing of the others. The clip is for its own gradient.
    largest = jnp.max(jnp.where(mask > 0, logits, -jnp.inf), axis=-1, keepdims=True)
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    weights = jnp.exp(jnp.minimum(logits - largest, 30.0)) * mask
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def threshold_mask(
    scores: Float[Array, " tokens"], threshold: Float[Array, ""], temperature: float = 0.01
) -> Float[Array, " tokens"]:
    """1 where the score exceeds the learned threshold and 0 elsewhere, with the gradient of sigmoid((score - threshold) / temperature).

    The count follows the input, so that shapes cannot shrink under jit: multiply sizes by it.
    """
    require(temperature > 0, "temperature", temperature, "above 0")
    soft = jax.nn.sigmoid((scores - threshold) / temperature)
    return soft + jax.lax.stop_gradient((scores > threshold).astype(soft.dtype) - soft)
