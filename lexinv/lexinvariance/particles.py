"""The lexinvariant model p' of a language over many symbols: a particle filter over keys, where `bayes` enumerates them.

p'(x) = (1/V!) Σ_π p(πx) is the evidence of cipher text x under a uniform prior over keys π (Huang et al. 2023; see `bayes`). Symbols are
renamed by the order in which they first occur, so that nothing can depend on their names, and a particle holds the meanings of those that
have occurred. What it says of the others is summed over exactly: all that have no meaning yet share the language's probability of the
unused plain symbols, and the first to occur draws its meaning from that very distribution, the proposal under which weights vary least.
Weights that have become uneven are evened by systematic resampling, and Metropolis swaps, under which the posterior given the prefix is
stationary and which therefore change no weight, make the copies differ again (Gilks and Berzuini 2001).

What a few dozen symbols cost in keys never tried, such swaps hardly give back: the posterior of a sharp language has deep wells. So where
the text surprises the particles more than they expect themselves, a second population starts from uniform keys and is annealed to the
posterior, p(πx)^β with β from 0 to 1 and weights for each step (Neal 2001; Del Moral, Doucet and Jasra 2006). Both estimate the evidence of
the prefix, and count by what they found.

Each prediction is a distribution that knows nothing but the prefix: its loss is attained whatever the particles have missed.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lexinv.data.automata import Automaton
from lexinv.data.symbols import require_symbols
from lexinv.randomness import threefry
from lexinv.validation import Checked, Count, Counts

FEWEST = 8
"""Effective particles below which a prediction is warned of: it is an average over so few keys."""
SURPRISE = 5.0
"""Nats by which the symbols since the last choice have cost more than was expected of them: the particles are then taken to be lost."""
CHUNK = 32
"""Positions whose likelihood is computed at a time, up to the end of the prefix."""


@dataclass(frozen=True)
class FilterConfig(Checked):
    """particles: keys held at a time. swaps: proposals to each of them after every `every` symbols, where these are the first `CHUNK`;
    fewer later, so that the work stays the same.

    anneal_after: prefixes, multiples of `every`, after which `annealed` more are annealed if the particles are lost (see `SURPRISE`).
    rungs: values of β, with a proposal at each.
    """

    particles: Count = 1024
    swaps: Count = 12
    every: Count = 4
    anneal_after: Counts = (16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 224)
    annealed: Count = 128
    rungs: Count = 4000

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield all(n % self.every == 0 for n in self.anneal_after), "anneal_after", f"multiples of every = {self.every}"


class Filtered(NamedTuple):
    """What the particles believe along one cipher text."""

    log_probs: Float[Array, "*texts time vocab"]
    """ln p'(. | symbols before position t), in nats."""
    meaning: Int[Array, "*texts time vocab"]
    """The most probable plain symbol of every cipher symbol, given those up to and including position t; -1 where it has not occurred."""
    effective: Float[Array, "*texts time"]
    """Effective sample size 1 / Σ w² after the symbol at t, before any resampling."""


class Particles(NamedTuple):
    """Keys with weights. key[:, r]: the meaning of the r-th symbol to occur; behind those that have, the unused plain symbols."""

    key: Int[Array, "particles vocab"]
    log_weight: Float[Array, " particles"]
    """Normalised."""
    log_evidence: Float[Array, ""]
    """ln of an estimate of p'(prefix)."""


def filter_keys(
    rng: Key[Array, ""],
    language: Automaton,
    texts: Int[np.ndarray, "texts time"],
    config: FilterConfig = FilterConfig(),
) -> Filtered:
    """p' and its decipherment along each text, one text after another in one program; texts have draws of their own.

    Costs O(particles · time · (vocab + swaps / every)) a text, and O(annealed · rungs · prefix) for each prefix that is annealed. Warns,
    with the share of the positions, where fewer than `FEWEST` particles counted. Raises `InvalidConfig` for no tokens and for those that
    the language does not have.
    """
    vocab = language.log_probs.shape[1]
    require_symbols("texts", texts, vocab)
    ranks = np.stack([first_occurrence(text, vocab) for text in np.asarray(texts)])
    found = _filter_keys(threefry(rng), language, jnp.asarray(texts, jnp.int32), jnp.asarray(ranks), config)
    few = float((np.asarray(found.effective) < min(FEWEST, config.particles)).mean())
    if few:
        warnings.warn(f"fewer than {FEWEST} particles counted at {100 * few:.2g} % of the positions", stacklevel=2)
    return found


def first_occurrence(text: Int[np.ndarray, " time"], vocab: int) -> Int[np.ndarray, " vocab"]:
    """The place of every symbol in the order of first occurrence; those that do not occur come last."""
    symbols, where = np.unique(text, return_index=True)
    order = symbols[np.argsort(where)]
    absent = np.setdiff1d(np.arange(vocab), symbols)
    return np.argsort(np.concatenate([order, absent])).astype(np.int32)


@partial(jax.jit, static_argnames="config")
def _filter_keys(
    rng: Key[Array, ""],
    language: Automaton,
    texts: Int[Array, "texts time"],
    ranks: Int[Array, "texts vocab"],
    config: FilterConfig,
) -> Filtered:
    return jax.lax.map(
        lambda row: _filter_text(row[0], language, row[1], row[2], config),
        (jax.random.split(rng, texts.shape[0]), texts, ranks),
    )


def _filter_text(rng, language: Automaton, text, rank, config: FilterConfig) -> Filtered:
    vocab, time, count = language.log_probs.shape[1], text.shape[0], config.particles
    symbols = rank[text]
    blocks = -(-time // config.every)
    padded = jnp.pad(symbols, (0, blocks * config.every - time)).reshape(blocks, config.every)

    def block(carry, inputs):
        rng, index, coming = inputs
        observe_rng, swap_rng, anneal_rng = jax.random.split(rng, 3)
        observe = jax.vmap(jax.random.split, (0, None))(jax.random.split(observe_rng, config.every), 2)
        (particles, state, seen, surprise), found = jax.lax.scan(partial(_observe, language), carry, (observe, coming))
        length = (index + 1) * config.every
        prefix = _Prefix(language, symbols, length, seen)

        def annealed(particles):
            return _together(anneal_rng, particles, _anneal(anneal_rng, prefix, config.annealed, config.rungs))

        due = (length == jnp.array(config.anneal_after)).any() & (length < time)
        lost = due & (surprise > SURPRISE)
        particles = jax.lax.cond(lost, annealed, lambda same: same, particles)
        key = _swap(swap_rng, prefix, particles.key, config.swaps)
        state = _states(language, key, symbols, length + jnp.zeros(1, jnp.int32))[:, 0]
        return (particles._replace(key=key), state, seen, jnp.where(due, 0.0, surprise)), found

    start = Particles(jnp.tile(jnp.arange(vocab, dtype=jnp.int32), (count, 1)), _even(count), jnp.float32(0))
    carry = start, jnp.zeros(count, jnp.int32), jnp.int32(0), jnp.float32(0)
    _, found = jax.lax.scan(block, carry, (jax.random.split(rng, blocks), jnp.arange(blocks), padded))
    log_probs, meaning, effective = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:time], found)
    return Filtered(log_probs[:, rank], meaning[:, rank], effective)


def _observe(language: Automaton, carry, inputs):
    """Predict; draw a meaning if the symbol is new; weigh by what each particle gave it; resample if weights have become uneven."""
    (particles, state, seen, surprise), ((draw_rng, resample_rng), symbol) = carry, inputs
    count, vocab = particles.key.shape
    rank = jnp.arange(vocab)[None]
    probs = jnp.exp(jnp.take_along_axis(language.log_probs[state], particles.key, axis=1))
    unused = jnp.cumsum(jnp.where(rank < seen, 0.0, probs), axis=1)
    share = unused[:, -1:] / jnp.maximum(vocab - seen, 1).astype(jnp.float32)
    predicted = jnp.where(rank < seen, probs, share)
    log_probs = jnp.log(jnp.exp(particles.log_weight) @ predicted)
    surprise += (jnp.exp(log_probs) * log_probs).sum() - log_probs[symbol]

    level = jax.random.uniform(draw_rng, (count, 1)) * (1 - 1e-6) * unused[:, -1:]
    drawn = jnp.where(symbol == seen, (unused <= level).sum(axis=1), symbol)  # where its meaning stands in the key
    key = _exchange(particles.key, jnp.full(count, symbol), drawn)
    state = language.next_state[state, key[:, symbol]]
    seen = jnp.maximum(seen, symbol + 1)
    particles = _weigh(particles._replace(key=key), jnp.log(predicted[:, symbol]))
    weight = jnp.exp(particles.log_weight)
    votes = jnp.zeros((vocab, vocab)).at[rank, key].add(weight[:, None])
    meaning = jnp.where(rank[0] < seen, votes.argmax(axis=1).astype(jnp.int32), -1)
    found = Filtered(log_probs, meaning, _effective(particles))
    particles, chosen = _resample(resample_rng, particles)
    return (particles, state[chosen], seen, surprise), found


class _Prefix(NamedTuple):
    """The first `length` symbols, of which `seen` differ."""

    language: Automaton
    symbols: Int[Array, " time"]
    length: Int[Array, ""]
    seen: Int[Array, ""]


def _even(count: int):
    return jnp.full(count, -np.log(count), jnp.float32)


def _weigh(particles: Particles, log_factors) -> Particles:
    log_weight = particles.log_weight + log_factors
    total = jax.nn.logsumexp(log_weight)
    return Particles(particles.key, log_weight - total, particles.log_evidence + total)


def _effective(particles: Particles):
    return 1 / jnp.exp(2 * particles.log_weight).sum()


def _resample(rng, particles: Particles):
    """The particles, evened if fewer than half of them count, and where each comes from."""
    count = particles.key.shape[0]
    uneven = _effective(particles) < count / 2
    chosen = jnp.where(uneven, _systematic(rng, particles.log_weight, count), jnp.arange(count))
    log_weight = jnp.where(uneven, _even(count), particles.log_weight)
    return Particles(particles.key[chosen], log_weight, particles.log_evidence), chosen


def _systematic(rng, log_weight, count: int):
    comb = (jnp.arange(count, dtype=jnp.float32) + jax.random.uniform(rng)) / count
    return jnp.minimum(jnp.searchsorted(jnp.cumsum(jnp.exp(log_weight)), comb), log_weight.shape[0] - 1)


def _together(rng, one: Particles, other: Particles) -> Particles:
    """Two populations of one posterior as one of the first's size, each by the evidence that it found."""
    count = one.key.shape[0]
    log_weight = jnp.concatenate([each.log_weight + each.log_evidence for each in (one, other)])
    total = jax.nn.logsumexp(log_weight)
    chosen = _systematic(jax.random.fold_in(rng, 1), log_weight - total, count)
    key = jnp.concatenate([one.key, other.key])[chosen]
    return Particles(key, _even(count), total - jnp.log(2.0))


def _anneal(rng, prefix: _Prefix, count: int, rungs: int) -> Particles:
    """Particles from the prior over keys to the posterior given the prefix."""
    vocab = prefix.language.log_probs.shape[1]
    start_rng, rung_rng = jax.random.split(rng)
    key = jnp.argsort(jax.random.uniform(start_rng, (count, vocab)), axis=1).astype(jnp.int32)
    start = Particles(key, _even(count), jnp.float32(0))

    def rung(carry, inputs):
        particles, likelihood = carry
        rng, beta, step = inputs
        resample_rng, propose_rng = jax.random.split(rng)
        particles, chosen = _resample(resample_rng, _weigh(particles, step * likelihood))
        key, likelihood = _propose(prefix, beta, (particles.key, likelihood[chosen]), _uniforms(propose_rng, count))
        return (particles._replace(key=key), likelihood), None

    # In squares of even steps: keys freeze well below 1.
    betas = (jnp.arange(1, rungs + 1, dtype=jnp.float32) / rungs) ** 2
    inputs = jax.random.split(rung_rng, rungs), betas, jnp.diff(betas, prepend=0.0)
    return jax.lax.scan(rung, (start, _likelihood(prefix, key)), inputs)[0][0]


def _swap(rng, prefix: _Prefix, key, swaps: int):
    """Keys after some proposals each, under which the posterior given the prefix is stationary."""

    def step(index, carry):
        return _propose(prefix, 1.0, carry, _uniforms(jax.random.fold_in(rng, index), key.shape[0]))

    proposals = jnp.maximum(swaps * CHUNK // prefix.length, 1)
    return jax.lax.fori_loop(0, proposals, step, (key, _likelihood(prefix, key)))[0]


def _uniforms(rng, count: int):
    return jax.random.uniform(rng, (3, count))


def _propose(prefix: _Prefix, beta, carry, uniform):
    """Exchange the meaning of a symbol that has occurred with any other, used or not, with probability min(1, exp(β Δ))."""
    key, before = carry
    # Both may be the same: were no swap ever idle, keys an even number of accepted swaps apart would all have the same parity.
    one = (uniform[0] * prefix.seen.astype(jnp.float32)).astype(jnp.int32)
    other = (uniform[1] * key.shape[1]).astype(jnp.int32)
    moved = _exchange(key, one, other)
    after = _likelihood(prefix, moved)
    accept = jnp.log1p(-uniform[2]) < beta * (after - before)
    return jnp.where(accept[:, None], moved, key), jnp.where(accept, after, before)


def _exchange(key, one, other):
    """Every key with the entries at two places exchanged."""
    row = jnp.arange(key.shape[0])
    return key.at[row, one].set(key[row, other]).at[row, other].set(key[row, one])


def _likelihood(prefix: _Prefix, key):
    """ln p of the prefix under each key."""
    language, symbols, length, _ = prefix

    def chunk(index, total):
        at = index * CHUNK + jnp.arange(CHUNK)
        plain = key[:, symbols[jnp.minimum(at, symbols.shape[0] - 1)]]
        log_probs = language.log_probs[_states(language, key, symbols, at), plain]
        return total + jnp.where((at < length)[None], log_probs, 0.0).sum(axis=1)

    return jax.lax.fori_loop(0, -(-length // CHUNK), chunk, jnp.zeros(key.shape[0]))


def _states(language: Automaton, key, symbols, at):
    """The state of each key before these positions, by the last symbols before them."""
    states = jnp.zeros((key.shape[0], at.shape[0]), jnp.int32)
    for back in range(language.memory, 0, -1):
        moved = language.next_state[states, key[:, symbols[jnp.maximum(at - back, 0)]]]
        states = jnp.where((at >= back)[None], moved, states)
    return states
