"""Recall of pairs: a context of keys and values, no key twice, then one of the keys; a language model has to give its value.

A model reads at any positions, so that a part of the context can keep those that it had in the whole.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from experiments.harness.training import Training, train
from experiments.harness.workspace import Workspace
from lexinv.merging.selective_loss import selective_cross_entropy
from lexinv.nn.language_model import BOS, Params, initialize, make_nll
from lexinv.nn.lexicon import LexiconConfig, embed, readout
from lexinv.nn.linear import rms_norm
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.randomness import threefry
from lexinv.training.optimizers import OptimizerConfig

QUERIES = 8
"""Of a training text: its last pairs repeat earlier ones."""


class Question(NamedTuple):
    """pairs: keys and values of the context in order. needle: the pair that is asked for."""

    pairs: Int[Array, "pairs 2"]
    needle: Int[Array, ""]

    @property
    def query(self) -> Int[Array, ""]:
        return self.pairs[self.needle, 0]

    @property
    def answer(self) -> Int[Array, ""]:
        return self.pairs[self.needle, 1]


def draw_pairs(key: Key[Array, ""], count: int, keys: int, values: int) -> Int[Array, "pairs 2"]:
    """`count` different ones of `keys` keys, and a value drawn for each, which as a token comes after all keys."""
    keys_key, values_key = jax.random.split(key)
    drawn = jax.random.permutation(keys_key, keys)[:count]
    return jnp.stack([drawn, keys + jax.random.randint(values_key, (count,), 0, values)], axis=1)


def draw_question(key: Key[Array, ""], count: int, keys: int, values: int, depth: Float[Array, ""]) -> Question:
    """depth: where the needle stands, from 0, the beginning, to 1."""
    needle = jnp.clip(jnp.floor(depth * count).astype(jnp.int32), 0, count - 1)
    return Question(draw_pairs(key, count, keys, values), needle)


def draw_text(key: Key[Array, ""], length: int, keys: int, values: int) -> Int[Array, " length"]:
    """A text to train on: pairs, then `QUERIES` of them once more in random order."""
    pairs_key, asked_key = jax.random.split(key)
    count = length // 2 - QUERIES
    pairs = draw_pairs(pairs_key, count, keys, values)
    asked = jax.random.permutation(asked_key, count)[:QUERIES]
    return jnp.concatenate([pairs, pairs[asked]]).reshape(-1)


def recall_model(depth: int, width: int, max_length: int) -> TransformerConfig:
    """Two heads whose keys see the token before (Olsson et al. 2022)."""
    return TransformerConfig(
        depth=depth,
        width=width,
        heads=2,
        mlp_width=2 * width,
        max_length=max_length,
        mixing="smear",
        initialization="mimetic",
        unroll=depth,
    )


def train_recall(name: str, model: TransformerConfig, config: Any, workspace: Workspace) -> list[Params]:
    """A model for each of `config.seeds`, trained on texts of `config.length` tokens and judged on the values asked for at their end.

    config: of an experiment, with `length`, `keys`, `values`, `steps`, `batch_size`, `learning_rate`, `seeds`.
    """
    vocab = config.keys + config.values
    nll = make_nll(model, LexiconConfig(), vocab)
    asked = jnp.arange(config.length) >= config.length - 2 * QUERIES
    weights = (asked & (jnp.arange(config.length) % 2 == 1)).astype(jnp.float32)

    def loss(params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        draw = partial(draw_text, length=config.length, keys=config.keys, values=config.values)
        texts = jax.vmap(draw)(jax.random.split(threefry(key), config.batch_size))
        losses = nll(params, {"tokens": texts, "row": jnp.arange(config.batch_size)}, key)
        return selective_cross_entropy(losses, jnp.broadcast_to(weights[None], losses.shape)), {}

    optimizer = OptimizerConfig(learning_rate=config.learning_rate, warmup_steps=config.steps // 10)
    training = Training(config.steps, config.batch_size, config.seeds, optimizer, steps_per_dispatch=20)
    start = partial(initialize, model, LexiconConfig(), vocab)
    return train(name, start, loss, None, training, workspace, tokens=config.length)


def read(
    model: TransformerConfig, params: Params, tokens: Int[Array, "batch time"], positions: Float[Array, "batch time"]
) -> tuple[Float[Array, "batch vocab"], Float[Array, "batch time"]]:
    """Logits after the last token, and what attention it pays to every one, the mean of heads and layers, at any positions.

    `lexinv.nn.language_model.LanguageModel` turns queries and keys by 0, 1, 2, ...; each layer here turns them further to `positions`.
    """
    weights = params["model"]
    x = jnp.where((tokens == BOS)[..., None], weights["bos"][None, None], embed(params["table"], tokens))
    extra = positions - jnp.arange(tokens.shape[1], dtype=jnp.float32)[None]
    half = model.head_dim // 2
    angles = extra[:, :, None, None] * (10_000.0 ** (-jnp.arange(half) / half))[None, None, None]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)

    def turn(site: str, z: Array) -> Array:
        if site not in ("queries", "keys"):
            return z
        first, second = z[..., :half], z[..., half:]
        return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)

    def layer(x: Array, layer: Any) -> tuple[Array, Array]:
        x, seen = Block(model, True, parent=None).apply({"params": layer}, x, None, None, change=turn)
        return x, jnp.mean(seen["attention_weights"][:, :, -1], axis=1)

    x, attention = jax.lax.scan(layer, x, weights["transformer"]["layers"])
    last = rms_norm(x[:, -1:], weights["transformer"]["final_norm"])
    features = jnp.einsum("btd,de->bte", last, weights["logit_scale"] * weights["readout"])
    return readout(features, params["table"])[:, 0], jnp.mean(attention, axis=0)
