"""Learning to write what scores well: the gradient of an expected reward by samples, and the n-gram overlap as the reward."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lexinv.validation import require


def overlap_reward(
    tokens: Int[Array, "batch time"],
    there: Bool[Array, "batch time"],
    targets: Int[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    n: int,
) -> Float[Array, " batch"]:
    """F1 of n-grams of each text against its target, from 0 to 1, every n-gram matched at most as often as the target has it.

    there, mask: where a text and a target are no padding. A text or a target without an n-gram scores 0. As
    `lexinv.decoding.ngram_overlap.ngram_f1`, compiled. Raises `InvalidConfig` unless n is from 1 to both lengths.
    """
    least = min(tokens.shape[1], targets.shape[1])
    require(1 <= n <= least, "n", n, f"1 to {least}, the shorter of text and target")

    def grams(of: Array, real: Array) -> tuple[Array, Array]:
        parts = [(of[:, j : of.shape[1] - n + 1 + j], real[:, j : of.shape[1] - n + 1 + j]) for j in range(n)]
        return jnp.stack([part for part, _ in parts], axis=2), jnp.all(jnp.stack([part for _, part in parts]), axis=0)

    ours, real = grams(tokens, there)
    theirs, wanted = grams(targets, mask)
    same = jnp.all(ours[:, :, None] == ours[:, None], axis=3) & real[:, None]
    earlier = jnp.sum(jnp.tril(same, -1), axis=2)
    available = jnp.sum(jnp.all(ours[:, :, None] == theirs[:, None], axis=3) & wanted[:, None], axis=2)
    matched = jnp.sum(real & (earlier < available), axis=1)
    total = jnp.sum(real, axis=1) + jnp.sum(wanted, axis=1)
    return 2.0 * matched.astype(jnp.float32) / jnp.maximum(total, 1).astype(jnp.float32)


def policy_gradient_loss(
    log_probs: Float[Array, "batch time vocab"],
    tokens: Int[Array, "batch time"],
    there: Bool[Array, "batch time"],
    advantage: Float[Array, " batch"],
) -> Float[Array, ""]:
    """-mean_b advantage_b sum_t log p(y_t): its gradient is that of minus the expected reward, where y is drawn from p (REINFORCE).

    advantage: reward less a baseline that does not depend on y, such as the reward of the most likely text (Rennie et al. 2017). Nothing
    is differentiated but log_probs.
    """
    chosen = jnp.take_along_axis(log_probs, tokens[..., None], axis=2)[..., 0]
    written = jnp.sum(jnp.where(there, chosen, 0.0), axis=1)
    return -jnp.mean(jax.lax.stop_gradient(advantage) * written)
