"""Heads of attention over a cache in which a few tokens that matter are planted for each, and how selections of cached tokens keep them.

Method card tokenselect, reproduction A. A head's query is `scale` times a random direction, scales log-normal, and keys are normal, so that
heads differ in how far their scores spread. The tokens that a head needs get the scores with which they have `share` of its attention.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lexinv.merging.cache_selection import POLICIES, Selection, head_scores, select
from lexinv.validation import Checked, Count, Fraction, NonNegative


@dataclass(frozen=True)
class PlantedConfig(Checked):
    """critical: tokens for each head. spread: of the heads' logarithmic scales. run: tokens that stand together in contiguous haystacks."""

    heads: Count = 8
    dim: Count = 64
    slots: Count = 4096
    k: Count = 64
    critical: Count = 6
    spread: NonNegative = 1.0
    share: Fraction = 0.97
    run: Count = 16
    draws: Count = 10

    def checks(self):
        planted = self.heads * self.critical
        yield planted <= self.k <= self.slots, "k", f"{planted}, which are planted, to the {self.slots} slots"
        yield planted % self.run == 0 and self.k % self.run == 0, "run", f"a divisor of {planted} and of k"
        yield self.slots % self.run == 0, "slots", "a multiple of run"


class Heads(NamedTuple):
    queries: Float[Array, "heads dim"]
    keys: Float[Array, "key_heads slots dim"]
    values: Float[Array, "key_heads slots dim"]
    planted: Int[np.ndarray, "heads critical"]


def plant(config: PlantedConfig, seed: int, contiguous: bool = False, key_heads: int | None = None) -> Heads:
    """Critical tokens anywhere, or in runs that begin where blocks of `run` slots do, which is the best case of blocks."""
    c, rng = config, np.random.default_rng((seed, contiguous))
    groups = c.heads if key_heads is None else key_heads
    directions = rng.normal(size=(c.heads, c.dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scales = np.exp(c.spread * rng.normal(size=c.heads))
    keys, values = rng.normal(size=(2, groups, c.slots, c.dim))
    count = c.heads * c.critical
    if contiguous:
        runs = rng.choice(c.slots // c.run, count // c.run, replace=False)
        places = (c.run * runs[:, None] + np.arange(c.run)).reshape(-1)
    else:
        places = rng.choice(c.slots, count, replace=False)
    planted = rng.permutation(places).reshape(c.heads, c.critical)
    for head, (direction, scale, own) in enumerate(zip(directions, scales, planted, strict=True)):
        of_head = keys[head // (c.heads // groups)]
        noise = np.delete(scale * of_head @ direction, own)
        least = noise.max() + np.log(np.exp(noise - noise.max()).sum())
        wanted = least + np.log(c.share / (1 - c.share) / c.critical)
        of_head[own] += (wanted / scale - of_head[own] @ direction)[:, None] * direction
    queries = directions * scales[:, None] * np.sqrt(c.dim)
    as_floats = (jnp.asarray(x, jnp.float32) for x in (queries, keys, values))
    return Heads(*as_floats, planted=planted)


def judge(config: PlantedConfig, heads: Heads) -> dict[str, dict[str, float]]:
    """By policy the attention that its tokens had, mean of heads, and the relative error of all heads' outputs without the others."""
    queries, keys, values, _ = heads
    valid, found = jnp.ones(config.slots, bool), {}
    scores = head_scores(queries, keys)
    weights = jax.nn.softmax(scores, axis=-1)
    whole = jnp.einsum("hn,hnd->hd", weights, values)
    for policy, votes_of in POLICIES.items():
        votes = votes_of(queries, keys, valid, Selection(k=config.k, block=config.run))
        idx = select(votes, config.k, 0, 0, config.slots)
        kept = jnp.zeros(votes.shape, bool).at[jnp.arange(len(idx))[:, None], idx].set(True)
        mass = jnp.where(kept, weights, 0.0)
        out = jnp.einsum("hn,hnd->hd", mass, values) / jnp.maximum(mass.sum(1), 1e-30)[:, None]
        error = jnp.linalg.norm(out - whole) / jnp.linalg.norm(whole)
        found[policy] = {"mass": float(mass.sum(1).mean()), "error": float(error)}
    return found


def found_by_grouping(config: PlantedConfig, key_heads: int, seed: int) -> dict[str, float]:
    """The share of planted tokens that soft votes select with heads of keys h // (H / Hkv), as they are, and h mod Hkv, as released."""
    heads = plant(config, seed, key_heads=key_heads)
    orders = np.arange(config.heads).reshape(-1, key_heads)
    said: dict[str, Any] = {"h // (H / Hkv)": np.arange(config.heads), "h mod Hkv": orders.T.reshape(-1)}
    found = {}
    for name, order in said.items():
        valid = jnp.ones(config.slots, bool)
        votes = POLICIES["soft"](heads.queries[order], heads.keys, valid, Selection(k=config.k))
        found[name] = float(np.isin(heads.planted, np.asarray(select(votes[0], config.k, 0, 0, config.slots))).mean())
    return found
