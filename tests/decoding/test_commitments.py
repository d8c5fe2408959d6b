"""Merkle trees against the test vectors of Certificate Transparency, tampering of every kind, and the odds of a challenge."""

from math import ceil, log2

import numpy as np
import pytest

from lexinv.decoding.commitments import (
    catch_probability,
    commit,
    fingerprint_entry,
    node_hash,
    prove,
    quantise,
    verify,
)
from lexinv.validation import InvalidConfig

ENTRIES = [
    bytes.fromhex(x)
    for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
"""Of the first entries, as other implementations of RFC 6962 have them."""


@pytest.mark.parametrize("size", ROOTS)
def test_roots_are_those_of_other_implementations(size):
    assert commit(ENTRIES[:size]).root.hex() == ROOTS[size]


def test_every_entry_is_proved_and_any_change_is_noticed():
    for size in [*range(1, 20), 31, 32, 33, 70]:
        entries = [f"entry {i}".encode() for i in range(size)]
        tree = commit(entries)
        for index, entry in enumerate(entries):
            path = prove(tree, index)
            assert verify(tree.root, size, index, entry, path)
            assert len(path) <= (ceil(log2(size)) if size > 1 else 0)
            assert not verify(tree.root, size, index, entry + b"!", path)
            assert not verify(tree.root, size, (index + 1) % (size + 1), entry, path)
            assert not verify(b"\0" * 32, size, index, entry, path)
            assert not verify(tree.root, size, index, entry, (*path, tree.root))
            if path:
                bent = (bytes([path[0][0] ^ 1]) + path[0][1:], *path[1:])
                assert not verify(tree.root, size, index, entry, bent)
                assert not verify(tree.root, size, index, entry, path[:-1])
        assert not verify(tree.root, size, -1, entries[-1], prove(tree, size - 1))


def test_entries_that_name_their_index_bind_their_number():
    def entry(index, value):
        return fingerprint_entry(b"nonce", index, np.array([value], np.int8))

    for size in range(1, 12):
        tree = commit([entry(i, i) for i in range(size)])
        assert tree.root != commit([entry(i, i) for i in range(size + 1)]).root
        for claimed in range(size + 1, 16):
            proofs = (prove(tree, index) for index in range(size))
            assert not any(
                verify(tree.root, claimed, claimed - 1, entry(claimed - 1, size - 1), path) for path in proofs
            )
    posing = commit([b"one", b"two"])
    assert verify(posing.root, 3, 2, b"two", prove(posing, 1))  # without an index it passes for the third entry


def test_a_node_is_no_entry_and_equal_tokens_have_unlike_hashes():
    tree = commit(ENTRIES[:4])
    left, right = tree.levels[1]
    assert not verify(tree.root, 2, 0, left, (right,)) and node_hash(left, right) == tree.root
    one = np.array([3, -5], np.int8)
    entries = [fingerprint_entry(*given, one) for given in ((b"a", 0), (b"a", 1), (b"b", 0))]
    assert len(set(commit(entries).levels[0])) == 3


def test_fingerprints_are_small_integers_of_the_nearest_step():
    found = quantise(np.array([[0.0, 0.49, -0.51, 3.2], [400.0, -400.0, 1.5, -1.5]]), 1.0)
    np.testing.assert_array_equal(found, [[0, 0, -1, 3], [127, -127, 2, -2]])
    assert found.dtype == np.int8


def test_challenges_hit_as_often_as_they_should():
    rng = np.random.default_rng(0)
    hits = [np.any(rng.permutation(30)[:5] < 4) for _ in range(4000)]
    assert catch_probability(30, 4, 5) == pytest.approx(np.mean(hits), abs=0.03)
    assert catch_probability(30, 0, 5) == 0 and catch_probability(30, 4, 27) == 1


def test_what_is_not_there_is_refused():
    with pytest.raises(InvalidConfig, match="entries"):
        commit([])
    with pytest.raises(InvalidConfig, match="index"):
        prove(commit(ENTRIES), 8)
    with pytest.raises(InvalidConfig, match="missing"):
        catch_probability(3, 4, 1)
