"""A key of four digits somewhere in a text, and the question for it at the end (Mohtashami and Jaggi 2023): models learn to answer, then
read longer texts than they learned from."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments.harness.training import Training, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects.text import STANDARD
from lexinv.data.windows import Windows
from lexinv.nn.language_model import Params, make_logits, make_nll
from lexinv.nn.transformer import TransformerConfig

DIGITS = 4
TOKENS = 11
"""That no text has, after those of the text: one before the key, which also asks for it, and ten digits."""


def hide(
    tokens: Int[Array, "batch time"], key: Key[Array, ""], depths: Float[Array, " batch"], vocab: int
) -> Int[Array, "batch time"]:
    """Texts of `vocab` tokens, some replaced by a key, from the beginning (depth 0) to just before the end (1), which asks and answers."""
    batch, time = tokens.shape
    digits = vocab + 1 + jax.random.randint(key, (batch, DIGITS), 0, 10)
    marked = jnp.concatenate([jnp.full((batch, 1), vocab), digits], axis=1).astype(tokens.dtype)
    room = time - 2 * (DIGITS + 1)
    places = jnp.floor(depths * room).astype(jnp.int32)[:, None] + jnp.arange(DIGITS + 1)[None]
    hidden = tokens.at[jnp.arange(batch)[:, None], places].set(marked)
    return jnp.concatenate([hidden[:, : -(DIGITS + 1)], marked], axis=1)


def train_to_answer(
    name: str,
    model: TransformerConfig,
    vocab: int,
    models: Sequence[Params],
    texts: Windows,
    training: Training,
    workspace: Workspace,
) -> list[Params]:
    """Models of `vocab` tokens and of these go on with texts in which a key is hidden at a random depth, judged on its digits alone."""
    nll = make_nll(model, STANDARD, vocab + TOKENS)

    def loss(params: Params, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        depths = jax.random.uniform(jax.random.fold_in(key, 1), (len(batch["row"]),))
        asked = batch | {"tokens": hide(batch["tokens"], key, depths, vocab)}
        return jnp.mean(nll(params, asked, key)[:, -DIGITS:]), {}

    return train(name, stacked(models), loss, texts, training, workspace, tokens=texts.length)


def make_answers(
    model: TransformerConfig, vocab: int, most: int
) -> Callable[[Params, Int[np.ndarray, "texts time"], Key[Array, ""]], float]:
    """`answers(params, texts, key)`: the share of keys of which every digit is the likeliest, at even depths; `most` texts at a time."""
    logits = make_logits(model, STANDARD, vocab + TOKENS)

    @jax.jit
    def right(params: Params, texts: Array, depths: Array, key: Key[Array, ""]) -> Array:
        asked = hide(texts, key, depths, vocab)
        found = logits(params, {"tokens": asked, "row": jnp.arange(len(asked))}, key)[:, -DIGITS:]
        return jnp.all(jnp.argmax(found, axis=-1) == asked[:, -DIGITS:], axis=1)

    def answers(params: Params, texts: Int[np.ndarray, "texts time"], key: Key[Array, ""]) -> float:
        depths = (np.arange(len(texts), dtype=np.float32) + 0.5) / len(texts)
        parts: list[Any] = []
        for first in range(0, len(texts), most):
            rows = slice(first, first + most)
            parts.append(right(params, jnp.asarray(texts[rows]), depths[rows], jax.random.fold_in(key, first)))
        return float(np.concatenate(parts).mean())

    return answers
