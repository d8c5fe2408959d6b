"""Late interaction against dictionaries and loops, the paper's own example, its gradients and its table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sequence.late_interaction import (
    colbert_score,
    contrastive_loss,
    retrieve,
    retrieved_score,
    scoring_operations,
    token_similarities,
    xtr_score,
)
from lexinv.validation import InvalidConfig

N, M, WIDTH, DOCUMENTS = 3, 5, 6, 7


def unit(random, *shape):
    vectors = random.normal(size=shape)
    return jnp.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), jnp.float32)


@pytest.fixture(scope="module")
def world():
    random = np.random.default_rng(0)
    queries, documents = unit(random, DOCUMENTS, N, WIDTH), unit(random, DOCUMENTS, M, WIDTH)
    there = jnp.asarray(np.arange(M)[None] < np.array([5, 4, 3, 5, 1, 5, 2])[:, None])
    asked = jnp.asarray(np.arange(N)[None] < np.array([3, 3, 2, 3, 3, 1, 3])[:, None])
    return queries, documents, there, asked


def by_hand(queries, documents, there, asked, k):
    """XTR's training score with dictionaries, a query token after the other."""
    scores = np.zeros((len(queries), len(documents)))
    for q, query in enumerate(np.asarray(queries)):
        found = {}
        for i in np.flatnonzero(asked[q]):
            products = [
                (float(query[i] @ documents[c, j]), c) for c in range(len(documents)) for j in range(M) if there[c, j]
            ]
            for product, c in sorted(products, reverse=True)[:k]:
                if product > 0:
                    found.setdefault(c, {}).setdefault(i, product)
        for c, best in found.items():
            scores[q, c] = sum(best.values()) / len(best)
    return scores


@pytest.mark.parametrize("k", [1, 4, 11])
def test_xtr_is_what_dictionaries_give(world, k):
    queries, documents, there, asked = world
    found = xtr_score(token_similarities(queries, documents, there), asked, k)
    np.testing.assert_allclose(found, by_hand(queries, documents, there, asked, k), atol=1e-5)


def test_with_all_tokens_xtr_is_colbert():
    random = np.random.default_rng(1)
    queries, documents = (jnp.abs(unit(random, 2, size, WIDTH)) for size in (N, M))  # all similarities above 0
    similar = token_similarities(queries, documents, jnp.ones((2, M), bool))
    asked = jnp.ones((2, N), bool)
    np.testing.assert_allclose(xtr_score(similar, asked, 2 * M), colbert_score(similar, asked), atol=1e-6)


def test_colbert_does_not_see_what_xtr_is_for():
    """All best tokens of the right document at 0.8, and of each other document one token above and the rest at 0 (section 3.1)."""
    similar = np.zeros((N, 1 + N, N, M))
    similar[:, 0, :, 0] = 0.8
    for other in range(N):
        similar[:, 1 + other, other, 0] = 0.9
    similar, asked = jnp.asarray(similar, jnp.float32), jnp.ones((N, N), bool)
    scores = colbert_score(similar, asked)[0] / 0.05
    assert -jax.nn.log_softmax(scores)[0] < 0.05
    assert xtr_score(similar, asked, 1)[0, 0] == 0
    assert xtr_score(similar, asked, 1)[0, 1] == pytest.approx(0.9)


def test_gradients_are_the_papers(world):
    """-(1 - p) / Z for what the right document was found by, p / Z for others' (section 3.3)."""
    queries, documents, there, asked = world
    similar, temperature = token_similarities(queries, documents, there), 0.5
    gradient = jax.grad(lambda s: contrastive_loss(xtr_score(s, asked, 6), temperature))(similar)
    probs = jax.nn.softmax(xtr_score(similar, asked, 6) / temperature)
    for q in range(DOCUMENTS):
        for c in range(DOCUMENTS):
            used = np.asarray(gradient[q, c])
            tokens = int((used != 0).any(axis=-1).sum())
            if tokens:
                expected = (float(probs[q, c]) - (q == c)) / tokens / temperature / DOCUMENTS
                np.testing.assert_allclose(used[used != 0], expected, rtol=1e-4)
    assert (np.asarray(gradient) != 0).sum() > DOCUMENTS


def test_padding_changes_nothing(world):
    queries, documents, there, asked = world
    huge = jnp.where(there[..., None], documents, 1e6)
    other = jnp.where(asked[..., None], queries, -queries)
    for score in (colbert_score, lambda s, mask: xtr_score(s, mask, 6)):
        plain, padded = (
            score(token_similarities(q, d, there), asked) for q, d in ((queries, documents), (other, huge))
        )
        np.testing.assert_array_equal(plain, padded)


def test_documents_may_come_in_any_order_and_twice(world):
    queries, documents, there, asked = world
    order = np.random.default_rng(2).permutation(DOCUMENTS)
    plain = xtr_score(token_similarities(queries, documents, there), asked, 6)
    moved = xtr_score(token_similarities(queries, documents[order], there[order]), asked, 6)
    np.testing.assert_allclose(moved, plain[:, order], atol=1e-6)
    twice = jnp.asarray([0, 0, 1])
    found = xtr_score(token_similarities(queries, documents[twice], there[twice]), asked, 3)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


def scored(world, query, k, imputation="last"):
    queries, documents, there, asked = world
    owners = jnp.asarray(np.repeat(np.arange(DOCUMENTS), M)[np.asarray(there).ravel()], jnp.int32)
    near, places = retrieve(queries[query], documents.reshape(-1, WIDTH)[np.asarray(there).ravel()], k)
    return retrieved_score(near, owners[places], DOCUMENTS, asked[query], imputation)


def test_all_tokens_retrieved_need_no_gathering(world):
    full = colbert_score(token_similarities(*world[:3]), world[3])
    total = int(world[2].sum())
    found = jnp.stack([scored(world, query, total) for query in range(DOCUMENTS)])
    np.testing.assert_allclose(found, full, atol=1e-6)


def test_imputed_scores_are_bounds_that_tighten(world):
    full = np.asarray(colbert_score(token_similarities(*world[:3]), world[3]))
    before = np.full((DOCUMENTS, DOCUMENTS), np.inf)
    for k in (2, 5, 12, 20):
        found = np.stack([scored(world, query, k) for query in range(DOCUMENTS)])
        candidates = np.isfinite(found)
        assert candidates.any() and (found >= full - 1e-6)[candidates].all()
        assert (found <= before + 1e-6)[candidates].all()
        before = np.where(candidates, found, before)


def test_a_token_that_found_nothing_counts_as_told():
    near, owners = jnp.asarray([[0.9, 0.5], [0.8, 0.6]]), jnp.asarray([[0, 1], [0, 0]])
    asked = jnp.ones(2, bool)
    expected = {"last": [0.85, 0.55], "none": [0.85, 0.5], 0.2: [0.85, 0.35]}
    for imputation, scores in expected.items():
        found = retrieved_score(near, owners, 3, asked, imputation)
        np.testing.assert_allclose(found, [*scores, -np.inf], atol=1e-6)
    alone = retrieved_score(near, owners, 3, jnp.asarray([False, True]))
    np.testing.assert_allclose(alone, [0.8, -np.inf, -np.inf], atol=1e-6)


def test_operations_are_those_of_table_1():
    gathered, retrieved = scoring_operations(16, 100, 128, 55.0, 2.5)
    assert (gathered, retrieved) == (pytest.approx(0.3619e9, rel=1e-3), pytest.approx(0.0896e6, rel=1e-3))


def test_bad_input_is_refused(world):
    queries, documents, there, asked = world
    similar = token_similarities(queries, documents, there)
    for k in (0, DOCUMENTS * M + 1):
        with pytest.raises(InvalidConfig, match="k = "):
            xtr_score(similar, asked, k)
        with pytest.raises(InvalidConfig, match="k = "):
            retrieve(queries[0], documents.reshape(-1, WIDTH), k)
    with pytest.raises(InvalidConfig, match="temperature"):
        contrastive_loss(jnp.eye(2), 0.0)
