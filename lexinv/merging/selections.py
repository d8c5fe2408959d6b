"""Methods by name that choose among the tokens of one example outside of any network, as before a language model."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.diversity import diversity_prune
from lexinv.merging.k_center import pivot_prune
from lexinv.merging.plan import Plan, compose, identity, merge
from lexinv.merging.ranking import prune_at_random, prune_by_score
from lexinv.validation import choose

SELECTIONS = ("divprune", "maxsum", "kcenter", "top", "random", "tome")


def keep(
    name: str, x: Float[Array, "tokens width"], scores: Float[Array, " tokens"], num_keep: int, key: Key[Array, ""]
) -> Plan:
    """The plan of `num_keep` of an example's tokens, outside of any layer; nothing is protected.

    scores: what "top" keeps the highest of, and where the pivot of "maxsum" (ToDRE) and "kcenter" is highest. key: of "random". "tome"
    halves the tokens until their number is reached, on the means, since one step merges at most half.
    """
    choose("method", name, SELECTIONS)
    tokens = x.shape[0]
    if name == "divprune":
        return diversity_prune(x, num_keep)
    if name in ("maxsum", "kcenter"):
        return pivot_prune(x, scores, num_keep, "maxsum" if name == "maxsum" else "maxmin")
    if name == "top":
        return prune_by_score(scores, tokens - num_keep, 0)
    if name == "random":
        return prune_at_random(key, tokens, tokens - num_keep, 0)
    plan, size = identity(tokens), jnp.ones(tokens, jnp.float32)
    while x.shape[0] > num_keep:
        step = bipartite_matching(cosine_similarity(x), min(x.shape[0] - num_keep, x.shape[0] // 2), 2, 0)
        x, size = merge(step, x, size)
        plan = compose(step, plan)
    return plan
