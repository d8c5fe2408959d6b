"""Tokens as different from each other as possible: greedy dispersion (DivPrune, and the first stage of ToDRE).

Alvar et al. 2025 (DivPrune, arXiv 2503.02175) keep the subset whose closest pair is as far apart as possible; Li et al. 2025 (ToDRE,
arXiv 2505.18757) the one with the largest sum of distances. Method cards divprune and todre. Both problems are hard; the greedy loop comes
within a factor of 2 of the best closest pair where distances are a metric (Gonzalez 1985; Ravi et al. 1994). Cosine distance is half the
square of the chord sqrt(2 - 2 cos), which is one: the greedy choice is the same, and within a factor of 4.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lexinv.merging.bipartite import cosine_similarity
from lexinv.merging.plan import Plan, build, check_axes, check_whole
from lexinv.validation import choose, require

Objective = Literal["maxmin", "maxsum"]


def cosine_distance(x: Float[Array, "tokens width"]) -> Float[Array, "tokens tokens"]:
    """1 - cos(x_i, x_j), float32, without gradient."""
    return 1 - cosine_similarity(x)


def isolated_token(
    distance: Float[Array, "tokens tokens"], mask: Bool[Array, " tokens"] | None = None
) -> Int[Array, ""]:
    """The token farthest from its nearest neighbour: DivPrune's first. mask: padding is not looked at."""
    other = ~jnp.eye(distance.shape[0], dtype=bool)
    if mask is not None:
        other = other & mask[None, :]
    nearest = jnp.min(jnp.where(other, distance, jnp.inf), axis=1)
    return jnp.argmax(nearest if mask is None else jnp.where(mask, nearest, -jnp.inf)).astype(jnp.int32)


def greedy_dispersion(
    distance: Float[Array, "tokens tokens"],
    num_keep: int,
    start: Int[Array, ""],
    objective: Objective = "maxmin",
    mask: Bool[Array, " tokens"] | None = None,
) -> Int[Array, " kept"]:
    """`num_keep` tokens in the order of their choice: `start`, then each time the one farthest from those chosen.

    objective: "maxmin" measures by the nearest chosen token (DivPrune; ToDRE's k-center reading), "maxsum" by the sum over all of them.
    start: `isolated_token` for DivPrune, the token with the most CLS attention for ToDRE; one end of the farthest pair, and max-min takes
    the other next. No token is chosen twice, exact duplicates last. mask: padding comes after all real tokens.
    Raises `InvalidConfig` unless 1 <= num_keep <= tokens.
    """
    choose("objective", objective, ("maxmin", "maxsum"))
    check_axes(2, distance=distance)
    check_whole(num_keep=num_keep)
    tokens = distance.shape[0]
    require(1 <= num_keep <= tokens, "num_keep", num_keep, f"from 1 to the {tokens} tokens")
    penalty = jnp.zeros(tokens, jnp.float32) if mask is None else jnp.where(mask, 0.0, -1e6)

    def choose_next(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        far, chosen = carry
        last = chosen[step - 1]
        column = distance[:, last]
        far = jnp.minimum(far, column) if objective == "maxmin" else far + column
        far = far.at[last].set(-jnp.inf)  # a duplicate of it has distance 0 and may still be chosen, once
        return far, chosen.at[step].set(jnp.argmax(far + penalty).astype(jnp.int32))

    far = jnp.full(tokens, 1e3, jnp.float32) if objective == "maxmin" else jnp.zeros(tokens, jnp.float32)
    chosen = jnp.zeros(num_keep, jnp.int32).at[0].set(start)
    return jax.lax.fori_loop(1, num_keep, choose_next, (far, chosen))[1]


def keep_tokens(
    chosen: Int[Array, " kept"], distance: Float[Array, "tokens tokens"], mask: Bool[Array, " tokens"] | None = None
) -> Plan:
    """The plan that prunes all but the chosen tokens, which stay in their order; `assign` gives the others their nearest kept token."""
    tokens = distance.shape[0]
    kept = jnp.zeros(tokens, bool).at[chosen].set(True)
    nearest = jnp.argmin(jnp.where(kept[None, :], distance, jnp.inf), axis=1).astype(jnp.int32)
    weight = kept if mask is None else kept & mask
    return build(~kept, nearest, weight.astype(jnp.float32), jnp.zeros(tokens, jnp.int32), chosen.shape[0])


def diversity_prune(x: Float[Array, "tokens width"], num_keep: int, mask: Bool[Array, " tokens"] | None = None) -> Plan:
    """DivPrune: keep the `num_keep` tokens of greedy max-min dispersion in cosine distance, from the most isolated one on.

    It takes outliers and broken tokens first: filter them before. mask: where fewer tokens are real, all of them are kept.
    """
    distance = cosine_distance(x)
    chosen = greedy_dispersion(distance, num_keep, isolated_token(distance, mask), "maxmin", mask)
    return keep_tokens(chosen, distance, mask)


def closest_pair(distance: Float[Array, "tokens tokens"], chosen: Int[Array, " kept"]) -> Float[Array, ""]:
    """The smallest distance between two chosen tokens: what max-min dispersion maximises. Infinite for one token."""
    among = distance[chosen][:, chosen]
    return jnp.min(jnp.where(jnp.eye(chosen.shape[0], dtype=bool), jnp.inf, among))


def distance_to_chosen(distance: Float[Array, "tokens tokens"], chosen: Int[Array, " kept"]) -> Float[Array, " tokens"]:
    """Of every token to the nearest chosen one: its maximum is the coverage radius (k-center), its mean the mean coverage."""
    return jnp.min(distance[:, chosen], axis=1)
