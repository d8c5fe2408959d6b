"""Lexica: the token embedding as data instead of a parameter.

A lexicon gives each token type v of a sequence s the vector E_s[v], used to read the token and to predict it. It is drawn per sequence
and handed to the model as an argument, so that one model serves standard, regularised and lexinvariant training.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lexinv.nn.sharding import divide_lexica, whole_vectors
from lexinv.randomness import threefry
from lexinv.validation import require


@dataclass(frozen=True)
class LexiconConfig:
    """How E_s is made (Huang et al. 2023, sections 2 and 5).

    standard: E_s = E_0, a learned table shared by all sequences.
    lexinvariant: E_s[v] ~ N(0, I), independently for every sequence and token type; nothing is learned.
    semi: each type of each sequence is lexinvariant with probability `p_random` and standard otherwise; the random vectors have the
        root-mean-square size of E_0, so that their norm gives nothing away. With `p_random` = 0 this is `standard`.
    permuted_bank: E_s = G[pi_s] with a fixed Gaussian bank G and a fresh permutation pi_s. Ours, for large vocabularies: lexinvariant on
        average over pi, but the model can learn G's directions.
    vocab_block: 0 forms E_s and the logits whole; otherwise the loss goes through the vocabulary in blocks of this size and holds
        neither (`blockwise_nll`).
    """

    kind: Literal["standard", "lexinvariant", "semi", "permuted_bank"] = "standard"
    p_random: float = 0.2
    vocab_block: int = 0

    def __post_init__(self):
        require(0.0 <= self.p_random <= 1.0, "lexicon.p_random", self.p_random, "a probability")
        require(self.vocab_block >= 0, "lexicon.vocab_block", self.vocab_block, "0 or a positive block size")

    @property
    def learned(self) -> bool:
        """Whether a table E_0 is among the parameters."""
        return self.kind in ("standard", "semi")

    @property
    def shared(self) -> bool:
        """Whether every sequence reads the same table."""
        return self.kind == "standard" or (self.kind == "semi" and self.p_random == 0.0)


def row_keys(key: Key[Array, ""], row: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """One threefry key for each sequence of a batch: the step's key folded with the sequence's row."""
    return jax.vmap(jax.random.fold_in, (None, 0))(threefry(key), row)


def gaussian_rows(key: Key[Array, ""], ids: Int[Array, " n"], dim: int) -> Float[Array, "n dim"]:
    """g_v ~ N(0, I) for each listed v: a function of (key, v) alone, so that any part of a lexicon can be drawn without the rest."""
    key = threefry(key)
    return jax.vmap(lambda v: jax.random.normal(jax.random.fold_in(key, v), (dim,)))(ids)


def lexicon_rows(
    config: LexiconConfig,
    table: Float[Array, "vocab dim"] | None,
    keys: Key[Array, " batch"],
    ids: Int[Array, "batch n"],
    dim: int,
) -> Float[Array, "batch n dim"]:
    """E_s[ids_s] for every sequence s of a batch, and nothing else of the lexica.

    `table` is E_0, or the bank of `permuted_bank`; it may be None for `lexinvariant`. Raises ValueError where it is missing.
    """
    keys = threefry(keys)
    if config.kind == "lexinvariant":
        return jax.vmap(gaussian_rows, (0, 0, None))(keys, ids, dim)
    if table is None:
        raise ValueError(f"a {config.kind} lexicon needs its table")
    table = whole_vectors(table)
    if config.shared:
        return table[ids]
    if config.kind == "permuted_bank":
        return table[jax.vmap(lambda key, row: permutation(key, table.shape[0])[row])(keys, ids)]
    size = jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.square(table))))

    def mixed(key: Key[Array, ""], row: Int[Array, " n"]) -> Float[Array, "n dim"]:
        coin_key, vector_key = jax.random.split(key)
        replaced = jax.vmap(lambda v: jax.random.bernoulli(jax.random.fold_in(coin_key, v), config.p_random))(row)
        return jnp.where(replaced[:, None], size * gaussian_rows(vector_key, row, dim), table[row])

    return jax.vmap(mixed)(keys, ids)


def permutation(key: Key[Array, ""], vocab: int) -> Int[Array, " vocab"]:
    """pi_s, uniform over the permutations of the vocabulary."""
    return jax.random.permutation(threefry(key), vocab)


def bank(vocab: int, dim: int) -> Float[Array, "vocab dim"]:
    """G: the fixed Gaussian bank of `permuted_bank`, the same in every run."""
    return gaussian_rows(jax.random.key(0), jnp.arange(vocab), dim)


def draw_lexicon(
    config: LexiconConfig, table: Float[Array, "vocab dim"] | None, keys: Key[Array, " batch"], vocab: int, dim: int
) -> Float[Array, "batch vocab dim"] | Float[Array, "vocab dim"]:
    """E_s for each sequence of a batch; the one table [vocab, dim] where all sequences share it (`standard`, or `semi` with p = 0)."""
    if config.shared and table is not None:
        return table
    if config.kind == "permuted_bank":
        table = bank(vocab, dim)
    everyone = jnp.broadcast_to(jnp.arange(vocab)[None], (keys.shape[0], vocab))
    return divide_lexica(lexicon_rows(config, table, keys, everyone, dim))


def embed(
    lexicon: Float[Array, "batch vocab dim"] | Float[Array, "vocab dim"], tokens: Int[Array, "batch time"]
) -> Float[Array, "batch time dim"]:
    """E_s[x_t]. Ids outside the vocabulary (BOS, padding) give some row of it: the model or the loss replaces them."""
    clipped = jnp.clip(tokens, 0, lexicon.shape[-2] - 1)
    if lexicon.ndim == 2:
        return whole_vectors(lexicon)[clipped]
    return jnp.take_along_axis(lexicon, clipped[..., None], axis=1)


def readout(
    features: Float[Array, "batch time dim"], lexicon: Float[Array, "batch vocab dim"] | Float[Array, "vocab dim"]
) -> Float[Array, "batch time vocab"]:
    """logits[t, v] = <features_t, E_s[v]> / sqrt(dim), in float32."""
    scaled = features * jnp.asarray(features.shape[-1] ** -0.5, features.dtype)
    shape = "btd,vd->btv" if lexicon.ndim == 2 else "btd,bvd->btv"
    return jnp.einsum(shape, scaled, lexicon.astype(scaled.dtype), preferred_element_type=jnp.float32)


def token_nll(
    logits: Float[Array, "batch time vocab"], targets: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    """-log softmax(logits)[target] in nats; 0 where the target is negative (padding)."""
    target_logits = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(targets >= 0, jax.nn.logsumexp(logits, axis=-1) - target_logits, 0.0)


def blockwise_nll(
    config: LexiconConfig,
    table: Float[Array, "vocab dim"] | None,
    keys: Key[Array, " batch"],
    features: Float[Array, "batch time dim"],
    targets: Int[Array, "batch time"],
    vocab: int,
) -> Float[Array, "batch time"]:
    """`token_nll` of the readout, through the vocabulary in blocks of `config.vocab_block`.

    Each block's rows are drawn, used and dropped, and drawn again in the backward pass: neither E_s [batch, vocab, dim] nor the logits
    [batch, time, vocab] ever exist.
    """
    dim = features.shape[-1]

    @jax.checkpoint
    def add_block(log_normaliser: Array, start: Array) -> tuple[Array, None]:
        ids = start + jnp.arange(config.vocab_block)
        readers = keys[:1] if config.shared else keys
        wanted = jnp.broadcast_to(jnp.minimum(ids, vocab - 1)[None], (len(readers), config.vocab_block))
        rows = lexicon_rows(config, table, readers, wanted, dim)
        logits = readout(features, rows[0] if config.shared else rows)
        logits = jnp.where((ids < vocab)[None, None], logits, -jnp.inf)
        return jnp.logaddexp(log_normaliser, jax.nn.logsumexp(logits, axis=-1)), None

    nothing = jnp.full(targets.shape, -jnp.inf, jnp.float32)
    log_normaliser, _ = jax.lax.scan(add_block, nothing, jnp.arange(0, vocab, config.vocab_block))
    target_rows = lexicon_rows(config, table, keys, jnp.maximum(targets, 0), dim)
    target_logits = jnp.sum(features.astype(jnp.float32) * target_rows, axis=-1) * jnp.float32(dim**-0.5)
    return jnp.where(targets >= 0, log_normaliser - target_logits, 0.0)
