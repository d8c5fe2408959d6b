"""Lexica: the token embedding as data instead of a parameter.

A lexicon gives each token type v of a sequence s the vector E_s[v], used to read the token and to predict it. It is drawn per sequence
and handed to the model as an argument, so that one model serves standard, regularised and lexinvariant training.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lexinv.nn.sharding import divide_lexica, whole_vectors
from lexinv.randomness import threefry
from lexinv.validation import require

IMPOSSIBLE = -1e30
"""The logit of what cannot come. Finite, so that a block of nothing else has a gradient."""


@dataclass(frozen=True)
class LexiconConfig:
    """How E_s is made (Huang et al. 2023).

    standard: E_s = E_0, a learned table shared by all sequences.
    lexinvariant: E_s[v] ~ N(0, I), independently for every sequence and token type; nothing is learned.
    semi: each type of each sequence is lexinvariant with probability `p_random` and standard otherwise; the random vectors have the
        root-mean-square size of E_0, so that their norm gives nothing away. With `p_random` = 0 this is `standard`.
    permuted_bank: E_s = G[pi_s] with a fixed Gaussian bank G and a fresh permutation pi_s. Ours, for large vocabularies: lexinvariant on
        average over pi, but the model can learn G's directions.
    canonical: E_s[v] = E_0[r], where v is the r-th type to occur in s, from 0 (`lexinv.nn.canonical`), and E_0 is a learned table. Ours:
        nothing is random and lexinvariance is exact. Rank r stands for every type that has not occurred while r have, which share its
        probability alike.
    orthonormal: the rows of E_s / sqrt(width) are a uniformly drawn orthonormal frame. Ours: lexinvariant without the similarity of
        independent rows, which is noise of size 1 / sqrt(width). For at most `width` types.
    vocab_block: 0 forms E_s and the logits whole; otherwise the loss goes through the vocabulary in blocks of this size and holds
        neither (`blockwise_nll`).
    """

    kind: Literal["standard", "lexinvariant", "semi", "permuted_bank", "canonical", "orthonormal"] = "standard"
    p_random: float = 0.2
    vocab_block: int = 0

    def __post_init__(self):
        require(0.0 <= self.p_random <= 1.0, "lexicon.p_random", self.p_random, "a probability")
        require(self.vocab_block >= 0, "lexicon.vocab_block", self.vocab_block, "0 or a positive block size")
        whole = self.kind != "orthonormal" or not self.vocab_block
        require(
            whole, "lexicon.vocab_block", self.vocab_block, "0 where lexicon.kind = 'orthonormal': no vector is alone"
        )

    @property
    def learned(self) -> bool:
        """Whether a table E_0 is among the parameters."""
        return self.kind in ("standard", "semi", "canonical")

    @property
    def shared(self) -> bool:
        """Whether every sequence reads the same table; of a canonical lexicon with ranks in place of tokens."""
        return self.kind in ("standard", "canonical") or (self.kind == "semi" and self.p_random == 0.0)


def row_keys(key: Key[Array, ""], row: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """One threefry key for each sequence of a batch: the step's key folded with the sequence's row."""
    return jax.vmap(jax.random.fold_in, (None, 0))(threefry(key), row)


def gaussian_rows(key: Key[Array, ""], ids: Int[Array, " n"], dim: int) -> Float[Array, "n dim"]:
    """g_v ~ N(0, I) for each listed v: a function of (key, v) alone, so that any part of a lexicon can be drawn without the rest."""
    key = threefry(key)
    return jax.vmap(lambda v: jax.random.normal(jax.random.fold_in(key, v), (dim,), jnp.float32))(ids)


def orthonormal_rows(key: Key[Array, ""], vocab: int, dim: int) -> Float[Array, "vocab dim"]:
    """sqrt(dim) times a uniform orthonormal frame: `gaussian_rows` by Gram and Schmidt, twice against rounding.

    Without LAPACK, for `lexinv.training.population.create_population`'s reason. Raises `InvalidConfig` for more rows than `dim`.
    """
    require_frame(vocab, dim)

    def add(frame: Float[Array, "vocab dim"], drawn: tuple[Array, Array]) -> tuple[Float[Array, "vocab dim"], None]:
        row, index = drawn
        for _ in range(2):
            row = row - (frame @ row) @ frame
        return frame.at[index].set(row / jnp.linalg.norm(row)), None

    rows = gaussian_rows(key, jnp.arange(vocab), dim)
    frame, _ = jax.lax.scan(add, jnp.zeros_like(rows), (rows, jnp.arange(vocab)))
    return jnp.float32(dim**0.5) * frame


def require_frame(vocab: int, dim: int) -> None:
    """Raise `InvalidConfig` where an orthonormal lexicon would need more orthogonal vectors than there are."""
    allowed = f"at least the {vocab} tokens of the vocabulary, whose vectors an orthonormal lexicon makes orthogonal"
    require(vocab <= dim, "model.width", dim, allowed)


def lexicon_rows(
    config: LexiconConfig,
    table: Float[Array, "vocab dim"] | None,
    keys: Key[Array, " batch"],
    ids: Int[Array, "batch n"],
    dim: int,
) -> Float[Array, "batch n dim"]:
    """E_s[ids_s] for every sequence s of a batch, and nothing else of the lexica.

    `table` is E_0, or the bank of `permuted_bank`; it may be None for `lexinvariant`. Raises ValueError where it is missing, and for an
    orthonormal lexicon, which is drawn whole. `ids` are ranks for a canonical one.
    """
    keys = threefry(keys)
    if config.kind == "lexinvariant":
        return jax.vmap(gaussian_rows, (0, 0, None))(keys, ids, dim)
    if config.kind == "orthonormal":
        raise ValueError("an orthonormal lexicon is drawn whole: see draw_lexicon")
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
    """G: the fixed Gaussian bank of `permuted_bank`, the same in every run; a constant of programs, which do not draw it again."""
    return jnp.asarray(_bank(vocab, dim))


@lru_cache(maxsize=4)
def _bank(vocab: int, dim: int) -> Float[np.ndarray, "vocab dim"]:
    with jax.ensure_compile_time_eval():
        return np.asarray(gaussian_rows(jax.random.key(0), jnp.arange(vocab), dim))


def draw_lexicon(
    config: LexiconConfig, table: Float[Array, "vocab dim"] | None, keys: Key[Array, " batch"], vocab: int, dim: int
) -> Float[Array, "batch vocab dim"] | Float[Array, "vocab dim"]:
    """E_s for each sequence of a batch; the one table [vocab, dim] where all sequences share it (see `LexiconConfig.shared`).

    Raises `InvalidConfig` for an orthonormal lexicon of more tokens than `dim`.
    """
    if config.shared and table is not None:
        return table
    if config.kind == "orthonormal":
        return divide_lexica(jax.vmap(lambda key: orthonormal_rows(key, vocab, dim))(keys))
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
    scaled = _scaled(features)
    shape = "btd,vd->btv" if lexicon.ndim == 2 else "btd,bvd->btv"
    return jnp.einsum(shape, scaled, lexicon.astype(scaled.dtype), preferred_element_type=jnp.float32)


def _scaled(features: Float[Array, "batch time dim"]) -> Float[Array, "batch time dim"]:
    return features * jnp.asarray(features.shape[-1] ** -0.5, features.dtype)


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
    seen: Int[Array, "batch time"] | None = None,
) -> Float[Array, "batch time"]:
    """`token_nll` of the readout, through the vocabulary in blocks of `config.vocab_block`; with `seen`, of `lexinv.nn.canonical.of_ranks`.

    Each block's rows are drawn, used and dropped, and drawn again in the backward pass: neither E_s [batch, vocab, dim] nor the logits
    [batch, time, vocab] ever exist.
    """
    dim = features.shape[-1]
    last = jnp.full_like(targets, vocab - 1) if seen is None else seen

    @jax.checkpoint
    def add_block(log_normaliser: Array, start: Array) -> tuple[Array, None]:
        ids = start + jnp.arange(config.vocab_block)
        readers = keys[:1] if config.shared else keys
        wanted = jnp.broadcast_to(jnp.minimum(ids, vocab - 1)[None], (len(readers), config.vocab_block))
        rows = lexicon_rows(config, table, readers, wanted, dim)
        logits = readout(features, rows[0] if config.shared else rows)
        possible = (ids < vocab)[None, None] & (ids[None, None] <= last[..., None])
        logits = jnp.where(possible, logits, IMPOSSIBLE)
        return jnp.logaddexp(log_normaliser, jax.nn.logsumexp(logits, axis=-1)), None

    nothing = jnp.full(targets.shape, -jnp.inf, jnp.float32)
    log_normaliser, _ = jax.lax.scan(add_block, nothing, jnp.arange(0, vocab, config.vocab_block))
    target_rows = lexicon_rows(config, table, keys, jnp.maximum(targets, 0), dim)
    # Rounded as in the readout: the target is one of those that the normaliser sums over.
    scaled = _scaled(features)
    read, rows = (x.astype(jnp.float32) for x in (scaled, target_rows.astype(scaled.dtype)))
    target_logits = jnp.sum(read * rows, axis=-1)
    return jnp.where(targets >= 0, log_normaliser - target_logits, 0.0)
