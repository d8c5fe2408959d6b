"""The lexicon that is learned by reading: longest match, the comparison of two paths, moves, and what it finds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexinv.tokenization import less_is_better
from lexinv.tokenization.less_is_better import LessIsBetter, course, is_better, learn, longest, pieces, read, update
from lexinv.validation import InvalidConfig

PLANTED = "zyxw"
FEW = LessIsBetter(documents=15, sentences=20)


def sentences(count: int = 100) -> list[str]:
    """Letters at random around what every sentence has."""
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuv"), (count, 6))
    return ["".join(row[:3]) + PLANTED + "".join(row[3:]) for row in letters]


@given(st.text("abc", max_size=12), st.sets(st.text("abc", min_size=1, max_size=4)), st.integers(1, 4))
def test_longest_is_the_longest_of_all_prefixes(sentence, lexicon, most):
    for at in range(len(sentence)):
        fitting = [entry for entry in lexicon if len(entry) <= most and sentence.startswith(entry, at)]
        assert longest(sentence, at, dict.fromkeys(lexicon, 0), most) == max(fitting, key=len, default="")


@pytest.mark.parametrize(
    ("order", "sentence", "other_is_better"),
    [
        ("a bc c ab", "abc", True),  # ab c against a bc: two each, ranks 3 + 2 against 0 + 1
        ("ab c a bc", "abc", False),
        ("ab a bcd c d", "abcd", True),  # ab c d against a bcd: three against two
        ("ab a bc", "abc", True),  # c is unknown after ab
        ("ab a b c", "abc", False),  # ab against a b, which meet before c
    ],
)
def test_paths_are_compared_by_unknowns_then_tokens_then_ranks(order, sentence, other_is_better):
    entries, config = order.split(), LessIsBetter(memorise=0.0)
    life = {"ab": 3}
    moves = read([sentence], entries, life, np.random.default_rng(0), config)
    assert moves[:2] == [("ab", 1), ("a", -1)] if other_is_better else moves[0] == ("ab", -1)
    assert ("ab" in life) == other_is_better  # what reads better is no longer on probation


def test_a_path_may_meet_the_other_only_at_the_end():
    rank = {entry: place for place, entry in enumerate(["ab", "a", "bc", "cd", "de", "e"])}
    # ab cd e against a bc de: three each, and no place before the end where both stand; ranks 0 + 3 + 5 against 1 + 2 + 4
    assert is_better("a", 0, "abcde", [0, 2, 4, 5], ["ab", "cd", "e"], rank, 12)


def test_moves_are_a_share_of_the_rank_and_the_tail_falls_out():
    config, ten = LessIsBetter(rate=0.2, life=2), list("abcdefghij")
    life: dict[str, int] = {}
    assert update(ten, [("j", -1)], life, config) == list("abcdefgjhi")  # int(.2 * 9) + 1 = 2 places
    assert life == {"i": 2}  # the last one is on probation
    assert update(ten, [("a", 1), ("f", 1)], {}, config) == list("abcdeghfij")
    assert update(ten, [("j", 1)], {}, config) == list("abcdefghi")
    assert update(ten, [], {"c": 1, "d": 2}, config) == list("abdefghij")


def test_neighbours_seen_twice_in_a_document_become_an_entry():
    always = LessIsBetter(memorise=1.0, most_characters=3)
    order = ["a", "b"]
    read(["ab"], order, {}, np.random.default_rng(0), always)
    assert order == ["a", "b"]
    read(["ab", "ab"], order, {}, np.random.default_rng(0), always)
    assert order == ["a", "b", "ab"]
    read(["xxa", "xxa", "yyya", "yyya"], order, {}, np.random.default_rng(0), always)
    assert order == ["a", "b", "ab", "xx"]  # two unknown characters, not three


def test_without_memory_the_lexicon_never_grows_and_draws_decide_the_rest():
    forgetful = LessIsBetter(documents=8, sentences=10, memorise=0.0)
    sizes = [len(entries) for entries in course(sentences(), np.random.default_rng(0), forgetful)]
    assert all(later <= earlier for earlier, later in pairwise(sizes))
    few = LessIsBetter(documents=5, sentences=10)
    first, again, other = (learn(sentences(), np.random.default_rng(seed), few) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == len(first) and max(map(len, first)) <= few.most_characters


def test_what_every_sentence_has_ranks_high_and_any_text_is_encoded_without_loss():
    lexicon = learn(sentences(), np.random.default_rng(0), FEW)
    assert lexicon.index(PLANTED) < 0.05 * len(lexicon)
    found = pieces(lexicon)
    by_id = dict(zip(found.ids.tolist(), found.strings, strict=True))
    for text in ("abzyxwcd", "naïve 日本\n", ""):
        assert b"".join(by_id[number] for number in found.encode(text.encode()).tolist()) == text.encode()
    assert len(found.encode(b"zyxwzyxw")) == 2


@pytest.mark.parametrize(
    ("change", "field"), [({"documents": 0}, "documents"), ({"memorise": 1.5}, "memorise"), ({"rate": 0.0}, "rate")]
)
def test_refused_settings(change, field):
    with pytest.raises(InvalidConfig, match=field):
        LessIsBetter(**change)


def test_no_text_is_refused():
    with pytest.raises(InvalidConfig, match="sentences"):
        less_is_better.learn(["", ""], np.random.default_rng(0))
