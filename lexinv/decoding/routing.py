"""Sending single tokens of a small language model to a large one: which of them change what is said, and a router that learns to tell.

Fu et al. 2025 (arXiv 2505.21600). The small model proposes every token. Where a router says so, the large one reads what it has missed and
its token is written instead.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.nn.cache import Cache, Extend
from lexinv.nn.language_model import Params
from lexinv.nn.sampling import step_entropy
from lexinv.validation import require

Route = Callable[[Any, Array, Float[Array, "batch vocab"], Float[Array, "batch vocab"]], Float[Array, " batch"]]
"""`route(given, step, small logits, large logits)`: a score, from 0 on for tokens of the large model. Only oracles read the last."""


def entropy(logits: Float[Array, "*batch vocab"]) -> Float[Array, "*batch"]:
    """Of the distribution, in nats."""
    return step_entropy(jax.nn.log_softmax(logits))


def margin(logits: Float[Array, "*batch vocab"]) -> Float[Array, "*batch"]:
    """The probability of the second token less that of the first: higher where the model is less sure."""
    best, _ = jax.lax.top_k(jax.nn.softmax(logits), 2)
    return best[..., 1] - best[..., 0]


def aleatoric(logits: Float[Array, "*batch vocab"], k: int = 10) -> Float[Array, "*batch"]:
    """LogU: the k highest logits x as evidence of a Dirichlet, -sum_i x_i / S (psi(x_i + 1) - psi(S + 1)) with S their sum, in nats.

    Logits may be negative, for which the released code has no answer; here they are shifted so that the lowest of the k is 0.
    """
    best, _ = jax.lax.top_k(logits, k)
    evidence = best - best[..., -1:]
    total = jnp.sum(evidence, axis=-1, keepdims=True)
    terms = evidence / jnp.maximum(total, 1e-6) * (digamma(evidence + 1) - digamma(total + 1))
    return -jnp.sum(terms, axis=-1)


class Features(NamedTuple):
    """What the router reads of a proposal: the model's state, the vector of the token that was chosen, and the logits in order.

    The paper's state is the last hidden one; logits are a linear image of it, which serve as well where the vocabulary is small.
    """

    state: Float[Array, "*batch state"]
    chosen: Float[Array, "*batch width"]
    ordered: Float[Array, "*batch k"]


def features(
    logits: Float[Array, "*batch vocab"],
    table: Float[Array, "vocab width"],
    image: Float[Array, "vocab state"] | None = None,
    k: int = 100,
) -> Features:
    """Of the most likely token. k: of the ordered logits; all of a smaller vocabulary. image: by which logits give the state, or none.

    With the pseudoinverse of a tied table, [vocab, width], the state is the last hidden one itself.
    """
    ordered, _ = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    state = logits if image is None else logits @ image
    return Features(state, table[jnp.argmax(logits, axis=-1)], ordered)


def initialize_router(key: Key[Array, ""], example: Features, width: int, blocks: int) -> Params:
    """Weights of `router`: Kaiming-normal, offsets of zero. The released code has width 1024 and 6 blocks."""
    sizes = {"ordered": (example.ordered.shape[-1], example.chosen.shape[-1])}
    sizes["concatenated"] = (example.state.shape[-1] + 2 * example.chosen.shape[-1], width)
    sizes["mixed"] = (width, width)
    for block in range(blocks):
        sizes |= {f"in {block}": (width, 4 * width), f"out {block}": (4 * width, width)}
    sizes["score"] = (width, 1)
    keys = dict(zip(sizes, jax.random.split(key, len(sizes)), strict=True))

    def linear(name: str, rows: int, columns: int) -> dict[str, Array]:
        weights = jnp.sqrt(2 / rows) * jax.random.normal(keys[name], (rows, columns))
        return {"weights": weights, "offset": jnp.zeros(columns)}

    norms = {
        f"norm {name}": {"scale": jnp.ones(width), "offset": jnp.zeros(width)} for name in [*range(blocks), "last"]
    }
    return {name: linear(name, *size) for name, size in sizes.items()} | norms


def router(params: Params, given: Features) -> Float[Array, "*batch"]:
    """The logit that the token changes what is said: a residual MLP over the concatenated features."""

    def linear(name: str, x: Array) -> Array:
        found = x @ params[name]["weights"]
        return found + params[name]["offset"].reshape((1,) * (found.ndim - 1) + (-1,))

    def norm(name: str, x: Array) -> Array:
        scale, offset = (params[name][part].reshape((1,) * (x.ndim - 1) + (-1,)) for part in ("scale", "offset"))
        return jax.nn.standardize(x, axis=-1, epsilon=1e-5) * scale + offset

    x = jnp.concatenate([given.state, given.chosen, linear("ordered", given.ordered)], axis=-1)
    x = linear("mixed", linear("concatenated", x))
    for block in range(sum(name.startswith("in ") for name in params)):
        x = x + linear(f"out {block}", jax.nn.gelu(linear(f"in {block}", norm(f"norm {block}", x)), approximate=False))
    return linear("score", norm("norm last", x))[..., 0]


def router_loss(logit: Float[Array, " n"], label: Bool[Array, " n"], weight: float | Array) -> Float[Array, ""]:
    """Binary cross-entropy in nats, positives counted `weight` times: N_0 / N_1 in the paper."""
    positive = label.astype(logit.dtype)
    return jnp.mean(weight * positive * jax.nn.softplus(-logit) + (1 - positive) * jax.nn.softplus(logit))


def choose_threshold(
    scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], least_recall: float = 0.95
) -> float:
    """The highest score from which on at least this share of the positives lies: what is sent is then least.

    Raises `InvalidConfig` without a positive label, and for a share outside of (0, 1].
    """
    require(0 < least_recall <= 1, "least_recall", least_recall, "above 0 and at most 1")
    positive = np.sort(np.asarray(scores)[np.asarray(labels, bool)])[::-1]
    require(len(positive) > 0, "labels", 0, "at least one positive")
    return float(positive[int(np.ceil(least_recall * len(positive))) - 1])


class Reader(NamedTuple):
    """A model and what it remembers."""

    extend: Extend
    params: Params
    table: Float[Array, "vocab width"]
    cache: Cache


class Mixed(NamedTuple):
    """routed: whether the large model wrote the token. differs: whether it would have written another one than the small model."""

    tokens: Int[Array, "batch steps"]
    routed: Bool[Array, "batch steps"]
    differs: Bool[Array, "batch steps"]


def mixed_decode(
    small: Reader, large: Reader, prompt: Int[Array, "batch prompt"], steps: int, route: Route, given: Any
) -> Mixed:
    """`steps` greedy tokens after equally long prompts, each by the model that `route(given, ...)` names.

    Both models read everything here, so that what is measured is exact; in use the large one reads what it missed when it is called.
    Raises `InvalidConfig` for models of unlike vocabularies, and where a cache has too little room.
    """
    require(
        len(small.table) == len(large.table), "vocab", len(large.table), f"that of the small model, {len(small.table)}"
    )
    for reader in (small, large):
        slots = reader.cache.tokens.shape[1]
        require(slots >= prompt.shape[1] + steps - 1, "cache", slots, f"at least {prompt.shape[1] + steps - 1} slots")
    parts = [(reader.params, reader.table, reader.cache) for reader in (small, large)]
    return _mixed_decode(small.extend, large.extend, parts, prompt, steps, route, given)


@partial(jax.jit, static_argnames=("small", "large", "steps", "route"))
def _mixed_decode(small, large, parts, prompt, steps, route, given) -> Mixed:
    batch, before = prompt.shape[0], prompt.shape[1] - 1

    def read(extend: Extend, part: Any, tokens: Array) -> tuple[Array, Any]:
        params, table, cache = part
        logits, cache = extend(params, table, cache, tokens, jnp.full(batch, tokens.shape[1]))
        return logits, (params, table, cache)

    extends = (small, large)
    if before:
        parts = [read(extend, part, prompt[:, :before])[1] for extend, part in zip(extends, parts, strict=True)]

    def step(now: tuple[list[Any], Array], place: Array) -> tuple[tuple[list[Any], Array], tuple[Array, Array, Array]]:
        parts, token = now
        found = [read(extend, part, token[:, None]) for extend, part in zip(extends, parts, strict=True)]
        (small_logits, large_logits), parts = [logits[:, 0] for logits, _ in found], [part for _, part in found]
        ours, theirs = (jnp.argmax(logits, axis=-1).astype(jnp.int32) for logits in (small_logits, large_logits))
        routed = route(given, place, small_logits, large_logits) >= 0
        token = jnp.where(routed, theirs, ours)
        return (parts, token), (token, routed, ours != theirs)

    _, found = jax.lax.scan(step, (list(parts), prompt[:, -1].astype(jnp.int32)), jnp.arange(steps))
    return Mixed(*(rows.T for rows in found))


def compute_per_token(
    routed: Bool[np.ndarray, "batch steps"], small: float | int, large: float | int
) -> tuple[Float[np.ndarray, " batch"], Float[np.ndarray, " batch"]]:
    """("activated parameters" of a token, with the large model's reading of what it missed counted too), in the unit of the sizes.

    The paper counts P_small + f P_large for a share f of tokens. A call of the large model also reads every token since its last call.
    """
    steps = routed.shape[1]
    read = np.where(routed.any(axis=1), steps - np.argmax(routed[:, ::-1], axis=1), 0) / steps
    return small + routed.mean(axis=1) * large, small + read * large
