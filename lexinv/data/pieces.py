"""Byte strings in their order, in which those with a given prefix are one range."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from lexinv.validation import InvalidConfig, require


@dataclass(frozen=True, eq=False)
class Pieces:
    """strings: sorted, all different, none empty. ids: of each, such as a tokenizer's."""

    strings: tuple[bytes, ...]
    ids: Int32[np.ndarray, " pieces"]

    def with_prefix(self, prefix: bytes) -> tuple[int, int]:
        """[low, high): the places of the strings that begin with `prefix`."""
        low = bisect_left(self.strings, prefix)
        kept = prefix.rstrip(b"\xff")  # the first string after all of them ends in a larger byte
        if not kept:
            return low, len(self.strings)
        return low, bisect_left(self.strings, kept[:-1] + bytes([kept[-1] + 1]), low)

    def longest(self, data: bytes, start: int = 0) -> int | None:
        """The place of the longest string that `data` has at `start`, None where there is none."""
        found, low, high = None, 0, len(self.strings)
        for end in range(start + 1, len(data) + 1):
            low = bisect_left(self.strings, data[start:end], low, high)
            if low == high or not self.strings[low].startswith(data[start:end]):
                break
            if len(self.strings[low]) == end - start:
                found = low
        return found

    def encode(self, data: bytes) -> Int32[np.ndarray, " tokens"]:
        """The ids of greedy longest match. Raises `InvalidConfig` for bytes that no string covers."""
        found, at = [], 0
        while at < len(data):
            place = self.longest(data, at)
            if place is None:
                raise InvalidConfig(f"data[{at}]", data[at : at + 1], "bytes that some piece begins with")
            found.append(place)
            at += len(self.strings[place])
        return self.ids[np.array(found, np.int64)]


def sort_pieces(by_id: Sequence[bytes]) -> Pieces:
    """The pieces of a tokenizer by id; empty ones (separators) are left out. Of equal ones the first is kept.

    Raises `InvalidConfig` where none is left.
    """
    ids: dict[bytes, int] = {}
    for number, piece in enumerate(by_id):
        if piece:
            ids.setdefault(piece, number)
    require(len(ids) > 0, "pieces", len(by_id), "some that are not empty")
    strings = tuple(sorted(ids))
    return Pieces(strings, np.array([ids[string] for string in strings], np.int32))
