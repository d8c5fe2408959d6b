"""What becomes of every token when there are fewer of them: one plan for merging, pruning, undoing and tracking.

Every method of this family returns a `Plan` for one example; `jax.vmap` gives plans of a batch. The number of targets is the length of
`anchor`, so that it is static under jit. Methods take a `mask` of the real tokens where examples are padded: padding has weight 0 in a
plan and, with sizes from `start_sizes`, size 0, so that it never changes a real token. A padded example loses the same share of its real
tokens as a full one (`real_share`), and padding makes up the number.

Tokens that are not finite are not looked for, since nothing is refused inside jit: such a token is least similar to all others, the plan
stays valid, and only the tokens that it is merged with are spoilt.
"""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from lexinv.validation import require


class Plan(NamedTuple):
    """assign: the target of each token, from 0; the number of targets for one that goes nowhere. weight: of a token in its target's mean,
    0 where it is pruned. anchor: the token in whose place each target stands, which is one of its own."""

    assign: Int[Array, "*batch tokens"]
    weight: Float[Array, "*batch tokens"]
    anchor: Int[Array, "*batch targets"]


def build(
    removed: Bool[Array, " tokens"],
    destination: Int[Array, " tokens"],
    weight: Float[Array, " tokens"],
    section: Int[Array, " tokens"],
    targets: int,
) -> Plan:
    """The plan that sends removed tokens to their destinations, which must be kept, and leaves the others.

    destination: an index of a token, or the number of tokens for nowhere; read only where `removed`. section: targets come in its order,
    and by index within a section. `targets` must be the number of the tokens that are kept.
    """
    tokens = removed.shape[0]
    last = jnp.iinfo(jnp.int32).max
    anchor = jnp.argsort(jnp.where(removed, last, section), stable=True)[:targets].astype(jnp.int32)
    place = jnp.full(tokens + 1, targets, jnp.int32).at[anchor].set(jnp.arange(targets, dtype=jnp.int32))
    assign = place[jnp.where(removed, destination, jnp.arange(tokens, dtype=jnp.int32))]
    return Plan(assign, jnp.where(assign == targets, 0.0, weight), anchor)


def identity(tokens: int) -> Plan:
    """Every token stays what and where it is."""
    places = jnp.arange(tokens, dtype=jnp.int32)
    return Plan(places, jnp.ones(tokens, jnp.float32), places)


def start_sizes(mask: Bool[Array, "*batch tokens"]) -> Float[Array, "*batch tokens"]:
    """How many tokens each one stands for before any merging: 1, and 0 for padding."""
    return mask.astype(jnp.float32)


def merge(
    plan: Plan, x: Float[Array, "tokens width"], size: Float[Array, " tokens"] | None = None
) -> tuple[Float[Array, "targets width"], Float[Array, " targets"]]:
    """Targets y_j = sum_i w_i s_i x_i / sum_i w_i s_i over the tokens i of target j, and their sizes sum_i w_i s_i.

    size: s, 1 for all by default. Where all weights are 1 the sums of s x and of s are conserved; weight 0 prunes. A target without size
    is 0. Sums are in float32, y has the dtype of x, to which the gradient goes through the mean alone.
    Raises `InvalidConfig` for the plan or the tokens of a batch.
    """
    check_axes(1, assign=plan.assign)
    check_axes(2, x=x)
    mass = plan.weight if size is None else plan.weight * size
    merged = sum_groups(plan, mass)
    # Not 0 times x: what is pruned, or padding, may be anything, infinite or NaN too.
    total = sum_groups(plan, jnp.where((mass > 0)[:, None], mass[:, None] * x.astype(jnp.float32), 0.0))
    there = merged > 0
    mean = jnp.where(there[:, None], total / jnp.where(there, merged, 1.0)[:, None], 0.0)
    return mean.astype(x.dtype), merged


def sum_groups(plan: Plan, values: Float[Array, "tokens *width"]) -> Float[Array, "targets *width"]:
    """The sum of the values of each target's tokens, whatever their weights."""
    return jax.ops.segment_sum(values, plan.assign, plan.anchor.shape[-1])


def prune(plan: Plan) -> Plan:
    """The same plan with only the anchors left in their targets: what was merged into them is dropped instead."""
    is_anchor = jnp.zeros(plan.assign.shape, bool).at[plan.anchor].set(True)
    return plan._replace(weight=jnp.where(is_anchor, plan.weight, 0.0))


def unmerge(plan: Plan, y: Shaped[Array, "targets *width"]) -> Shaped[Array, "tokens *width"]:
    """A copy of its target for every token; zeros for a token that went nowhere."""
    return jnp.take(y, plan.assign, axis=0, mode="fill", fill_value=0)


def compose(after: Plan, before: Plan) -> Plan:
    """The plan from the tokens of `before` to the targets of `after`, as if done at once; its `assign` tracks tokens through the layers.

    `merge` of it is one `merge` after the other, sizes included.
    """
    nowhere = jnp.array([after.anchor.shape[0]], jnp.int32)
    assign = jnp.concatenate([after.assign, nowhere])[before.assign]
    weight = before.weight * jnp.take(after.weight, before.assign, mode="fill", fill_value=0)
    return Plan(assign, weight, before.anchor[after.anchor])


def composed(plans: Sequence[Plan | None]) -> Plan:
    """The plan of a whole network, batched, from those of its layers, batched; None for a layer without one.

    Its `assign`, with -1 for what its weight says is pruned, is what `lexinv.merging.picture` draws.
    """
    there = [plan for plan in plans if plan is not None]
    require(len(there) > 0, "plans", list(plans), "one or more, of layers that reduce")
    return reduce(lambda before, after: jax.vmap(compose)(after, before), there)


def sources(plan: Plan) -> Bool[Array, "targets tokens"]:
    """Which tokens each target is made of; pruned tokens and padding are in none."""
    targets = jnp.arange(plan.anchor.shape[0], dtype=plan.assign.dtype)
    return (plan.assign[None, :] == targets[:, None]) & (plan.weight > 0)[None, :]


def real_share(removed: int, mask: Bool[Array, " tokens"], protect: int) -> Int[Array, ""]:
    """Of `removed` tokens the number of real ones: floor(removed n / M), n of the M unprotected tokens being real."""
    unprotected = mask.shape[0] - protect
    return removed * jnp.sum(mask[protect:], dtype=jnp.int32) // jnp.int32(max(unprotected, 1))


def fill_with_padding(
    removed: Bool[Array, " tokens"], count: int, mask: Bool[Array, " tokens"], protect: int
) -> Bool[Array, " tokens"]:
    """`removed` and so much of the unprotected padding, first in order, that `count` tokens are removed."""
    padding = ~mask & unprotected_tokens(mask.shape[0], protect)
    missing = count - jnp.sum(removed, dtype=jnp.int32)
    return removed | (padding & (jnp.cumsum(padding, dtype=jnp.int32) <= missing))


def check_whole(**counts: Any) -> None:
    """Raise `InvalidConfig`, by name, for a count that is not a whole number, or not known before compiling."""
    for name, count in counts.items():
        try:
            operator.index(count)
        except TypeError:
            require(False, name, count, "a whole number, known before compiling")


def check_axes(axes: int, **arrays: Any) -> None:
    """Raise `InvalidConfig`, by name, for an array of another number of axes: methods take one example."""
    for name, array in arrays.items():
        allowed = f"an array of {axes} axes, of one example: jax.vmap makes plans of a batch"
        require(len(array.shape) == axes, name, array.shape, allowed)


def unprotected_tokens(tokens: int, protect: int) -> Bool[Array, " tokens"]:
    """All but the first `protect` tokens, which no method removes or merges anything into (CLS, a distillation token)."""
    check_whole(protect=protect)
    require(0 <= protect <= tokens, "protect", protect, f"from 0 to the {tokens} tokens")
    return jnp.arange(tokens) >= protect


def descending_rank(scores: Float[Array, " tokens"], eligible: Bool[Array, " tokens"]) -> Int[Array, " tokens"]:
    """The place of each token from the largest score down; eligible ones first, whatever theirs. Of equal ones the first comes first.

    A score that is NaN counts as the smallest.
    """
    largest = jnp.finfo(jnp.float32).max
    finite = jnp.nan_to_num(scores.astype(jnp.float32), nan=-largest, posinf=largest, neginf=-largest)
    order = jnp.argsort(jnp.where(eligible, -jax.lax.stop_gradient(finite), jnp.inf), stable=True)
    return jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0], dtype=jnp.int32))
