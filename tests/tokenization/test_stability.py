"""What errors do to boundaries, by hand, and what corruption does to a text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexinv.tokenization.stability import corrupt, edit_distance, stability
from lexinv.validation import InvalidConfig


def words(text: str) -> list[str]:
    return [part for part in text.replace(" ", " \0").split("\0") if part]


def test_by_hand():
    same = np.arange(8)
    assert stability(words, "a bc de", "a bc de", same) == (1, 1)
    # b becomes a space: the boundary after "a " stays, one is new behind it; tokens "bc " become " ", "c ".
    assert stability(words, "a bc de", "a  c de", same) == (pytest.approx(2 / 3), 2)
    # The first space is lost: its boundary with it, and two tokens become one.
    lost = np.array([0, 1, 1, 2, 3, 4, 5, 6])
    assert stability(words, "a bc de", "abc de", lost) == (pytest.approx(1 / 2), 2)


@given(st.text("abc d", min_size=1, max_size=30), st.integers(0, 99), st.floats(0, 1))
def test_corruption_is_aligned(text, seed, rate):
    corrupted, alignment = corrupt(np.random.default_rng(seed), text, rate)
    assert alignment[0] == 0 and alignment[-1] == len(corrupted) and np.all(np.diff(alignment) >= 0)
    assert set(corrupted) <= set(text) | {" "}
    if rate == 0:
        assert corrupted == text
    # Where every character is a token, nothing but the text itself changes.
    jaccard, amplification = stability(list, text, corrupted, alignment)
    assert jaccard == 1 and amplification == 1


def test_the_rate_is_that_of_errors_and_all_kinds_occur():
    text = "abcdefghij" * 1000
    corrupted, alignment = corrupt(np.random.default_rng(0), text, 0.1)
    kinds = np.diff(alignment)
    assert 200 < np.sum(kinds == 0) < 300 and 200 < np.sum(kinds == 2) < 300
    assert corrupted.count("ba") > 10 and " " in corrupted


def slowly(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    least = min(slowly(one[1:], other), slowly(one, other[1:])) + 1
    return min(least, slowly(one[1:], other[1:]) + (one[0] != other[0]))


@given(st.text("ab", max_size=5), st.text("abc", max_size=5))
def test_edit_distance(one, other):
    assert edit_distance(one, other) == slowly(one, other)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: corrupt(np.random.default_rng(0), "a", 1.5), "rate"),
        (lambda: corrupt(np.random.default_rng(0), "", 0.5), "text"),
        (lambda: stability(list, "abc", "abc", np.arange(3)), "alignment"),
    ],
)
def test_refusals(call, field):
    with pytest.raises(InvalidConfig, match=field):
        call()
