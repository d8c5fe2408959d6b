"""Deciphering by sampling, for alphabets whose keys cannot be enumerated: Metropolis over keys with swap proposals.

Under a Markov source the likelihood of a key π depends on a text only through its first symbol and its bigram counts N:

    ℓ(π) = ln p(π x_1) + Σ_ab N_ab ln p(πb | πa)

A proposal swaps the meanings of two symbols and touches two rows and two columns of N, so that it costs O(vocab). Markov chains over
keys go back to Diaconis (2009). Where the source is fitted to text, smooth it: every probability must be positive.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lexinv.data.markov_first_order import MarkovSource
from lexinv.data.symbols import require_symbols
from lexinv.lexinvariance.cipher import frequency_key
from lexinv.randomness import threefry


class TextCounts(NamedTuple):
    """All that the likelihood of a key depends on. A longer text has larger counts."""

    first: Float[Array, " vocab"]
    """1 for the first symbol, 0 for the others."""
    bigrams: Float[Array, "vocab vocab"]
    """How often the second symbol follows the first."""


class Chain(NamedTuple):
    """The state of one Markov chain over keys."""

    key: Int[Array, " vocab"]
    log_likelihood: Float[Array, ""]


def count_text(tokens: Int[Array, " time"], vocab: int, length: int | Int[Array, ""], dtype=jnp.float32) -> TextCounts:
    """Counts of the first `length` symbols (at least one), by one scatter-add."""
    within = (jnp.arange(1, tokens.shape[0]) < length).astype(dtype)
    bigrams = jnp.zeros((vocab, vocab), dtype).at[tokens[:-1], tokens[1:]].add(within)
    return TextCounts(jax.nn.one_hot(tokens[0], vocab, dtype=dtype), bigrams)


def key_log_likelihood(source: MarkovSource, counts: TextCounts, key: Int[Array, " vocab"]) -> Float[Array, ""]:
    """ℓ(π) in nats, from scratch: O(vocab²)."""
    bigrams = (counts.bigrams * source.log_transition[key[:, None], key[None, :]]).sum()
    return bigrams + counts.first @ source.log_initial[key]


def swap_delta(
    source: MarkovSource, counts: TextCounts, key: Int[Array, " vocab"], pair: Int[Array, " 2"]
) -> tuple[Int[Array, " vocab"], Float[Array, ""]]:
    """The key with the meanings of two symbols swapped, and ℓ(swapped) - ℓ(key) in nats: O(vocab)."""
    swapped = key.at[pair].set(key[pair[::-1]])

    def affected(key):
        """The terms of ℓ in which a symbol of the pair takes part."""
        rows = counts.bigrams[pair] * source.log_transition[key[pair, None], key[None, :]]
        columns = counts.bigrams[:, pair] * source.log_transition[key[:, None], key[None, pair]]
        twice = counts.bigrams[pair[:, None], pair[None, :]] * source.log_transition[key[pair, None], key[None, pair]]
        return rows.sum() + columns.sum() - twice.sum() + counts.first[pair] @ source.log_initial[key[pair]]

    return swapped, affected(swapped) - affected(key)


def start_chain(source: MarkovSource, counts: TextCounts) -> Chain:
    """Begin with the frequency ranks: the most frequent cipher symbol stands for the source's most probable first symbol, and so on.

    (For a stationary source that is its most frequent symbol.)
    """
    occurrences = counts.first + counts.bigrams.sum(0)
    key = frequency_key(occurrences, source.log_initial)
    return Chain(key, key_log_likelihood(source, counts, key))


class Proposals(NamedTuple):
    """Swaps to be tried one after another, drawn ahead of the chain."""

    pair: Int[Array, "*proposals 2"]
    log_uniform: Float[Array, "*proposals"]
    """Logarithm of a uniform number to accept by."""


def draw_proposals(rng: Key[Array, ""], vocab: int, count: int, dtype) -> Proposals:
    """Swaps of two symbols, seen in the text or not.

    Both symbols of a pair may be the same: were no swap ever idle, every accepted one would change the parity of the key, and where
    most are accepted keys an even number of proposals apart would all have the same parity.
    """
    uniform = jax.random.uniform(rng, (count, 3), dtype)
    return Proposals((uniform[:, :2] * vocab).astype(jnp.int32), jnp.log1p(-uniform[:, 2]))


def metropolis_step(
    source: MarkovSource, counts: TextCounts, chain: Chain, proposal: Proposals, beta: float | Float[Array, ""] = 1.0
) -> Chain:
    """Accept the proposed swap with probability min(1, exp(β Δ)). At β = 1 the posterior over keys is stationary."""
    swapped, delta = swap_delta(source, counts, chain.key, proposal.pair)
    accept = proposal.log_uniform < beta * delta
    return Chain(
        jnp.where(accept, swapped, chain.key), jnp.where(accept, chain.log_likelihood + delta, chain.log_likelihood)
    )


def metropolis_decipher(
    rng: Key[Array, ""],
    source: MarkovSource,
    tokens: Int[Array, " time"],
    *,
    proposals: int = 10_000,
    restarts: int = 8,
) -> Chain:
    """The most likely key that any of `restarts` annealed chains met, with its log-likelihood in nats. `vmap` over texts.

    Every chain starts at the frequency ranks and lets β rise from 0.1 to 1. Raises `InvalidConfig` for no tokens and for those that the
    source does not have.
    """
    require_symbols("tokens", tokens, source.log_initial.shape[0])
    return _metropolis_decipher(rng, source, tokens, proposals, restarts)


@partial(jax.jit, static_argnames=("proposals", "restarts"))
def _metropolis_decipher(
    rng: Key[Array, ""], source: MarkovSource, tokens: Int[Array, " time"], proposals: int, restarts: int
) -> Chain:
    vocab, dtype = source.log_initial.shape[0], source.log_initial.dtype
    counts = count_text(tokens, vocab, tokens.shape[0], dtype)
    start = start_chain(source, counts)
    betas = jnp.linspace(0.1, 1.0, proposals, dtype=dtype)

    def restart(rng):
        def step(carry, inputs):
            chain, best = carry
            chain = metropolis_step(source, counts, chain, *inputs)
            better = chain.log_likelihood > best.log_likelihood
            return (chain, jax.tree.map(partial(jnp.where, better), chain, best)), None

        inputs = draw_proposals(rng, vocab, proposals, dtype), betas
        return jax.lax.scan(step, (start, start), inputs)[0][1].key

    keys = jax.vmap(restart)(jax.random.split(threefry(rng), restarts))
    # Counted anew: thousands of float32 increments have drifted.
    log_likelihoods = jax.vmap(partial(key_log_likelihood, source, counts))(keys)
    best = jnp.argmax(log_likelihoods)
    return Chain(keys[best], log_likelihoods[best])
