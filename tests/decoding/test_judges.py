"""Judges: the parser's cases, prompts that are not read again, and agreement against scipy and scikit-learn; overlap against sacrebleu."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import roc_auc_score

from lexinv.decoding.judges import expected_score, meta_evaluation, parse_score, render
from lexinv.decoding.ngram_overlap import bleu, chrf
from lexinv.validation import InvalidConfig

NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("3", 3),
        (" 0\n", 0),
        ("Score: 3/4", 3),
        ("I would give 2 out of 4", 2),
        ("(4)", 4),
        ("1. The code loops 7 times.\n2. It misses 1 case.\nScore: 3\nSo the final score is 3 out of 4.", 3),
        ("On a scale of 0 to 4 I rate it 1.", 1),
        ("4 tests pass.\nNothing else.", NAN),
        ("", NAN),
        ("N/A", NAN),
        ("score: 10", NAN),
        ("score: -3", NAN),
        ("v2", NAN),
    ],
)
def test_scores_are_read_and_what_has_none_is_not_zero(text, score):
    np.testing.assert_equal(parse_score(text), score)


def test_prompts_hold_what_is_put_in_as_it_is():
    code = "print('{compared} {0} {{OUTPUT}}', '%s')"
    shared, tail = render("Say {problem}.", code, "x = {reference}")
    assert "Say {problem}." in shared and "x = {reference}" in shared and code in tail
    assert tail.endswith("(scores ONLY):") and "{compared}" not in shared and "and to the reference code" in shared
    assert "eference" not in render("Say it.", code)[0]


def test_expected_scores_lie_between_the_scores():
    np.testing.assert_allclose(expected_score(jnp.array([-90.0, -90, -90, -90, 0])), 4, atol=1e-6)
    np.testing.assert_allclose(expected_score(jnp.zeros((2, 5)) - 7), 2, rtol=1e-6)
    np.testing.assert_allclose(expected_score(jnp.log(jnp.array([0.2, 0.0, 0.0, 0.0, 0.2]))), 2, rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 5])
def test_agreement_is_that_of_scipy_and_scikit_learn(levels):
    generator = np.random.default_rng(levels)
    gold, scores = generator.integers(0, 2, (30, 8)), generator.integers(0, levels, (30, 8)).astype(float)
    gold[0], scores[1] = 1, 3.0
    gold[1, :2] = 0, 1
    scores[2, 3] = NAN
    found, zero = (meta_evaluation(gold, scores, kind) for kind in ("dropped", "zero"))
    for row in range(30):
        kept = ~np.isnan(scores[row])
        g, s = gold[row, kept], scores[row, kept]
        if len(set(g)) == 1:
            assert math.isnan(found.auc[row]) and math.isnan(zero.tau[row]) and not found.undefined[row]
            continue
        np.testing.assert_allclose(found.tau[row], kendalltau(g, s).statistic, rtol=1e-9)
        np.testing.assert_allclose(found.auc[row], roc_auc_score(g, s), rtol=1e-9)
    assert found.undefined[1] and found.auc[1] == 0.5 and math.isnan(found.tau[1]) and zero.tau[1] == 0
    order = generator.permutation(8)
    moved = meta_evaluation(gold[:, order], np.exp(scores[:, order]))
    np.testing.assert_allclose(moved.tau, found.tau)


def test_constant_gold_and_unlike_shapes_are_refused():
    with pytest.raises(InvalidConfig, match="gold"):
        meta_evaluation(np.ones((2, 3)), np.arange(6.0).reshape(2, 3))
    with pytest.raises(InvalidConfig, match="gold"):  # what is left of it when the unparsable one is left out
        meta_evaluation(np.array([[1, 1, 0]]), np.array([[1, 2, NAN]]))
    with pytest.raises(InvalidConfig, match="scores"):
        meta_evaluation(np.array([[1, 0]]), np.zeros((1, 3)))


def test_overlap_by_hand():
    """Of `the cat sat` against `the cat sat down`: all precisions 1, brevity exp(1 - 4/3); of chrF's bigrams `ab` of `abc`."""
    np.testing.assert_allclose(bleu(["the cat sat".split()], ["the cat sat down".split()]), 100 * math.exp(1 - 4 / 3))
    found = bleu(["a b c d".split()], ["a b x d".split()])  # precisions 3/4, 1/3, then smoothed 1/4 and 1/4
    np.testing.assert_allclose(found, 100 * (3 / 4 * 1 / 3 * 1 / (2 * 2) * 1 / (4 * 1)) ** 0.25)
    assert bleu(["ab"], ["ab"]) == pytest.approx(100) and chrf("x = 1", "x=1") == pytest.approx(100)
    assert bleu(["a"], ["b"]) == chrf("a", "b") == chrf("", "a") == 0
    np.testing.assert_allclose(chrf("ab", "abc"), 100 * 5 * 1 * 7 / 12 / (4 * 1 + 7 / 12))


@pytest.mark.parity
def test_overlap_is_that_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    generator = np.random.default_rng(0)
    texts = [
        [["abc"[i] for i in generator.integers(0, 3, size)] for size in generator.integers(1, 12, 40)] for _ in "ab"
    ]
    ours, theirs = [[" ".join(text) for text in side] for side in texts]
    whole = sacrebleu.corpus_bleu(ours, [theirs], tokenize="none", force=True).score
    np.testing.assert_allclose(bleu(*texts), whole, rtol=1e-9)
    for text, reference, one, other in zip(*texts, ours, theirs, strict=True):
        single = sacrebleu.sentence_bleu(one, [other], tokenize="none")
        np.testing.assert_allclose(bleu([text], [reference]), single.score, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(chrf(one, other), sacrebleu.sentence_chrf(one, [other]).score, rtol=1e-9, atol=1e-9)
