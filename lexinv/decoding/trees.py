"""Trees of drafted tokens, read in one forward: which of them the model would have drawn itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lexinv.validation import require

Path = tuple[int, ...]
"""A node by the ranks of the children on the way to it from the root, which is ()."""


@dataclass(frozen=True)
class Tree:
    """Nodes in order of depth, the root first. See `tree`."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def depth(self) -> Int[np.ndarray, " n"]:
        return np.array([len(path) for path in self.paths], np.int32)

    @cached_property
    def rank(self) -> Int[np.ndarray, " n"]:
        """Of a node among the children of its parent; 0 of the root."""
        return np.array([path[-1] if path else 0 for path in self.paths], np.int32)

    @cached_property
    def parent(self) -> Int[np.ndarray, " n"]:
        """The root is its own."""
        places = {path: place for place, path in enumerate(self.paths)}
        return np.array([places[path[:-1]] for path in self.paths], np.int32)

    @cached_property
    def ancestors(self) -> Int[np.ndarray, "n depths"]:
        """The nodes from the root to each, itself last and repeated."""
        found = np.tile(np.arange(len(self), dtype=np.int32)[:, None], (1, int(self.depth.max()) + 1))
        for node in range(1, len(self)):
            found[node, : self.depth[node]] = found[self.parent[node], : self.depth[node]]
        return found

    @cached_property
    def visible(self) -> Bool[np.ndarray, "n n"]:
        """Whether a node sees another: itself and what lies between it and the root."""
        seen = np.zeros((len(self), len(self)), bool)
        np.put_along_axis(seen, self.ancestors, True, axis=1)
        return seen


def tree(paths: Sequence[Sequence[int]]) -> Tree:
    """The tree with these nodes below its root. Raises `InvalidConfig` for a node without its parent, one named twice, and bad ranks."""
    nodes = [tuple(int(rank) for rank in path) for path in paths]
    known = {(), *nodes}
    require(len(known) == len(nodes) + 1, "paths", nodes, "each node once, without the root")
    for node in nodes:
        require(min(node) >= 0, "paths", node, "ranks from 0 on")
        require(node[:-1] in known, "paths", node, f"closed: its parent {node[:-1]} is no node")
    return Tree(tuple(sorted(known, key=lambda node: (len(node), node))))


def chain(length: int) -> Tree:
    """Nodes one after the other, each the first child of the one before it."""
    require(length >= 1, "length", length, "at least 1")
    return tree([(0,) * n for n in range(1, length + 1)])


def likeliest(nodes: int, of: Tree) -> Tree:
    """The `nodes` nodes of a tree, below its root, with the least sum of 1 + rank along the way: each rank as likely again as the next."""
    require(1 <= nodes < len(of), "nodes", nodes, f"1 to {len(of) - 1}, which the tree has below its root")
    return tree(sorted(of.paths[1:], key=lambda path: (sum(path) + len(path), len(path), path))[:nodes])


_PUBLISHED = """0 1 2 3 4 5 6 7
00 01 02 03 04 05 06 07 10 11 12 13 20 21 22 30 31 40 50 60 70
000 001 002 003 004 005 006 007 010 011 012 020 021 030 040 050 060 070 100 101 110 200 300 400 500
0000 0001 0002 0003 0004 0010 0011 0020 0030 0040 0100 0200 1000 2000 3000
00000 00001 00002 00010 00020 00100 01000 10000
000000 000001 000100"""

PUBLISHED = tree([tuple(map(int, path)) for path in _PUBLISHED.split()])
"""The static tree of Token Recycling's released code ("2.2.2"): 80 nodes below the root, up to 6 deep, 8 children at most."""


class Verified(NamedTuple):
    """path: nodes from the root to the deepest right one, itself repeated. accepted: how many below the root. bonus: what follows."""

    path: Int[Array, "batch depths"]
    accepted: Int[Array, " batch"]
    bonus: Int[Array, " batch"]


def verify(tree: Tree, tokens: Int[Array, "batch n"], chosen: Int[Array, "batch n"]) -> Verified:
    """The longest path of which each token is the one `chosen` after its parent; the first of equally long ones.

    tokens: at the nodes, the root's being the last of the text. chosen: what the model draws after each node (`lexinv.nn.sampling.draw`).
    tokens[path[1:accepted + 1]] and then `bonus` are what it would have drawn one by one (Luo et al. 2025, arXiv 2408.08696, section 3).
    """
    matched = (tokens == chosen[:, tree.parent]).at[:, 0].set(True)
    right = jnp.all(matched[:, tree.ancestors], axis=-1)
    best = jnp.argmax(jnp.where(right, jnp.asarray(tree.depth), -1), axis=1)
    bonus = jnp.take_along_axis(chosen, best[:, None], axis=1)[:, 0]
    return Verified(jnp.asarray(tree.ancestors)[best], jnp.asarray(tree.depth)[best], bonus)
