"""A Transformer's predictions after many contexts that begin alike, in one pass over the tree of their tokens."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lexinv.nn.cache import empty_cache, make_extend, unstacked
from lexinv.nn.language_model import BOS, Params
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.byte_probabilities import Context, LogProbs
from lexinv.validation import require


def tree_log_probs(config: TransformerConfig, params: Params, vocab: int, most: int, bucket: int = 32) -> LogProbs:
    """`log_probs(contexts)` of a language model with a standard lexicon, each context read from BOS.

    What contexts have in common is read once. most: nodes of a pass, at most the model's `max_length`; more contexts take several passes.
    bucket: passes have a multiple of so many nodes, for each of which a program is compiled. Raises `InvalidConfig` for a context of `most`
    tokens or more, and as `make_extend`.
    """
    require(1 <= most <= config.max_length, "most", most, f"1 to model.max_length = {config.max_length}")
    extend, params = make_extend(config, vocab), unstacked(params)

    def one_pass(nodes: dict[Context, int], asked: list[Context]) -> np.ndarray:
        count = -(-len(nodes) // bucket) * bucket
        count = min(count, most)
        tokens, depth = np.full(count, BOS, np.int32), np.zeros(count, np.int32)
        visible = np.eye(count, dtype=bool)
        for context, node in nodes.items():
            if context:
                parent = nodes[context[:-1]]
                tokens[node], depth[node] = context[-1], len(context)
                visible[node] |= visible[parent]
        cache = empty_cache(config, 1, count)
        logits, _ = extend(
            params, params["table"], cache, jnp.asarray(tokens)[None], jnp.array([count]), jnp.asarray(depth), visible
        )
        rows = logits[0, jnp.array([nodes[context] for context in asked])]
        return np.asarray(jax.nn.log_softmax(rows, axis=-1))

    def log_probs(contexts: Sequence[Context]) -> Float[np.ndarray, "contexts vocab"]:
        found: list[np.ndarray] = []
        nodes: dict[Context, int] = {}
        asked: list[Context] = []
        for context in contexts:
            require(len(context) < most, "context", len(context), f"fewer tokens than the {most} nodes of a pass")
            new = [context[:end] for end in range(len(context) + 1) if context[:end] not in nodes]
            if len(nodes) + len(new) > most:
                found.append(one_pass(nodes, asked))
                nodes, asked, new = {}, [], [context[:end] for end in range(len(context) + 1)]
            for prefix in new:
                nodes[prefix] = len(nodes)
            asked.append(context)
        return np.concatenate([*found, one_pass(nodes, asked)])

    return log_probs
