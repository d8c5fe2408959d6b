"""A collection searched by the vectors of its tokens, and by words: what is found, and how high up the right document comes."""

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lexinv.sequence.late_interaction import Imputation, colbert_score, retrieve, retrieved_score, token_similarities
from lexinv.validation import InvalidConfig

IMPUTED: dict[str, Imputation] = {"last": "last", "zero": 0.0, "nothing": "none"}
BEST = 10
"""Ranks that count in the mean reciprocal rank."""


@partial(jax.jit, static_argnums=3)
def searched(
    queries: Float[Array, "queries n width"],
    documents: Float[Array, "documents m width"],
    gold: Int[Array, " queries"],
    retrieved: tuple[int, ...],
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Of each question reciprocal ranks, by all tokens and, by imputation, by so many retrieved ones, and by how many of these a candidate
    was found; and which tokens were retrieved."""
    there, asked = jnp.ones(documents.shape[:2], bool), jnp.ones(queries.shape[1], bool)
    tokens = documents.reshape(-1, documents.shape[-1])

    def one(each: tuple[jax.Array, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
        query, right = each
        near, places = retrieve(query, tokens, max(retrieved))
        owners = places // documents.shape[1]
        scores = {
            name: jnp.stack(
                [retrieved_score(near[:, :k], owners[:, :k], len(documents), asked, how) for k in retrieved]
            )
            for name, how in IMPUTED.items()
        }
        scores["whole"] = colbert_score(token_similarities(query[None], documents, there), asked[None])
        ranks = {name: reciprocal_ranks(found, jnp.full(len(found), right)) for name, found in scores.items()}
        candidates = jnp.sum(jnp.isfinite(scores["last"]), axis=1)
        ranks["found"] = len(query) * jnp.asarray(retrieved) / candidates
        return ranks | {"whole": ranks["whole"][0]}, places

    return jax.lax.map(one, (queries, gold))


def reciprocal_ranks(
    scores: Float[Array, "questions documents"], gold: Int[Array, " questions"]
) -> Float[Array, " questions"]:
    """Of the right documents, 0 below the first `BEST`; documents of equal score count as before the right one."""
    own = jnp.take_along_axis(scores, gold[:, None], axis=1)
    ranks = jnp.sum(scores >= own, axis=1)
    return jnp.where((ranks <= BEST) & jnp.isfinite(own[:, 0]), 1 / ranks, 0.0)


def bm25_scores(
    documents: Int[np.ndarray, "documents length"], queries: Int[np.ndarray, "queries query_length"]
) -> Float[np.ndarray, "queries documents"]:
    """Of the usual search by words. Raises `InvalidConfig` where bm25s is not installed."""
    try:
        import bm25s
    except ModuleNotFoundError:
        raise InvalidConfig("package", "bm25s", 'it searches by words: pip install "lexinv[corpora]"') from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every step
    search = bm25s.BM25()
    search.index([list(map(str, row)) for row in documents], show_progress=False)
    return np.stack([search.get_scores(list(map(str, row))) for row in queries])
