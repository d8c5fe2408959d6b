"""Merging that keeps norms, and pruning before it: token fusion (ToFu).

Kim et al. 2024 (arXiv 2312.01026); method card token-merging, which gives the definition built here: PiToMe's copy divides by another
norm. The plans are those of bipartite matching.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lexinv.merging.plan import Plan, check_whole, merge, prune
from lexinv.validation import require


def mlerp(
    plan: Plan, x: Float[Array, "tokens width"], size: Float[Array, " tokens"] | None = None, eps: float = 1e-6
) -> tuple[Float[Array, "targets width"], Float[Array, " targets"]]:
    """The direction of each target's mean with the largest norm among its tokens, and the sizes: mean / ||mean|| max ||x_i||.

    A mean of a norm below `eps` (opposite tokens) has no direction and stays small. Pruned tokens and padding do not count.
    """
    mean, merged = merge(plan, x, size)
    mass = plan.weight if size is None else plan.weight * size
    wide = jnp.where((mass > 0)[:, None], x.astype(jnp.float32), 0.0)  # what does not count may be anything
    # The norm of zero has no gradient, so that padding of zeros would give NaN.
    squares = jnp.where(mass > 0, jnp.sum(wide * wide, axis=1), 0.0)
    norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    largest = jax.ops.segment_max(norms, plan.assign, plan.anchor.shape[-1])
    wide_mean = mean.astype(jnp.float32)
    square = jnp.sum(wide_mean * wide_mean, axis=1)
    norm = jnp.sqrt(jnp.maximum(square, eps**2))
    return (wide_mean * (largest / norm)[:, None]).astype(x.dtype), merged


def fuse(
    plan: Plan, x: Float[Array, "tokens width"], size: Float[Array, " tokens"] | None, layer: int, depth: int
) -> tuple[Float[Array, "targets width"], Float[Array, " targets"]]:
    """ToFu's rule by depth: in the first half of the layers what would be merged is pruned, later `mlerp`."""
    check_whole(layer=layer, depth=depth)
    require(0 <= layer < depth, "layer", layer, f"from 0 to {depth - 1}")
    return merge(prune(plan), x, size) if 2 * layer < depth else mlerp(plan, x, size)
