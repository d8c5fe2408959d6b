"""Markov sources of first order in log space and traced by JAX, where `markov` is exact on the host and of any order."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key

from lexinv.data.markov import random_kernel
from lexinv.data.symbols import require_symbols
from lexinv.randomness import threefry
from lexinv.validation import require


class MarkovSource(NamedTuple):
    """A first-order language p over `vocab` symbols, in nats. Stack the leaves and `vmap` for many sources."""

    log_transition: Float[Array, "vocab vocab"]
    """ln p(next | current), current symbol first."""
    log_initial: Float[Array, " vocab"]
    """ln p(first)."""


def dirichlet_source(rng: Key[Array, ""], vocab: int, concentration: float | Float[Array, ""]) -> MarkovSource:
    """A stationary source whose rows are independent Dirichlet(concentration, ..., concentration) draws.

    The smaller the concentration, the lower the entropy: 0.3 is nearly deterministic, 3 nearly uniform.
    """
    transition = random_kernel(rng, 1, vocab, concentration)
    return MarkovSource(jnp.log(transition), jnp.log(stationary_distribution(transition)))


def estimate_source(tokens: Integer[np.ndarray, " time"], vocab: int, pseudocount: float = 0.5) -> MarkovSource:
    """The bigram model of a text, every cell of its table starting with `pseudocount`; the first symbol has the text's frequencies.

    Raises `InvalidConfig` for an empty text, a token that is not below `vocab`, and a pseudocount that is not positive.
    """
    require_symbols("tokens", tokens, vocab)
    require(pseudocount > 0, "pseudocount", pseudocount, "above 0: the source's probabilities are positive")
    flat = tokens[:-1].astype(np.int64) * vocab + tokens[1:]
    bigrams = np.bincount(flat, minlength=vocab**2).reshape(vocab, vocab) + pseudocount
    symbols = np.bincount(tokens, minlength=vocab) + pseudocount
    transition = bigrams / bigrams.sum(axis=1, keepdims=True)
    initial = symbols / symbols.sum()
    return MarkovSource(jnp.log(jnp.asarray(transition, jnp.float32)), jnp.log(jnp.asarray(initial, jnp.float32)))


def stationary_distribution(transition: Float[Array, "vocab vocab"]) -> Float[Array, " vocab"]:
    """The distribution q with qP = q of an irreducible chain, by one linear solve.

    q(I - P) = 0 and q1 = 1 add up to q(I - P + 11ᵀ) = 1ᵀ, whose matrix is invertible. Where something of q is below its rounding, by
    elimination without subtractions (Grassmann, Taksar and Heyman 1985): every entry is then positive, and right to a few digits less
    than the type has.
    """
    vocab, dtype = transition.shape[0], transition.dtype
    system = jnp.eye(vocab, dtype=dtype) - transition + 1
    solved = jnp.linalg.solve(system.T, jnp.ones(vocab, dtype))

    def leave(step: Array, watched: Float[Array, "vocab vocab"]) -> Float[Array, "vocab vocab"]:
        """Watch the chain on the states below only."""
        state = vocab - 1 - step
        below = jnp.arange(vocab) < state
        onward = jnp.where(below, watched[state], 0.0)
        into = jnp.where(below, watched[:, state] / onward.sum(), watched[:, state])
        return (watched + jnp.where(below, into, 0.0)[:, None] * onward[None]).at[:, state].set(into)

    def enter(state: Array, law: Float[Array, " vocab"]) -> Float[Array, " vocab"]:
        return law.at[state].set(jnp.where(jnp.arange(vocab) < state, law * watched[:, state], 0.0).sum())

    watched = jax.lax.fori_loop(0, vocab - 1, leave, transition)
    law = jax.lax.fori_loop(1, vocab, enter, jnp.zeros(vocab, dtype).at[0].set(1.0))
    return jnp.where(solved.min() > vocab * jnp.finfo(dtype).eps, solved, law / law.sum())


def sample_tokens(rng: Key[Array, ""], source: MarkovSource, length: int) -> Int[Array, " time"]:
    """`length` symbols of the source."""
    # categorical() takes the argmax of logits plus Gumbel noise; the noise is drawn ahead of the scan.
    noise = jax.random.gumbel(threefry(rng), (length, source.log_initial.shape[0]), source.log_initial.dtype)

    def step(log_probs, noise):
        token = jnp.argmax(log_probs + noise).astype(jnp.int32)
        return source.log_transition[token], token

    return jax.lax.scan(step, source.log_initial, noise)[1]


def predictions(source: MarkovSource, tokens: Int[Array, " time"]) -> Float[Array, "time vocab"]:
    """ln p(. | tokens before position t): the source's own prediction at every position, in nats.

    Raises `InvalidConfig` for no tokens and for those that the source does not have.
    """
    require_symbols("tokens", tokens, source.log_initial.shape[0])
    return jnp.concatenate([source.log_initial[None], source.log_transition[tokens[:-1]]])


def encipher(source: MarkovSource, key: Int[Array, " vocab"]) -> MarkovSource:
    """The source seen through a substitution cipher: its law p(key[x_1], ..., key[x_T]) on cipher texts x."""
    return MarkovSource(source.log_transition[key[:, None], key[None, :]], source.log_initial[key])
