"""The generator against its law, and against two solvers written by hand: one looks at slots only, the other at classes only."""

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from lexinv.lexinvariance.part_of_speech import (
    COPULA,
    MASK,
    SETS,
    PosTask,
    among,
    cumulative,
    is_ambiguous,
    sample,
    slots,
    unambiguous,
    zipf,
)

TASK = PosTask(vocab=40, holdout=8, alpha=1.2, ambiguity=0.25, bins=5, head=3)
PLAIN = PosTask(vocab=40, holdout=8, alpha=1.2, ambiguity=0.0, bins=5, head=3)
COUNT = 4000


def draw(kind: str, task: PosTask = TASK, seed: int = 0):
    batch = sample(jax.random.key(seed), slots(task, kind), COUNT)
    return np.asarray(batch.tokens), np.asarray(batch.labels)


def in_slots(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(noun, adjective) by their place: [copula, a, n] or [n, copula, a]."""
    first = tokens[:, 0] == COPULA
    return np.where(first, tokens[:, 2], tokens[:, 0]), np.where(first, tokens[:, 1], tokens[:, 2])


def by_slot(tokens: np.ndarray) -> np.ndarray:
    """The answers of one who sees the slots and not what a token is."""
    _, adjective = in_slots(tokens)
    query = tokens[:, 3]
    return np.stack([adjective, query, query], axis=1)


def by_class(tokens: np.ndarray, task: PosTask = TASK) -> np.ndarray:
    """The answers of one who takes the query for what its id says: an adjective copies itself, a noun wants the other token first."""
    first, second = in_slots(tokens)
    query = tokens[:, 3]
    other = np.where(query == first, second, first)
    is_adjective = (query >= task.words) & (query < task.vocab)
    return np.stack([np.where(is_adjective, query, other), query, query], axis=1)


def right(answers: np.ndarray, labels: np.ndarray) -> float:
    return (answers == labels).all(axis=1).mean()


@pytest.mark.parametrize("kind", SETS)
def test_the_slots_solve_every_set(kind):
    tokens, labels = draw(kind)
    assert right(by_slot(tokens), labels) == 1.0


def test_the_classes_solve_what_is_not_ambiguous_and_fail_where_they_are_switched():
    assert right(by_class(*draw("val", PLAIN)[:1], PLAIN), draw("val", PLAIN)[1]) == 1.0
    for kind in ("switch", "tail_switch", "head_switch"):
        assert right(by_class(draw(kind, PLAIN)[0], PLAIN), draw(kind, PLAIN)[1]) == 0.0
    assert right(by_class(draw("holdout")[0]), draw("holdout")[1]) == pytest.approx(0.5, abs=0.05)


def test_grammar_query_and_masks():
    tokens, _ = draw("val")
    assert (tokens[:, 4:] == MASK).all()
    assert ((tokens[:, :3] == COPULA).sum(axis=1) == 1).all()
    assert (tokens[:, 2] != COPULA).all()
    noun, adjective = in_slots(tokens)
    asks_adjective = tokens[:, 3] == adjective
    assert (asks_adjective | (tokens[:, 3] == noun)).all()
    for share in (asks_adjective.mean(), (tokens[:, 0] == COPULA).mean()):
        assert share == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(COUNT))


def test_marginals_are_truncated_zipf():
    tokens, _ = draw("val", PLAIN)
    noun, adjective = in_slots(tokens)
    expected = COUNT * zipf(PLAIN.words, PLAIN.alpha)
    for drawn, begin in ((noun, 0), (adjective, PLAIN.words)):
        assert chisquare(np.bincount(drawn - begin, minlength=PLAIN.words), expected).pvalue > 1e-3
    wrong = COUNT * zipf(PLAIN.words, 1.5)
    assert chisquare(np.bincount(noun, minlength=PLAIN.words), wrong).pvalue < 1e-3


def test_ambiguous_tokens_are_a_share_of_every_bin():
    ambiguous = is_ambiguous(TASK)
    assert not ambiguous[TASK.vocab :].any()
    per_bin = ambiguous[: TASK.vocab].reshape(2 * TASK.bins, -1).sum(axis=1)
    np.testing.assert_array_equal(per_bin, np.ceil(0.25 * TASK.words / TASK.bins))


def test_an_ambiguous_noun_gives_way_half_of_the_time():
    law, before, ambiguous = slots(TASK, "val"), unambiguous(TASK), is_ambiguous(TASK)
    nouns = np.arange(TASK.types) < TASK.words
    np.testing.assert_allclose(law.noun[nouns & ambiguous], before.noun[nouns & ambiguous] / 2)
    np.testing.assert_allclose(law.noun[nouns & ~ambiguous], before.noun[nouns & ~ambiguous])
    strangers = law.noun[~nouns]
    assert strangers[~ambiguous[~nouns]].sum() == 0
    assert strangers.sum() == pytest.approx(before.noun[ambiguous].sum() / 2)
    assert law.noun.sum() == pytest.approx(1)


def test_held_out_tokens_never_occur_in_training():
    tokens, labels = draw("val")
    assert tokens.max() < TASK.vocab and labels.max() < TASK.vocab
    held, _ = draw("holdout")
    assert held[:, 3].min() >= TASK.vocab
    assert set(held[:, 3]) == set(range(TASK.vocab, TASK.types))


def test_tail_and_head_are_the_rarest_tenth_and_the_most_frequent():
    noun, adjective = in_slots(draw("tail")[0])
    assert set(noun) == {18, 19} and set(adjective) == {38, 39}
    noun, _ = in_slots(draw("head")[0])
    assert set(noun) == {0, 1, 2}


def test_bins_divide_the_words_by_frequency_and_ambiguity():
    seen = {kind: set(in_slots(draw(kind)[0])[0]) for kind in ("amb_1", "nonamb_1")}
    assert seen["amb_1"] | seen["nonamb_1"] == {4, 5, 6, 7}
    assert not seen["amb_1"] & seen["nonamb_1"]


def test_a_task_in_the_ids_of_a_larger_one_is_the_same_task():
    larger = PosTask(vocab=60, holdout=8)
    own = slots(TASK, "val")
    for small, large in zip(own, among(own, TASK, larger), strict=True):
        assert len(large) == larger.types
        np.testing.assert_array_equal(np.concatenate([large[:20], large[30:50], large[60:]]), small)
        assert large.sum() == pytest.approx(1.0)
    for kind in ("head_switch", "holdout"):
        tokens, labels = (
            np.asarray(part) for part in sample(jax.random.key(0), among(slots(TASK, kind), TASK, larger), 500)
        )
        ids = np.concatenate([np.arange(20), np.arange(30, 50), np.arange(60, 68)])
        plain, _ = (np.asarray(part) for part in sample(jax.random.key(0), slots(TASK, kind), 500))
        np.testing.assert_array_equal(tokens[plain >= 0], ids[plain[plain >= 0]])
        assert right(by_slot(tokens), labels) == 1.0


def test_no_draw_is_beyond_the_last_possible_token():
    found = cumulative(slots(TASK, "head"))
    for law in found:
        assert law.dtype == np.float32
        assert np.isinf(law[-1]) and (np.diff(law[np.isfinite(law)]) >= 0).all()
    np.testing.assert_allclose(found.noun[:2], [1 / 3, 2 / 3], rtol=1e-6)
    assert np.isinf(found.noun[2])
