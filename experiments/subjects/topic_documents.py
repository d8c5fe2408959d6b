"""Short documents that name several things, questions about two of them, and small encoders of tokens that find the one by the other.

A thing has two names, of which document and question choose freely, and stands in many documents; common words say nothing. One vector
hardly holds all that a document names, so that the vectors of its tokens matter.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Key

from experiments.harness.work import MapDataset, Params
from lexinv.nn.lexicon import embed
from lexinv.nn.linear import linear
from lexinv.nn.transformer import Transformer, TransformerConfig
from lexinv.training.streams import stream
from lexinv.validation import MOST, Checked, Count

IN_DOCUMENT, IN_QUERY = (12, 4, 8), (4, 2, 2)
"""Common words, words of the topic, and things, each named once."""
LENGTH, QUERY_LENGTH = sum(IN_DOCUMENT), sum(IN_QUERY)
NAMES = 2
"""Of a thing."""


@dataclass(frozen=True)
class TopicDocuments(Checked):
    """common, topic_words: words. asked: the first so many documents are those that training asks for, the others those
    that questions are judged on; all are searched."""

    documents: Count = 3000
    asked: Count = 2000
    common: Count = 60
    topics: Count = 40
    topic_words: Count = 6
    things: Count = 150

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.asked < self.documents, "asked", f"below documents = {self.documents}: others are judged on"
        yield self.things >= IN_DOCUMENT[2], "things", f"at least {IN_DOCUMENT[2]}, of a document"
        yield self.topic_words >= IN_QUERY[1], "topic_words", f"at least {IN_QUERY[1]}, of a question"

    @property
    def vocab(self) -> int:
        return self.common + self.topics * self.topic_words + self.things * NAMES


class Collection(NamedTuple):
    """tokens: of all documents. topics, things: what each is about."""

    tokens: Int32[np.ndarray, "documents length"]
    topics: Int[np.ndarray, " documents"]
    things: Int[np.ndarray, "documents named"]


@lru_cache(4)
def draw_collection(config: TopicDocuments, seed: int) -> Collection:
    """Topics and things are drawn evenly, no thing twice in a document."""
    rng, count = np.random.default_rng(seed), config.documents
    topics, things = rng.integers(0, config.topics, count), _some(rng, config.things, count, IN_DOCUMENT[2])
    words = rng.integers(0, config.topic_words, (count, IN_DOCUMENT[1]))
    return Collection(_written(rng, config, topics, words, things, IN_DOCUMENT[0]), topics, things)


def draw_queries(
    rng: np.random.Generator, config: TopicDocuments, collection: Collection, which: Int[np.ndarray, " queries"]
) -> Int32[np.ndarray, "queries query_length"]:
    """A question for each of these documents: different words of its topic, some of its things, common words."""
    words = _some(rng, config.topic_words, len(which), IN_QUERY[1])
    things = rng.permuted(collection.things[which], axis=1)[:, : IN_QUERY[2]]
    return _written(rng, config, collection.topics[which], words, things, IN_QUERY[0])


def _some(rng: np.random.Generator, of: int, rows: int, count: int) -> Int[np.ndarray, "rows count"]:
    """Different ones in each row."""
    return rng.permuted(np.tile(np.arange(of), (rows, 1)), axis=1)[:, :count]


def _written(
    rng: np.random.Generator, config: TopicDocuments, topics: Any, words: Any, things: Any, common: int
) -> Int32[np.ndarray, "texts length"]:
    """Words of topics, a name of each thing and so many common words, in random order."""
    first = config.common + config.topics * config.topic_words
    topical = config.common + topics[:, None] * config.topic_words + words
    named = first + NAMES * things + rng.integers(0, NAMES, things.shape)
    plain = rng.integers(0, config.common, (len(topics), common))
    return rng.permuted(np.concatenate([plain, topical, named], axis=1).astype(np.int32), axis=1)


def question_batches(config: TopicDocuments, batch: int, dispatch: int) -> Callable[[int], MapDataset]:
    """By seed, new questions to different documents and these: {"queries", "documents"}, leaves [dispatch, batch, ...]."""

    def of_seed(seed: int) -> MapDataset:
        import grain

        collection = draw_collection(config, seed)

        def drawn(index: int) -> dict[str, np.ndarray]:
            rng = np.random.default_rng((seed, index))
            which = np.stack([rng.choice(config.asked, batch, replace=False) for _ in range(dispatch)])
            queries = draw_queries(rng, config, collection, which.ravel()).reshape(dispatch, batch, QUERY_LENGTH)
            return {"queries": queries, "documents": collection.tokens[which]}

        return grain.MapDataset.range(MOST // dispatch).map(drawn)

    return of_seed


def initialize(model: TransformerConfig, vocab: int, out: int, key: Key[Array, ""]) -> Params:
    """Weights of `encode`."""
    empty = jnp.zeros((1, 1, model.width))
    return {
        "table": 0.02 * jax.random.normal(stream(key, "table"), (vocab, model.width)),
        "transformer": Transformer(model).init(stream(key, "transformer"), empty)["params"],
        "readout": jax.random.normal(stream(key, "readout"), (model.width, out)) / model.width**0.5,
    }


def encode(
    model: TransformerConfig, params: Params, tokens: Int[Array, "batch time"]
) -> Float[Array, "batch time out"]:
    """A unit vector of each token in its context."""
    hidden, _ = Transformer(model).apply({"params": params["transformer"]}, embed(params["table"], tokens))
    vectors = linear(hidden, params["readout"])
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


@partial(jax.jit, static_argnums=0)
def encode_all(model: TransformerConfig, params: Params, tokens: Int[Array, "texts time"]) -> Any:
    """As `encode`, some texts at a time."""
    return jax.lax.map(lambda row: encode(model, params, row[None])[0], tokens, batch_size=256)
