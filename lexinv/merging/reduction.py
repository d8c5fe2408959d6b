"""From plans to layers: a method that says what becomes of one example's tokens, as a reduction of a batch inside a Transformer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from lexinv.merging.bipartite import Cosines, cosines
from lexinv.merging.fourier import dct_reduce
from lexinv.merging.plan import Plan, merge
from lexinv.nn.reduced import Reduced, Reduction, Seen
from lexinv.randomness import threefry


class Example(NamedTuple):
    """What a method may look at: one example in one layer.

    stream: after attention. keys: averaged over heads (Bolya et al. 2023, section 3). attention: the weights of the layer, computed again;
    a method that does not read them does not pay for them under jit. size: how many tokens each stands for. mask: the real tokens, None
    where there is no padding. key: of the example's own draws, None for methods without.
    """

    stream: Float[Array, "tokens width"]
    keys: Float[Array, "tokens dim"]
    attention: Float[Array, "heads tokens tokens"]
    size: Float[Array, " tokens"]
    mask: Bool[Array, " tokens"] | None
    key: Key[Array, ""] | None

    @property
    def similarity(self) -> Float[Array, "tokens tokens"]:
        """Cosines of the keys, in float32 and without gradient."""
        return self.cosines.all()

    @property
    def cosines(self) -> Cosines:
        """The same, for methods that need only some."""
        return cosines(self.keys)


Method = Callable[[Example], Plan]
Combine = Callable[[Plan, Float[Array, "tokens width"], Float[Array, " tokens"]], tuple[Array, Array]]
"""combine(plan, x, size) -> (targets, sizes): `merge`, `mlerp`, or `fuse` of a layer."""


def reduction(
    method: Method, combine: Combine = merge, padded: bool = False, key: Key[Array, ""] | None = None
) -> Reduction:
    """The reduction that makes a plan for every example and combines its tokens accordingly; it hands on the plans, batched.

    padded: whether examples have padding, which is what has size 0; methods then get a mask, and take longer.
    key: split over the examples. Draw one for each layer.
    """

    def reduce(seen: Seen) -> Reduced:
        keys = mean_over_heads(seen.keys)
        mask = seen.size > 0 if padded else None
        own = None if key is None else jax.random.split(threefry(key), seen.stream.shape[0])
        examples = Example(seen.stream, keys, seen.attention_weights(), seen.size, mask, own)
        plans = jax.vmap(method)(examples)
        stream, size = jax.vmap(combine)(plans, seen.stream, seen.size)
        return Reduced(stream, size, plans)

    return reduce


def mean_over_heads(keys: Float[Array, "batch time heads dim"]) -> Float[Array, "batch time dim"]:
    """In float32. Head after head: the CPU does not vectorise a sum over an axis in the middle."""
    heads = keys.shape[2]
    return (
        sum((keys[:, :, head].astype(jnp.float32) for head in range(1, heads)), keys[:, :, 0].astype(jnp.float32))
        / heads
    )


def fourier_reduction(num_keep: int, protect: int = 1) -> Reduction:
    """`lexinv.merging.fourier.dct_reduce` in a layer: all sizes are 1 afterwards and nothing is handed on. Not for padded examples."""

    def reduce(seen: Seen) -> Reduced:
        stream = jax.vmap(lambda x: dct_reduce(x, num_keep, protect))(seen.stream)
        return Reduced(stream, jnp.ones(stream.shape[:2], jnp.float32), None)

    return reduce
