"""Auditing hidden reasoning that is billed by the token: how a provider pads it, and heads that say whether tokens and blocks belong.

CoIn (Sun et al. 2025, arXiv 2505.13778). The provider commits to a fingerprint of every billed token (`lexinv.decoding.commitments`) and
opens some blocks; the auditor compares the tokens of a block with the block, and the block with question and answer. The paper's code is
not public: the forms of heads, verifier and attacks are ours.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.nn.language_model import Params
from lexinv.validation import choose, require

ATTACKS = {
    "repeated": "one token again and again",
    "random": "random tokens",
    "other_topic": "sentences on another topic",
    "similar": "near tokens of the trace's",
    "resampled": "tokens of trace, answer and prompt",
    "same_topic": "another trace on the topic",
    "self_copies": "its own blocks again",
    "rewritten": "its own blocks reworded",
}
"""By name what the padding is made of. The first three are the paper's naive attacks, the next three its adaptive ones; it has no answer to
the last two."""


class Padded(NamedTuple):
    """What is billed, and which of its tokens are padding."""

    tokens: Int[np.ndarray, " billed"]
    forged: Bool[np.ndarray, " billed"]


class Material(NamedTuple):
    """What padding is made of. others: tokens of a trace on another topic and of one on the same, each at least as long as the padding.

    around: the prompt and the answer. anything: tokens to draw from. near: of each token of the vocabulary the nearest other one. says: the
    label of each; tokens of one label say the same. block: tokens of a block that is copied.
    """

    other_topic: Int[np.ndarray, " other"]
    same_topic: Int[np.ndarray, " same"]
    around: Int[np.ndarray, " around"]
    anything: Int[np.ndarray, " some"]
    near: Int[np.ndarray, " vocab"]
    says: Int[np.ndarray, " vocab"]
    block: int


def pad(
    attack: str, random: np.random.Generator, trace: Int[np.ndarray, " trace"], extra: int, material: Material
) -> Padded:
    """A trace with `extra` tokens of padding, none where that is 0; the trace's own tokens keep their order.

    Single tokens are scattered over the trace; whole sentences and blocks come after its last whole block. Raises `InvalidConfig` for an
    attack that is not among `ATTACKS`, and for a trace without a block.
    """
    choose("attack", attack, ATTACKS)
    n, block = len(trace), material.block
    require(extra >= 0, "extra", extra, "zero or more")
    require(1 <= block <= n, "block", block, f"1 to the {n} tokens of the trace")
    whole = n // block * block
    start = random.integers(0, n // block) * block
    own = np.resize(np.roll(trace[:whole], -start), extra)
    made = {
        "repeated": lambda: np.full(extra, random.choice(trace)),
        "random": lambda: random.choice(material.anything, extra),
        "other_topic": lambda: material.other_topic[:extra],
        "similar": lambda: material.near[random.choice(trace, extra)],
        "resampled": lambda: random.choice(np.concatenate([trace, material.around]), extra),
        "same_topic": lambda: material.same_topic[:extra],
        "self_copies": lambda: own,
        "rewritten": lambda: _reworded(random, own, material.says),
    }[attack]()
    require(len(made) == extra, "material", len(made), f"at least {extra} tokens")
    forged = np.zeros(n + extra, bool)
    if attack in ("repeated", "random", "similar", "resampled"):
        forged[random.permutation(n + extra)[:extra]] = True
    else:
        forged[whole : whole + extra] = True
    tokens = np.empty(n + extra, np.int32)
    tokens[forged], tokens[~forged] = made, trace
    return Padded(tokens, forged)


def _reworded(random: np.random.Generator, tokens: np.ndarray, says: np.ndarray) -> np.ndarray:
    """Each token as one drawn from those that say the same."""
    order = np.argsort(says, kind="stable")
    first, last = (np.searchsorted(says[order], says[tokens], side) for side in ("left", "right"))
    return order[random.integers(first, last)]


def _layers(key: Key[Array, ""], sizes: Sequence[int]) -> list[dict[str, Array]]:
    pairs = list(pairwise(sizes))
    keys = jax.random.split(key, len(pairs))
    return [
        {"weights": jnp.sqrt(2 / rows) * jax.random.normal(one, (rows, columns)), "offset": jnp.zeros(columns)}
        for one, (rows, columns) in zip(keys, pairs, strict=True)
    ]


def _mlp(layers: Sequence[dict[str, Array]], x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
    for place, layer in enumerate(layers):
        x = x if place == 0 else jax.nn.relu(x)
        x = x @ layer["weights"]
        x = x + layer["offset"].reshape((1,) * (x.ndim - 1) + (-1,))
    return x


def initialize_match_head(key: Key[Array, ""], width: int, hidden: Sequence[int] = (256, 64)) -> Params:
    """Weights of `match_head` for embeddings of this width: Kaiming-normal, offsets of zero."""
    return {"layers": _layers(key, (4 * width + 1, *hidden, 1))}


def match_head(
    params: Params, u: Float[Array, "*batch width"], v: Float[Array, "*batch width"]
) -> Float[Array, "*batch"]:
    """The logit that u belongs to v, from [u; v; |u - v|; u * v; cos(u, v)]: a token to its block, or a block to question and answer."""
    sizes = jnp.sqrt(jnp.sum(u * u, axis=-1, keepdims=True) * jnp.sum(v * v, axis=-1, keepdims=True))
    cosine = jnp.sum(u * v, axis=-1, keepdims=True) / jnp.maximum(sizes, 1e-6)
    return _mlp(params["layers"], jnp.concatenate([u, v, jnp.abs(u - v), u * v, cosine], axis=-1))[..., 0]


def initialize_set_verifier(key: Key[Array, ""], scores: int, width: int = 16) -> Params:
    """Weights of `set_verifier` for so many scores of a block."""
    each, whole = jax.random.split(key)
    return {"each": _layers(each, (scores, width, width)), "whole": _layers(whole, (3 * width, width, 1))}


def set_verifier(
    params: Params, scores: Float[Array, "*batch blocks scores"], mask: Bool[Array, "*batch blocks"]
) -> Float[Array, "*batch"]:
    """The logit that a trace is padded, from the scores of the blocks that `mask` names, at least one, in any order (Zaheer et al. 2017).

    Mean, maximum and standard deviation over the blocks of what a small network makes of each.
    """
    there = mask[..., None]
    found = _mlp(params["each"], scores)
    count = jnp.sum(there, axis=-2).astype(found.dtype)
    mean = jnp.sum(jnp.where(there, found, 0), axis=-2) / count
    most = jnp.max(jnp.where(there, found, -jnp.inf), axis=-2)
    deviation = jnp.where(there, found - mean[..., None, :], 0)
    spread = jnp.sqrt(jnp.sum(deviation**2, axis=-2) / count + 1e-6)
    return _mlp(params["whole"], jnp.concatenate([mean, most, spread], axis=-1))[..., 0]


def duplicates(fingerprints: Sequence[bytes]) -> int:
    """How many of these blocks, each the bytes of its fingerprints, are copies of one before: the defence that the paper lacks."""
    return len(fingerprints) - len(set(fingerprints))


def threshold(honest: Float[np.ndarray, " sessions"], false_alarms: float) -> float:
    """What a score has to exceed so that at most this share of these honest sessions does. Never chosen on padded ones."""
    require(0 < false_alarms < 1, "false_alarms", false_alarms, "between 0 and 1")
    require(len(honest) > 0, "honest", len(honest), "at least one session")
    allowed = int(false_alarms * len(honest))
    return float(np.sort(honest)[len(honest) - 1 - allowed])
