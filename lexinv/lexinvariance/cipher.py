"""Substitution ciphers: keys, the key that symbol frequencies suggest, the key that votes elect, and how much of a key is right.

A key says what each cipher symbol means: plain = key[cipher], as in `lexinv.lexinvariance.metropolis`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lexinv.data.symbols import require_symbols
from lexinv.validation import require


def require_key(key: Int[np.ndarray, "*texts vocab"]) -> None:
    """Raise `InvalidConfig` with the first key that is not a permutation of its own indices."""
    vocab = key.shape[-1]
    for row in key.reshape(-1, vocab):
        require(np.array_equal(np.sort(row), np.arange(vocab)), "key", row.tolist(), f"each of 0 to {vocab - 1} once")


def encipher(
    plain: Int[np.ndarray, "*texts time"], key: Int[np.ndarray, "*texts vocab"]
) -> Int[np.ndarray, "*texts time"]:
    """The cipher texts that the keys, one for each text, decipher into `plain`.

    Raises `InvalidConfig` as `require_key`, and for other symbols than the keys'.
    """
    require_key(key)
    require_symbols("plain", plain, key.shape[-1])
    return np.take_along_axis(np.argsort(key, axis=-1).astype(plain.dtype), plain, axis=-1)


def frequency_key(
    cipher_frequencies: Float[Array, " vocab"], plain_frequencies: Float[Array, " vocab"]
) -> Int[Array, " vocab"]:
    """The most frequent cipher symbol means the most frequent plain one, and so on; equals stand in the order of their ids."""
    plain_by_rank = jnp.argsort(-plain_frequencies).astype(jnp.int32)
    return jnp.zeros_like(plain_by_rank).at[jnp.argsort(-cipher_frequencies)].set(plain_by_rank)


def vote_shares(
    log_probs: Float[np.ndarray, "votes vocab"], cipher: Int[np.ndarray, " votes"]
) -> Float[np.ndarray, "vocab vocab"]:
    """Row c: the mean of `log_probs` (nats) over the positions of cipher symbol c, zero where it does not occur."""
    vocab = log_probs.shape[1]
    require_symbols("cipher", cipher, vocab)
    totals = np.zeros((vocab, vocab))
    np.add.at(totals, cipher, log_probs)
    return totals / np.maximum(np.bincount(cipher, minlength=vocab), 1)[:, None]


def elect_key(votes: Float[np.ndarray, "vocab vocab"]) -> Int[np.ndarray, " vocab"]:
    """The one-to-one key with the largest sum of votes[c, key[c]] (Hungarian method). Rows of zeros take what the others leave."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(votes, maximize=True)[1].astype(np.int32)


class Deciphered(NamedTuple):
    """How much of a text a key gets right."""

    positions: float
    """Share of the text's positions."""
    symbols: float
    """Share of the symbols that occur in it."""


def score_key(
    found: Int[np.ndarray, " vocab"], true: Int[np.ndarray, " vocab"], cipher: Int[np.ndarray, " time"]
) -> Deciphered:
    """Compare a key with the true one on a cipher text. Raises `InvalidConfig` for an empty one and other symbols than the key's."""
    require_symbols("cipher", cipher, len(true))
    right: Bool[np.ndarray, " vocab"] = found == true
    return Deciphered(float(right[cipher].mean()), float(right[np.unique(cipher)].mean()))


class Ciphers(NamedTuple):
    """Windows of text, a key of its own for each, and what the keys make of them."""

    plain: Int[np.ndarray, "windows time"]
    keys: Int[np.ndarray, "windows vocab"]
    cipher: Int[np.ndarray, "windows time"]


def encipher_windows(plain: Int[np.ndarray, "windows time"], vocab: int, seed: int) -> Ciphers:
    """A random key for each window."""
    rng = np.random.default_rng(seed)
    keys = rng.permuted(np.broadcast_to(np.arange(vocab, dtype=np.int32), (len(plain), vocab)), axis=1)
    return Ciphers(plain, keys, encipher(plain, keys))


def elect_keys(
    log_probs: Float[np.ndarray, "windows time vocab"], cipher: Int[np.ndarray, "windows time"]
) -> Int[np.ndarray, "windows vocab"]:
    """The key of each window by the votes, in nats, at all of its positions."""
    return np.stack([elect_key(vote_shares(*each)) for each in zip(log_probs, cipher, strict=True)])


def score_keys(
    found: Int[np.ndarray, "windows vocab"],
    keys: Int[np.ndarray, "windows vocab"],
    cipher: Int[np.ndarray, "windows time"],
) -> Deciphered:
    """Means over the windows of what `score_key` says of each."""
    positions, symbols = np.mean([score_key(*each) for each in zip(found, keys, cipher, strict=True)], axis=0)
    return Deciphered(float(positions), float(symbols))
