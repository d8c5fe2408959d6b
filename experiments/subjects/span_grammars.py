"""Grammars that are learned of spans of streams of tokens, in order and shuffled: what order is worth to a tree."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from experiments.harness.arms import train_arms
from experiments.harness.training import Training, initial
from experiments.harness.workspace import Workspace
from experiments.subjects.visual_streams import SIDE, Stream
from lexinv.tokenization.grammar import GrammarConfig, elbo, initialize

ORDERS = ("in order", "shuffled")


def grammar_nats(
    name: str, streams: Mapping[str, Sequence[Stream]], grammar: GrammarConfig, training: Training, workspace: Workspace
) -> dict[str, dict[str, list[float]]]:
    """By stream, "in order" and with words "shuffled" within spans: held-out nats a word for each seed, of a compound grammar at most.

    streams: for each seed, of equal length. All grammars have as many words as the stream that has most.
    """
    spans = {
        f"{arm}, {order}": [
            one.spans(seed if order == "shuffled" else None) for one, seed in zip(found, training.seeds, strict=True)
        ]
        for arm, found in streams.items()
        for order in ORDERS
    }
    words = 1 + max(int(part.max()) for found in spans.values() for one in found for part in one)
    sized = replace(grammar, words=words)

    def nats(params: Any, words: Any, key: Any) -> Any:
        return -jnp.mean(elbo(params, words, key)) / SIDE

    def loss(learned: Any, given: Any, key: Any) -> Any:
        row_key, draw_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (training.batch_size,), 0, len(given["spans"]))
        return nats(learned, given["spans"][rows].astype(jnp.int32), draw_key), {}

    learned = initial(lambda key: initialize(sized, key), training.seeds)
    # As floats, since all that a member holds has a gradient.
    starts = {
        arm: (learned, {"spans": jnp.stack([one.train for one in found]).astype(jnp.float32)})
        for arm, found in spans.items()
    }
    trained = train_arms(name, list(spans), starts, loss, training, workspace, tokens=SIDE)
    judge = jax.jit(nats)

    def judged(arm: str) -> list[float]:
        pairs = zip(trained[arm], spans[arm], strict=True)
        return [float(judge(params, jnp.asarray(one.test), jax.random.key(0))) for params, one in pairs]

    return {arm: {order: judged(f"{arm}, {order}") for order in ORDERS} for arm in streams}
