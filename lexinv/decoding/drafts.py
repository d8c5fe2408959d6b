"""Drafts for `lexinv.decoding.speculation`, none of which trains anything: recycled candidates, the text's own past, a smaller model."""

from functools import cache as once
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from lexinv.decoding.speculation import Draft, Seen, Text
from lexinv.decoding.trees import Tree, chain
from lexinv.nn.cache import Cache, Extend
from lexinv.nn.language_model import Params
from lexinv.nn.sampling import draw, truncate
from lexinv.validation import require

Matrix = Int[Array, "vocab k"]
"""Of each token the k that are likeliest after it, best first."""


def recycled(matrix: Matrix, root: Int[Array, " batch"], tree: Tree) -> Int[Array, "batch n"]:
    """The tokens of a tree: at a node the matrix's candidate, by the node's rank, after the token of its parent (section 3.2)."""
    tokens = jnp.zeros((len(root), len(tree)), jnp.int32).at[:, 0].set(root)
    for depth in range(1, int(tree.depth.max()) + 1):
        (nodes,) = np.nonzero(tree.depth == depth)
        parents = jnp.maximum(tokens[:, tree.parent[nodes]], 0)  # BOS has no row of its own
        tokens = tokens.at[:, nodes].set(matrix[parents, tree.rank[nodes]])
    return tokens


def recycle(matrix: Matrix, tokens: Int[Array, " n"], likeliest: Int[Array, "n k"], order: Int[Array, " n"]) -> Matrix:
    """The matrix with the rows of `tokens` replaced. Of equal tokens the one highest in `order`, of which no two are equal, is written."""
    there = tokens >= 0
    highest = jnp.full(len(matrix), -1, order.dtype).at[jnp.where(there, tokens, len(matrix))].max(order, mode="drop")
    wins = there & (highest[jnp.maximum(tokens, 0)] == order)
    return matrix.at[jnp.where(wins, tokens, len(matrix))].set(likeliest, mode="drop")


@once
def recycling(tree: Tree, rejected: bool = True, kept: bool = True, learns: bool = True) -> Draft:
    """Token Recycling (Luo et al. 2025, arXiv 2408.08696): its state is a `Matrix`, zeros at first, which all sequences of a batch share.

    After a forward the row of every drafted token becomes the model's k likeliest after it. Where a token was drafted twice, the accepted
    path goes before the rest, and shallow nodes before deep ones: the released code leaves that to the order of writes.
    rejected: also rows of tokens that were not accepted. kept: the matrix outlives the text. learns: otherwise it stays, as for bigrams.
    """

    def begin(state, prompt, count):
        return state if kept else jnp.zeros_like(state)

    def learn(matrix: Matrix, seen: Seen) -> Matrix:
        if not learns:
            return matrix
        batch, n, _ = seen.logits.shape
        on_path = jnp.any(seen.verified.path[:, :, None] == jnp.arange(n)[None, None], axis=1)
        order = (jnp.where(on_path, n, 0) + jnp.arange(n)[None, ::-1]) * batch + jnp.arange(batch)[:, None]
        tokens = seen.tokens if rejected else jnp.where(on_path, seen.tokens, -1)
        likeliest = jax.lax.top_k(seen.logits, matrix.shape[1])[1].astype(jnp.int32)
        return recycle(matrix, tokens.reshape(-1), likeliest.reshape(batch * n, -1), order.reshape(-1))

    return Draft(tree, begin, lambda matrix, text: (recycled(matrix, text.root, tree), matrix), learn)


def successors(tokens: Integer[np.ndarray, " time"], vocab: int, k: int) -> Matrix:
    """The k commonest after each token of a text, the lowest of equally common ones first: bigrams for `recycling` that learns nothing."""
    require(1 <= k <= vocab, "k", k, f"1 to {vocab}, the vocabulary")
    pairs, counts = np.unique(tokens[:-1].astype(np.int64) * vocab + tokens[1:], return_counts=True)
    matrix = np.zeros((vocab, k), np.int32)
    left, right = pairs // vocab, pairs % vocab
    order = np.lexsort((right, -counts, left))
    left, right = left[order], right[order]
    place = np.arange(len(left)) - np.searchsorted(left, left)
    first = place < k
    matrix[left[first], place[first]] = right[first]
    return jnp.asarray(matrix)


@once
def lookup(length: int, longest: int = 3) -> Draft:
    """Prompt lookup (Saxena 2023): the text's own past goes on, after the last place that ends as the text does, in up to `longest` tokens.

    A longer match goes before a later one. A continuation that reaches the end of the text begins again: a loop is drafted as one. Has no
    state: (). Without a match the draft is of token 0.
    """

    def propose(state: Any, text: Text) -> tuple[Array, Any]:
        rows, slot = jnp.arange(len(text.root))[:, None], jnp.arange(text.tokens.shape[1])[None]
        tokens = text.tokens.at[rows[:, 0], text.length].set(text.root)
        matched, same = jnp.zeros(tokens.shape, jnp.int32), slot < text.length[:, None]
        for back in range(longest):
            there = jnp.minimum(slot, text.length[:, None]) >= back
            own = jnp.take_along_axis(tokens, jnp.maximum(text.length[:, None] - back, 0), axis=1)
            same &= there & (jnp.roll(tokens, back, axis=1) == own)
            matched += same.astype(jnp.int32)
        best = jnp.argmax(jnp.where(matched > 0, matched * tokens.shape[1] + slot, 0), axis=1)[:, None]
        period = text.length[:, None] - best
        ahead = jnp.take_along_axis(tokens, best + 1 + jnp.arange(length)[None] % jnp.maximum(period, 1), axis=1)
        found = jnp.take_along_axis(matched, best, axis=1) > 0
        return jnp.concatenate([text.root[:, None], jnp.where(found, ahead, 0)], axis=1), state

    return Draft(chain(length), lambda state, prompt, count: state, propose, lambda state, seen: state)


class SmallModel(NamedTuple):
    """The state of `small_model`."""

    params: Params
    table: Array
    cache: Cache


@once
def small_model(extend: Extend, length: int) -> Draft:
    """Speculative decoding with a chain from another model, which draws with the same noise (Leviathan et al. 2023; Chen et al. 2023).

    Sharing the noise makes the two agree more often than independent draws, and lets them be compared as tokens.
    """

    def begin(state: SmallModel, prompt, count):
        cache = jax.tree.map(jnp.zeros_like, state.cache)
        if prompt.shape[1] > 1:
            cache = extend(state.params, state.table, cache, prompt[:, :-1], count - 1)[1]
        return state._replace(cache=cache)

    def propose(state: SmallModel, text: Text):
        def step(now, _):
            cache, token = now
            logits, cache = extend(state.params, state.table, cache, token[:, None], jnp.ones_like(token))
            return (cache, draw(text.keys, cache.length, truncate(logits[:, 0], *text.sampling))), token

        # The last token is read as well, for the case that all are accepted.
        (cache, _), tokens = jax.lax.scan(step, (state.cache, text.root), length=length + 1)
        return tokens.T, state._replace(cache=cache)

    def learn(state: SmallModel, seen: Seen):
        kept = state.cache.length - (length + 1) + seen.verified.accepted + 1
        return state._replace(cache=state.cache._replace(length=kept))

    return Draft(chain(length), begin, propose, learn)
