"""Documents that hold what questions ask for, a search of them against loops, and unit vectors in context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.subjects.token_search import bm25_scores, reciprocal_ranks, searched
from experiments.subjects.topic_documents import (
    IN_DOCUMENT,
    IN_QUERY,
    LENGTH,
    NAMES,
    QUERY_LENGTH,
    TopicDocuments,
    draw_collection,
    draw_queries,
    encode_all,
    initialize,
    question_batches,
)
from lexinv.nn.transformer import TransformerConfig

CONFIG = TopicDocuments(documents=30, asked=20)
FIRST = CONFIG.common + CONFIG.topics * CONFIG.topic_words


def named(tokens):
    """The things and topics in a text."""
    things = {int(token - FIRST) // NAMES for token in tokens if token >= FIRST}
    topics = {int(token - CONFIG.common) // CONFIG.topic_words for token in tokens if CONFIG.common <= token < FIRST}
    return things, topics


def test_questions_name_what_is_in_their_document():
    collection = draw_collection(CONFIG, 0)
    which = np.arange(30)
    queries = draw_queries(np.random.default_rng(1), CONFIG, collection, which)
    assert collection.tokens.shape == (30, LENGTH) and queries.shape == (30, QUERY_LENGTH)
    assert collection.tokens.max() < CONFIG.vocab
    for document, query in zip(collection.tokens, queries, strict=True):
        (things, topics), (asked, topic) = named(document), named(query)
        assert len(things) == IN_DOCUMENT[2] and len(asked) == IN_QUERY[2] and asked < things
        assert topic == topics and len(topic) == 1
        assert (query < CONFIG.common).sum() == IN_QUERY[0]


def test_training_asks_for_different_documents_of_the_first():
    batch = question_batches(CONFIG, 8, 3)(0)[5]
    assert batch["queries"].shape == (3, 8, QUERY_LENGTH)
    tokens = draw_collection(CONFIG, 0).tokens[:20]
    for rows in batch["documents"]:
        places = [int(np.flatnonzero((tokens == row).all(axis=1))[0]) for row in rows]
        assert len(set(places)) == 8


def test_words_find_a_document_by_itself():
    tokens = draw_collection(CONFIG, 0).tokens
    assert (bm25_scores(tokens, tokens[:, :QUERY_LENGTH]).argmax(axis=1) == np.arange(30)).all()


def test_equal_scores_count_as_before_the_right_one():
    scores = jnp.asarray([[0.5, 0.9, 0.5], [0.5, 0.9, 0.1], [-jnp.inf, 0.0, 1.0]])
    np.testing.assert_allclose(reciprocal_ranks(scores, jnp.asarray([0, 1, 0])), [1 / 3, 1, 0])
    assert reciprocal_ranks(jnp.arange(12.0)[None], jnp.asarray([1]))[0] == 0  # the eleventh


def test_a_search_is_what_loops_give():
    random = np.random.default_rng(0)
    queries, documents = (jnp.asarray(random.normal(size=(rows, 3, 4)), jnp.float32) for rows in (2, 5))
    found, places = searched(queries, documents, jnp.asarray([0, 3]), (4, 15))
    for q, gold in enumerate((0, 3)):
        products = np.asarray(queries[q]) @ np.asarray(documents).reshape(15, 4).T
        np.testing.assert_array_equal(places[q], np.argsort(-products, axis=1))
        whole = products.reshape(3, 5, 3).max(axis=2).mean(axis=0)
        rank = 1 + (whole > whole[gold]).sum()
        assert found["whole"][q] == found["last"][q, 1] == pytest.approx(1 / rank)
        owners = np.argsort(-products, axis=1)[:, :4] // 3
        assert found["found"][q, 0] == pytest.approx(12 / len(np.unique(owners)))


def test_tokens_have_unit_vectors_that_depend_on_their_context():
    model = TransformerConfig(depth=1, width=16, heads=2, mlp_width=32, causal=False, max_length=LENGTH)
    params = initialize(model, CONFIG.vocab, 8, jax.random.key(0))
    tokens = jnp.asarray(draw_collection(CONFIG, 0).tokens[:2])
    vectors = encode_all(model, params, tokens)
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1.0, rtol=1e-5)
    other = encode_all(model, params, tokens.at[:, -1].set(0))
    assert (jnp.abs(vectors - other).max(axis=-1) > 1e-4).all()
