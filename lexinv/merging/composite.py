"""Composite text tokens: the words of an object as one token, so that its attributes are drawn where it is.

Hu et al. 2024 (ToMe for text-to-image synthesis, arXiv 2411.07132); method card semantic-binding-token-merging. The official code was not
at hand: sums are the paper's, losses and their use the card's. No relation to the ToMe of `lexinv.merging.bipartite`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from lexinv.validation import require

FLAT = 1e-6
"""Below this a map's range counts as none."""


def merge_words(
    embeddings: Float[Array, "tokens width"],
    groups: Float[Array, "objects tokens"],
    nouns: Int[Array, " objects"],
    length: int,
) -> Float[Array, "tokens width"]:
    """Each object's words as their weighted sum in the place of its noun; the places of its other words hold zeros.

    groups: the weight of every word in each object, 0 for what does not belong to it. length: words of the prompt, after which end tokens
    come. Raises `InvalidConfig` for objects that share a word, that hold an end token, and whose noun is not theirs.
    """
    if not isinstance(groups, Tracer) and not isinstance(nouns, Tracer):
        weights, places = np.asarray(groups), np.asarray(nouns)
        require(bool(((weights != 0).sum(axis=0) <= 1).all()), "groups", weights.tolist(), "no word in two objects")
        require(not weights[:, length:].any(), "groups", weights.tolist(), f"no token from {length} on, which are ends")
        own = weights[np.arange(len(places)), places] != 0
        require(bool(own.all()), "nouns", places.tolist(), "words of their objects")
    kept = jnp.where(jnp.any(groups != 0, axis=0)[:, None], 0.0, embeddings)
    return kept.at[nouns].set(groups @ embeddings)


def emptied(groups: Float[Array, "objects tokens"], nouns: Int[Array, " objects"]) -> Bool[Array, " tokens"]:
    """The places that `merge_words` leaves zeros in. They still take attention, unless they are masked."""
    return jnp.any(groups != 0, axis=0).at[nouns].set(False)


def substitute_end(
    embeddings: Float[Array, "tokens width"], stripped: Float[Array, "tokens width"], length: int
) -> Float[Array, "tokens width"]:
    """With the end tokens of the prompt without attributes, which is not longer: under a causal encoder they hold all that was said.

    Raises `InvalidConfig` where no end token is left.
    """
    require(0 < length < len(embeddings), "length", length, f"1 to {len(embeddings) - 1}: end tokens come after it")
    return jnp.concatenate([embeddings[:length], stripped[length:]])


def object_maps(maps: Float[Array, "objects *grid"]) -> Float[Array, "objects *grid"]:
    """Maps stretched from their least value to their largest, then scaled to sum to one; an even one for a flat map."""
    axes = tuple(range(1, maps.ndim))
    least, most = (end(maps, axis=axes, keepdims=True) for end in (jnp.min, jnp.max))
    flat = most - least <= FLAT
    stretched = jnp.where(flat, 1.0, (maps - least) / jnp.where(flat, 1.0, most - least))
    return stretched / jnp.sum(stretched, axis=axes, keepdims=True)


def attention_entropy(maps: Float[Array, "objects *grid"]) -> Float[Array, ""]:
    """-sum_k sum_xy p_k log p_k in nats of `object_maps`: small where every object is looked for in few places."""
    p = object_maps(maps)
    return -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1.0)))


def binding_loss(
    predict: Callable[[Array], Array], token: Float[Array, "one width"], anchor: Float[Array, "tokens width"]
) -> Float[Array, ""]:
    """Mean squared difference of what is predicted from the composite token alone and from its phrase alone.

    predict: of the noisy image at hand, from the embeddings that condition it. No gradient goes to the anchor's side.
    """
    return jnp.mean((predict(token) - jax.lax.stop_gradient(predict(anchor))) ** 2)


def excitation_loss(maps: Float[Array, "objects *grid"]) -> Float[Array, ""]:
    """1 - the largest attention that the least attended object gets anywhere (Chefer et al. 2023, Attend-and-Excite): a rival."""
    return 1 - jnp.min(jnp.max(maps.reshape(len(maps), -1), axis=1))


def refine(loss: Callable[[Any], Float[Array, ""]], values: Any, rates: Any, steps: int) -> Any:
    """`values`, any tree, after so many steps of gradient descent, with a rate for each leaf."""

    def step(_: Any, now: Any) -> Any:
        return jax.tree.map(lambda x, slope, rate: x - rate * slope, now, jax.grad(loss)(now), rates)

    return jax.lax.fori_loop(0, steps, step, values)
