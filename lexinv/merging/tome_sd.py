"""Token merging in a block that has to keep its tokens: merge, compute on fewer, unmerge (ToMe for Stable Diffusion).

Bolya and Hoffman 2023 (arXiv 2303.17604); method card token-merging. Tokens are a grid without CLS. One plan is made of what enters the
block, and serves each part of it that is to see fewer tokens; what the part computes is copied back to all tokens before it is added.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Key

from lexinv.merging.bipartite import cosines, grid_matching
from lexinv.merging.plan import Plan, merge, unmerge
from lexinv.validation import choose, require


class Part(NamedTuple):
    """A part of a block, x + compute(norm(x)), such as attention among the tokens, attention to a text, or the MLP."""

    norm: Callable[[Array], Array]
    compute: Callable[[Array], Array]


def grid_plans(
    x: Float[Array, "batch tokens width"],
    height: int,
    width: int,
    ratio: float = 0.5,
    cell: tuple[int, int] = (2, 2),
    key: Key[Array, ""] | None = None,
) -> Plan:
    """Batched: the int(ratio tokens) tokens most similar to a destination merge, one token of each cell being a destination.

    x: what enters the block, height x width tokens row by row. cell: rows and columns, whose product bounds what can merge: at (2, 2) up
    to 0.75. key: draws the destinations, the same ones for all examples; the first of each cell without one.
    Raises `InvalidConfig` for a ratio that is not from 0 to below 1, and as `grid_matching` does.
    """
    require(0 <= ratio < 1, "ratio", ratio, "from 0 to below 1: some token is left")
    count = int(ratio * x.shape[1])
    return jax.vmap(lambda each: grid_matching(cosines(each), count, height, width, cell, key=key))(x)


def around(plan: Plan, compute: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`compute` on merged tokens: x [batch, tokens, ...] to as many outputs, those of a group alike. The mean of a group is its token.

    compute: of [batch, kept, width], such as attention, which sees a group as one token, whatever its size.
    """

    def run(x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens out"]:
        merged, _ = jax.vmap(merge)(plan, x)
        return jax.vmap(unmerge)(plan, compute(merged))

    return run


def merged_block(
    x: Float[Array, "batch tokens width"],
    parts: Mapping[str, Part],
    plan: Plan,
    merging: Collection[str] = ("attention",),
) -> Float[Array, "batch tokens width"]:
    """x after all parts, in order: x + compute(norm(x)), or of those in `merging` x + unmerge(compute(merge(norm(x)))).

    As released, attention among the tokens alone merges. Raises `InvalidConfig` where `merging` names no part.
    """
    for name in merging:
        choose("merging", name, parts)
    for name, (norm, compute) in parts.items():
        x = x + (around(plan, compute) if name in merging else compute)(norm(x))
    return x
