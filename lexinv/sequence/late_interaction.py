"""Retrieval by the vectors of single tokens: scores of late interaction, and training for the search that comes before them.

Khattab and Zaharia 2020 (ColBERT), Lee et al. 2023 (XTR, arXiv 2304.01982); method card xtr. A query of n tokens and a document of m have
unit vectors; P_ij is their product. Scores are means of such products, in [-1, 1].
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lexinv.validation import require

Imputation = Literal["last", "none"] | float
"""What stands for the similarity of a query token of which a document's tokens were not retrieved: that of the last token that was, a
number, or nothing: the mean is then of the others."""
FEWEST = 1e-3
"""What Z is at least."""


def token_similarities(
    queries: Float[Array, "queries n width"],
    documents: Float[Array, "documents m width"],
    mask: Bool[Array, "documents m"],
) -> Float[Array, "queries documents n m"]:
    """P_ij of every query with every document; -inf for tokens that the mask leaves out, which nobody finds then."""
    similar = jnp.einsum("qnd,cmd->qcnm", queries, documents, preferred_element_type=jnp.float32)
    return jnp.where(mask[None, :, None], similar, -jnp.inf)


def colbert_score(
    similarities: Float[Array, "queries documents n m"], mask: Bool[Array, "queries n"]
) -> Float[Array, "queries documents"]:
    """(1 / n) sum_i max_j P_ij over the query's tokens that `mask` names, at least one; every document has a token."""
    return _mean(jnp.max(similarities, axis=-1), jnp.broadcast_to(mask[:, None], similarities.shape[:3]), 1.0)


def xtr_score(
    similarities: Float[Array, "queries documents n m"], mask: Bool[Array, "queries n"], k: int
) -> Float[Array, "queries documents"]:
    """(1 / Z) sum_i max_j A_ij P_ij: A_ij is 1 for the k nearest of all documents' tokens to query token i, Z the number of query tokens
    that found one of the document's (section 3.2).

    No gradient goes through A; tokens as near as the k-th count as found. A document of which nothing is found scores 0, and so does a
    similarity below 0, as in the paper. Raises `InvalidConfig` where k is not from 1 to the number of the documents' tokens.
    """
    queries, documents, n, m = similarities.shape
    require(1 <= k <= documents * m, "k", k, f"1 to {documents * m}, the tokens of all documents")
    each = jax.lax.stop_gradient(similarities).transpose(0, 2, 1, 3).reshape(queries, n, documents * m)
    least = jax.lax.top_k(each, k)[0][..., -1][:, None, :, None]
    best = jnp.max(jnp.where(similarities >= least, similarities, 0.0), axis=-1, initial=0.0)
    return _mean(best, (best > 0) & mask[:, None], FEWEST)


def _mean(values: Array, counted: Array, fewest: float) -> Array:
    """Over the last axis, of those that count; divided by `fewest` at least."""
    number = jnp.sum(counted, axis=-1).astype(values.dtype)
    return jnp.sum(jnp.where(counted, values, 0.0), axis=-1) / jnp.maximum(number, fewest)


def contrastive_loss(scores: Float[Array, "batch batch"], temperature: float) -> Float[Array, ""]:
    """Nats to find each query's document, on the diagonal, among those of the batch.

    Raises `InvalidConfig` for a temperature that is not positive.
    """
    require(temperature > 0, "temperature", temperature, "a positive number")
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores / temperature, axis=-1)))


def retrieve(
    query: Float[Array, "n width"], tokens: Float[Array, "tokens width"], k: int
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """(similarities, indices) of the k nearest tokens of a whole corpus to each token of a query, the nearest first.

    Raises `InvalidConfig` where k is not from 1 to the number of tokens.
    """
    require(1 <= k <= len(tokens), "k", k, f"1 to {len(tokens)}, the tokens of the corpus")
    near, places = jax.lax.top_k(query @ tokens.T, k)
    return near, places


def retrieved_score(
    similarities: Float[Array, "n k"],
    owners: Int[Array, "n k"],
    documents: int,
    mask: Bool[Array, " n"],
    imputation: Imputation = "last",
) -> Float[Array, " documents"]:
    """The score by the retrieved tokens alone, the nearest first, so that no document has to be fetched (equations 5 and 6).

    owners: the document of each retrieved token. Documents of which none was retrieved are at -inf. With all tokens of the corpus it is
    `colbert_score`; with fewer, and "last", at least that.
    """
    rows = jnp.broadcast_to(jnp.arange(len(owners))[:, None], owners.shape)
    found = jnp.full((len(owners), documents), -jnp.inf).at[rows, owners].max(similarities)
    there = (found > -jnp.inf) & mask[:, None]
    if imputation == "none":
        score = _mean(found.T, there.T, 1.0)
    else:
        missing = similarities[:, -1:] if imputation == "last" else jnp.full((len(owners), 1), float(imputation))
        filled = jnp.where(there, found, missing)
        score = _mean(filled.T, jnp.broadcast_to(mask[None], filled.T.shape), 1.0)
    return jnp.where(there.any(axis=0), score, -jnp.inf)


def scoring_operations(
    n: int, k: int, width: int, length: float, retrieved: float | np.ndarray
) -> tuple[float, float | np.ndarray]:
    """(ColBERT's, XTR's) floating point operations to score n k candidates of a query of n tokens (table 1).

    length: mean tokens of a document, all of which ColBERT fetches. retrieved: tokens by which a candidate was found, on average.
    """
    return n**2 * k * (2 * length * width + length + 1), n**2 * k * (retrieved + 1)
