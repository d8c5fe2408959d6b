"""Commitments to a list: a root that binds its maker to every entry and to their number, and short proofs that an entry is in it.

Merkle trees of RFC 6962 (section 2.1) with SHA-256: the hashes of entries and of nodes are told apart by their first byte, and a level with
an odd number of nodes hands the last one up as it is. (Doubling it would give two lists one root.) A root does not say how many entries
there are, nor does the proof of the last one alone: of two entries the first can pose as a node, and the second as the last of three. So
an entry names its index (`fingerprint_entry`), and random challenges find those that cannot be opened (`catch_probability`).
"""

from collections.abc import Sequence
from hashlib import sha256
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8

from lexinv.validation import require

Path = tuple[bytes, ...]
"""The hashes beside the way from an entry to the root, from below."""


class Tree(NamedTuple):
    """levels: hashes, those of the entries first, the root last."""

    levels: tuple[tuple[bytes, ...], ...]

    @property
    def size(self) -> int:
        return len(self.levels[0])

    @property
    def root(self) -> bytes:
        return self.levels[-1][0]


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def commit(entries: Sequence[bytes]) -> Tree:
    """The tree over these entries. Raises `InvalidConfig` for none."""
    require(len(entries) > 0, "entries", len(entries), "at least one")
    levels = [tuple(map(leaf_hash, entries))]
    while len(last := levels[-1]) > 1:
        pairs = zip(last[::2], last[1::2], strict=False)
        levels.append((*(node_hash(*pair) for pair in pairs), *(last[-1:] if len(last) % 2 else ())))
    return Tree(tuple(levels))


def prove(tree: Tree, index: int) -> Path:
    """That the entry of this index is in the tree. Raises `InvalidConfig` for one that is not there."""
    require(0 <= index < tree.size, "index", index, f"0 to {tree.size - 1}")
    beside = []
    for level in tree.levels[:-1]:
        if (other := index ^ 1) < len(level):
            beside.append(level[other])
        index >>= 1
    return tuple(beside)


def verify(root: bytes, size: int, index: int, entry: bytes, path: Path) -> bool:
    """Whether this entry has this index among `size` entries with this root (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    found, last, beside = leaf_hash(entry), size - 1, list(path)
    while last:
        if index % 2 or index < last:
            if not beside:
                return False
            other = beside.pop(0)
            found = node_hash(other, found) if index % 2 else node_hash(found, other)
        index, last = index >> 1, last >> 1
    return not beside and found == root


def quantise(embeddings: Float[np.ndarray, "*batch width"], scale: float = 32.0) -> Int8[np.ndarray, "*batch width"]:
    """Fingerprints that hash alike on every machine, whose floats differ: steps of 1 / scale, cut at 127."""
    return np.clip(np.rint(np.asarray(embeddings, np.float64) * scale), -127, 127).astype(np.int8)


def fingerprint_entry(session: bytes, index: int, fingerprint: Int8[np.ndarray, " width"]) -> bytes:
    """What is committed of a token: with the session's nonce and the index, so that equal tokens have unlike hashes, here and elsewhere."""
    return session + index.to_bytes(8, "big") + fingerprint.tobytes()


def catch_probability(size: int, missing: int, challenges: int) -> float:
    """That one of so many different random challenges hits an entry that cannot be opened: 1 - C(m - f, c) / C(m, c)."""
    require(0 <= missing <= size, "missing", missing, f"0 to size = {size}")
    require(0 <= challenges <= size, "challenges", challenges, f"0 to size = {size}")
    return 1 - comb(size - missing, challenges) / comb(size, challenges)
