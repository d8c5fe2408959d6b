"""The exact lexinvariant language model: Bayesian decipherment of a Markov source by enumerating all keys.

A key π is a bijection from cipher symbols to the source's symbols. From a source p Huang et al. (2023, section 3) construct
p'(x) = (1/d!) Σ_π p(πx), the same for x and for every relabelling of x. Its conditionals are a Bayesian decipherer:

    w_t(π) ∝ p(π x_{1:t}),      p'(x_{t+1} | x_{1:t}) = Σ_π w_t(π) p(π x_{t+1} | π x_{1:t})

Since one key has prior mass 1/d!, no sequence can cost p' more than ln d! nats above p under that key (`regret_bound`). The bound is
attained, so testing it needs float64: run these under `lexinv.precision.double_precision`. In float32, the rounding of T sums of d! terms
hides an excess below about 1e-3 nats.
"""

from itertools import permutations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lexinv.data.markov_first_order import MarkovSource
from lexinv.data.symbols import require_symbols
from lexinv.validation import require

LARGEST_VOCABULARY = 8


class Decipherment(NamedTuple):
    """What the Bayesian decipherer believes along one sequence."""

    log_probs: Float[Array, "time vocab"]
    """ln p'(. | symbols before position t), in nats."""
    key_posterior: Float[Array, "time cipher plain"]
    """Probability that a cipher symbol stands for a plain symbol, given the symbols up to and including position t."""


def all_keys(vocab: int) -> Int[np.ndarray, "keys vocab"]:
    """All vocab! keys: key[c] is the plain symbol of cipher symbol c."""
    require(
        1 <= vocab <= LARGEST_VOCABULARY, "vocab", vocab, f"1 to {LARGEST_VOCABULARY}: all vocab! keys are enumerated"
    )
    return np.array(list(permutations(range(vocab))), np.int32)


def bayes_decipher(source: MarkovSource, tokens: Int[Array, " time"]) -> Decipherment:
    """The conditionals of p' and its posterior over keys along one cipher text, exactly.

    Costs O(time · vocab! · vocab²) and holds two tables of vocab! · vocab² numbers (20 MB each for 8 symbols in float64).
    Probabilities of the source may be tiny but not zero. Raises `InvalidConfig` for no tokens and for those that the source does not have.
    """
    require_symbols("tokens", tokens, source.log_initial.shape[0])
    return _bayes_decipher(source, tokens)


@jax.jit
def _bayes_decipher(source: MarkovSource, tokens: Int[Array, " time"]) -> Decipherment:
    vocab, dtype = source.log_initial.shape[0], source.log_initial.dtype
    plain = jnp.asarray(all_keys(vocab).T)
    probs_next = jnp.exp(source.log_transition)[
        plain[:, None], plain[None, :]
    ]  # [u, v, key]: p(πv | πu), sliced at each step
    stands_for = jax.nn.one_hot(plain, vocab, axis=1, dtype=dtype)  # [cipher, plain, key]

    def observe(log_weight, weight, log_likelihood, probs):
        """Predict with the normalised weights of the keys; then let the symbol that came change them."""
        log_probs = jnp.log(probs @ weight)
        log_weight += log_likelihood
        log_weight -= log_weight.max()
        weight = jnp.exp(log_weight)
        weight /= weight.sum()
        return log_weight, weight, Decipherment(log_probs, stands_for @ weight)

    def step(carry, token):
        log_weight, weight, previous = carry
        log_likelihood = source.log_transition[plain[previous], plain[token]]
        log_weight, weight, belief = observe(log_weight, weight, log_likelihood, probs_next[previous])
        return (log_weight, weight, token), belief

    initial = source.log_initial[plain]
    uniform = jnp.full(plain.shape[1], 1 / plain.shape[1], dtype)
    log_weight, weight, first = observe(jnp.zeros_like(uniform), uniform, initial[tokens[0]], jnp.exp(initial))
    _, rest = jax.lax.scan(step, (log_weight, weight, tokens[0]), tokens[1:])
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


def sequences_at_once(vocab: int) -> int:
    """How many sequences to decipher together (`jax.lax.map(..., batch_size=...)`) so that their tables of keys stay within 64 MB."""
    return max(1, 2**26 // (8 * len(all_keys(vocab)) * vocab**2))


def regret_bound(vocab: int, symbols: int | Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """ln(d!/(d-m)!) in nats: the most by which -ln p'(x) can exceed -ln p(πx), for any x with m distinct symbols and any key π.

    All (d-m)! keys that agree with π on the symbols of x give it the same probability, and together have prior mass (d-m)!/d!.
    """
    return np.asarray(np.concatenate([[0.0], np.cumsum(np.log(np.arange(vocab, 0, -1.0)))])[symbols])


def l1_bound(vocab: int, time: int | Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """sqrt(2 ln d! / t): bounds the expected L1 distance between the predictions of p and p', averaged over the first t positions.

    By Pinsker's and Jensen's inequalities from `regret_bound`. For a stationary Markov source it also bounds the expected distance at
    the single position that t symbols precede: there KL(p || p') = H(x_{t+1} | x_{1:t}) - (entropy rate) under p', which falls with t.
    """
    return np.asarray(np.sqrt(2 * regret_bound(vocab, vocab) / time))


class KeyAccuracy(NamedTuple):
    """How much of a key is right, counted over the symbols that occur."""

    positions: Float[Array, ""]
    """Share of the positions of the text whose symbol is decoded rightly."""
    symbols: Float[Array, ""]
    """Share of the distinct symbols of the text that are decoded rightly."""


def key_accuracy(
    decoded: Int[Array, " vocab"], key: Int[Array, " vocab"], counts: Float[Array, " vocab"]
) -> KeyAccuracy:
    """Compare a decoded key with the true one over a text in which symbol v occurs counts[v] times (at least one of them does)."""
    right, occurs = (decoded == key).astype(counts.dtype), (counts > 0).astype(counts.dtype)
    return KeyAccuracy((counts @ right) / counts.sum(), (occurs @ right) / occurs.sum())
