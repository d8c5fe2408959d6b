"""How much a token matters: the criteria E of the common form X' = P(X, E(X)) of token reduction, each a score for every token.

Kong et al. 2026 (arXiv 2505.18227), appendix A; method card token-reduction-beyond-efficiency. A higher score is kept longer. What CLS or
all queries give is in `ranking` (`cls_attention`, `received_attention`), energies are in `energy`, ranks by PageRank in `pagerank`. Any
score goes with any strategy: `ranking.prune_by_score`, `ranking.rank_matching`, `strategies`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lexinv.merging.bipartite import cosine_similarity


def relevance(x: Float[Array, "tokens width"], query: Float[Array, " width"]) -> Float[Array, " tokens"]:
    """Cosine to a query vector, such as that of a question."""
    return cosine_similarity(jnp.concatenate([query[None], x]))[0, 1:]


def predictive_entropy(logits: Float[Array, "tokens vocab"]) -> Float[Array, " tokens"]:
    """Entropy of what is predicted at every token, in nats: log V for even logits, 0 where all mass is on one. -inf is no mass."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.sum(jnp.where(log_probs > -jnp.inf, jnp.exp(log_probs) * log_probs, 0.0), axis=-1)


def random(key: Key[Array, ""], tokens: int) -> Float[Array, " tokens"]:
    """Uniform numbers: the control of every criterion."""
    return jax.random.uniform(key, (tokens,), jnp.float32)
