"""The lexinvariant model p' of a language over many symbols: a particle filter over keys, where `bayes` enumerates them.

p'(x) = (1/V!) Σ_π p(πx) is the evidence of cipher text x under a uniform prior over keys π (Huang et al. 2023; see `bayes`). Symbols are
renamed by the order in which they first occur, so that nothing can depend on their names, and a particle holds the meanings of those that
have occurred. The others are summed over exactly: they share the language's probability of the unused plain symbols.

Where a symbol occurs first, every particle branches into all meanings that it could have, and as many branches as there are particles are
kept, each at most once: those of large weight as they are, of the others a systematic sample of equal weights, by the threshold under which
weights stay right on average and change least (Fearnhead and Clifford 2003, "On-line inference for hidden Markov models via particle
filters"). So all particles differ, and where there are no more keys than particles the filter enumerates them.

A text that begins against the language's odds loses the true key among the first symbols, where there are most to choose from. So where the
text surprises the particles more than they expect themselves, populations are begun anew, and read the prefix from a random place on, and
what stands before that place last. The likelihood of the prefix in its true order then corrects their weights (importance sampling). All
populations estimate the evidence of the prefix, and count by what they found.

Each prediction is a distribution that knows nothing but the prefix: its loss is attained whatever the particles have missed.
"""

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.data.symbols import require_symbols
from lexinv.lexinvariance.languages import Language
from lexinv.randomness import threefry
from lexinv.validation import Checked, Count, CountOrZero

SURPRISE = 5.0
"""Nats by which symbols have cost more than was expected of them, since they last cost less: the particles are then taken to be lost."""
SOLVING = 8
"""Iterations for the threshold of the branches that are kept; it rises to the solution from below, and never passes it."""
RUN = 16
"""Branches whose weights are added up at a time."""


@dataclass(frozen=True)
class FilterConfig(Checked):
    """particles: keys held at a time. restarts: populations begun anew where the particles are lost, which is asked after every `every`
    symbols (see `SURPRISE`)."""

    particles: Count = 4096
    every: Count = 8
    restarts: CountOrZero = 2


class Filtered(NamedTuple):
    """What the particles believe along one cipher text."""

    log_probs: Float[Array, "*texts time vocab"]
    """ln p'(. | symbols before position t), in nats."""
    meaning: Int[Array, "*texts time vocab"]
    """The most probable plain symbol of every cipher symbol, given those up to and including position t; -1 where it has not occurred."""
    posterior: Float[Array, "*texts time vocab"]
    """The probability of every plain symbol under the cipher symbol at position t, given those up to and including it."""
    effective: Float[Array, "*texts time"]
    """Effective sample size 1 / Σ w² after the symbol at t. All particles differ, so that a posterior on one key has 1."""
    lost: Bool[Array, "*texts time"]
    """Whether the symbols up to there have cost more than was expected (see `SURPRISE`)."""


class Particles(NamedTuple):
    """Keys with weights, after some symbols."""

    key: Int[Array, "particles vocab"]
    """key[:, r]: the meaning of the r-th symbol to occur; behind those that have, the unused plain symbols."""
    log_weight: Float[Array, " particles"]
    """Their sum estimates p'(symbols so far)."""
    state: Any
    """What the language has read under each key."""
    seen: Int[Array, ""]
    """How many symbols have occurred."""


def filter_keys(
    rng: Key[Array, ""],
    language: Language,
    texts: Int[np.ndarray, "texts time"],
    config: FilterConfig = FilterConfig(),
) -> Filtered:
    """p' and its decipherment along each text, one text after another in one program; texts have draws of their own.

    Costs O(particles · distinct · (vocab + time)) a text of so many distinct symbols, and what the language takes to read it under as many
    keys as there are particles; about as much a restart. Warns of texts at whose end the particles are lost. Raises `InvalidConfig` for no
    tokens, for those that the language does not have, and what `language.begin` raises.
    """
    vocab = language.vocab
    require_symbols("texts", texts, vocab)
    ranks = np.stack([first_occurrence(text, vocab) for text in np.asarray(texts)])
    distinct = 1 + int(np.take_along_axis(ranks, np.asarray(texts), axis=1).max())
    inputs = jnp.asarray(texts, jnp.int32), jnp.asarray(ranks)
    found = _filter_keys(threefry(rng), language, *inputs, distinct, config)
    if lost := int(np.asarray(found.lost)[:, -1].sum()):
        warnings.warn(f"the particles are lost at the end of {lost} of {len(texts)} texts", stacklevel=2)
    return found


def first_occurrence(text: Int[np.ndarray, " time"], vocab: int) -> Int[np.ndarray, " vocab"]:
    """The place of every symbol in the order of first occurrence; those that do not occur come last."""
    symbols, where = np.unique(text, return_index=True)
    order = symbols[np.argsort(where)]
    absent = np.setdiff1d(np.arange(vocab), symbols)
    return np.argsort(np.concatenate([order, absent])).astype(np.int32)


@partial(jax.jit, static_argnames=("distinct", "config"))
def _filter_keys(
    rng: Key[Array, ""],
    language: Language,
    texts: Int[Array, "texts time"],
    ranks: Int[Array, "texts vocab"],
    distinct: int,
    config: FilterConfig,
) -> Filtered:
    return jax.lax.map(
        lambda row: _filter_text(row[0], language, row[1], row[2], distinct, config),
        (jax.random.split(rng, texts.shape[0]), texts, ranks),
    )


def _filter_text(rng, language: Language, text, rank, distinct: int, config: FilterConfig) -> Filtered:
    time = text.shape[0]
    symbols = rank[text]
    blocks = -(-time // config.every)
    padded = jnp.pad(symbols, (0, blocks * config.every - time)).reshape(blocks, config.every)

    def block(carry, inputs):
        rng, index, coming = inputs
        observe_rng, restart_rng = jax.random.split(rng)
        observe = partial(_observe, language, distinct)
        (particles, surprise), found = jax.lax.scan(
            observe, carry, (jax.random.split(observe_rng, config.every), coming)
        )
        length = (index + 1) * config.every

        def restarted(particles):
            rngs = jax.random.split(restart_rng, config.restarts)
            return _together(restart_rng, particles, [_restart(rng, language, symbols, length, config) for rng in rngs])

        if config.restarts:
            lost = (surprise > SURPRISE) & (length < time)
            particles = jax.lax.cond(lost, restarted, lambda same: same, particles)
            surprise = jnp.where(lost, 0.0, surprise)
        return (particles, surprise), found

    carry = _start(language, config.particles, time), jnp.float32(0)
    _, found = jax.lax.scan(block, carry, (jax.random.split(rng, blocks), jnp.arange(blocks), padded))
    found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:time], found)
    return found._replace(log_probs=found.log_probs[:, rank], meaning=found.meaning[:, rank])


def _start(language: Language, count: int, time: int) -> Particles:
    """One key, and room for others."""
    key = jnp.tile(jnp.arange(language.vocab, dtype=jnp.int32), (count, 1))
    log_weight = jnp.where(jnp.arange(count) == 0, 0.0, -jnp.inf)
    return Particles(key, log_weight, language.begin(count, time), jnp.int32(0))


def _observe(language: Language, distinct: int, carry, inputs):
    """Predict, and weigh by what each particle gave to the symbol that came."""
    (before, surprise), (rng, symbol) = carry, inputs
    vocab = before.key.shape[1]
    evidence = jax.nn.logsumexp(before.log_weight)
    weight = jnp.exp(before.log_weight - evidence)
    probs = weight @ jnp.exp(language.log_probs_of(before.state, before.key[:, :distinct]))
    known = jnp.arange(distinct) < before.seen
    after = _advance(rng, language, before, symbol)
    total = jax.nn.logsumexp(after.log_weight)
    unused = jnp.maximum(1 - jnp.where(known, probs, 0.0).sum(), 1e-9) / jnp.maximum(vocab - before.seen, 1).astype(
        jnp.float32
    )
    # Of a symbol that is new the branches say it without the cancellation above.
    unused = jnp.where(symbol == before.seen, total - evidence, jnp.log(unused))
    log_probs = jnp.full(vocab, unused).at[:distinct].set(jnp.where(known, jnp.log(probs), unused))
    surprise = jnp.maximum(surprise + (jnp.exp(log_probs) * log_probs).sum() - log_probs[symbol], 0.0)

    weight = jnp.exp(after.log_weight - total)
    votes = jnp.zeros((distinct, vocab)).at[jnp.arange(distinct)[None], after.key[:, :distinct]].add(weight[:, None])
    meaning = jnp.where(jnp.arange(distinct) < after.seen, votes.argmax(axis=1).astype(jnp.int32), -1)
    meaning = jnp.full(vocab, -1, jnp.int32).at[:distinct].set(meaning)
    return (after, surprise), Filtered(
        log_probs, meaning, votes[symbol], 1 / jnp.square(weight).sum(), surprise > SURPRISE
    )


def _advance(rng, language: Language, particles: Particles, symbol) -> Particles:
    """The particles after one more symbol; they branch if it is new."""

    def branched(particles: Particles) -> Particles:
        count, vocab = particles.key.shape
        log_probs = language.log_probs_of(particles.state, particles.key)
        branches = jnp.where(jnp.arange(vocab)[None] < symbol, -jnp.inf, particles.log_weight[:, None] + log_probs)
        chosen, log_weight = _keep(rng, branches.reshape(-1), count)
        parent, place = chosen // vocab, chosen % vocab
        key, row = particles.key[parent], jnp.arange(count)
        meaning = key[row, place]
        key = key.at[row, place].set(key[:, symbol]).at[:, symbol].set(meaning)
        log_weight -= jnp.log((vocab - symbol).astype(jnp.float32))
        state = jax.tree.map(lambda leaf: leaf[parent], particles.state)
        return Particles(key, log_weight, language.advance(state, meaning), symbol + 1)

    def weighed(particles: Particles) -> Particles:
        log_prob, state = _read(language, particles.state, particles.key[:, symbol])
        return particles._replace(log_weight=particles.log_weight + log_prob, state=state)

    return jax.lax.cond(symbol == particles.seen, branched, weighed, particles)


def _keep(rng, log_weight, count: int):
    """`count` of the weighted items, none twice, and their weights; fewer, with weights of zero behind them, where no more weigh anything.

    Item i is kept with probability q = min(c w, 1), c such that these sum to `count`, and has weight w / q: what is above 1 / c stays.
    """
    most = log_weight.max()
    weight = jnp.exp(log_weight - most)

    def solve(_, c):
        sure = c * weight >= 1
        left = jnp.maximum(jnp.where(sure, 0.0, weight).sum(), 1e-30)
        return jnp.maximum((count - sure.sum()).astype(jnp.float32) / left, c)

    c = jax.lax.fori_loop(0, SOLVING, solve, count / weight.sum())
    # Sums of runs first: a running sum over all items takes longer than all else.
    runs = jnp.pad(jnp.minimum(c * weight, 1), (0, -len(weight) % RUN)).reshape(-1, RUN)
    totals = runs.sum(axis=1)
    ends = jnp.cumsum(totals)
    comb = jnp.arange(count, dtype=jnp.float32) + jax.random.uniform(rng)
    run = jnp.minimum(jnp.searchsorted(ends, comb), len(ends) - 1)
    within = (jnp.cumsum(runs[run], axis=1) < (comb - ends[run] + totals[run])[:, None]).sum(axis=1)
    chosen = jnp.minimum(run * RUN + within, len(weight) - 1)
    alive = (comb < ends[-1]) & (weight[chosen] > 0)
    return chosen, jnp.where(alive, most + jnp.log(jnp.maximum(weight[chosen], 1 / c)), -jnp.inf)


def _restart(rng, language: Language, symbols, length, config: FilterConfig) -> Particles:
    """Particles that read the first `length` symbols from a random place on and then from the beginning to there, weighed for all of it."""
    place_rng, read_rng = jax.random.split(rng)
    at = jnp.arange(symbols.shape[0])
    turned = symbols[jnp.where(at < length, (at + jax.random.randint(place_rng, (), 1, length)) % length, at)]
    met = jnp.where((turned[None] == jnp.arange(language.vocab)[:, None]) & (at < length)[None], at[None], len(symbols))
    rank = jnp.argsort(jnp.argsort(met.min(axis=1))).astype(jnp.int32)
    turned = rank[turned]

    def read(index, particles):
        return _advance(jax.random.fold_in(read_rng, index), language, particles, turned[index])

    found = jax.lax.fori_loop(0, length, read, _start(language, config.particles, symbols.shape[0]))
    assumed, _ = _likelihood(language, found.key, turned, length)
    key = found.key[:, rank]
    likelihood, state = _likelihood(language, key, symbols, length)
    return Particles(key, found.log_weight + likelihood - assumed, state, found.seen)


def _likelihood(language: Language, key, symbols, length):
    """ln p of the first `length` symbols under each key, and the states that they lead to."""

    def read(index, carry):
        total, state = carry
        log_prob, state = _read(language, state, key[:, symbols[index]])
        return total + log_prob, state

    count = key.shape[0]
    return jax.lax.fori_loop(0, length, read, (jnp.zeros(count), language.begin(count, symbols.shape[0])))


def _read(language: Language, state: Any, meaning: Int[Array, " particles"]) -> tuple[Float[Array, " particles"], Any]:
    """ln p of one more symbol of each text, and the states after it."""
    return language.log_probs_of(state, meaning[:, None])[:, 0], language.advance(state, meaning)


def _together(rng, one: Particles, others: list[Particles]) -> Particles:
    """Populations of one posterior as one of the first's size."""
    key, log_weight, state = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves), *(each[:3] for each in (one, *others))
    )
    chosen, log_weight = _keep(jax.random.fold_in(rng, len(others)), log_weight, one.key.shape[0])
    state = jax.tree.map(lambda leaf: leaf[chosen], state)
    return Particles(key[chosen], log_weight - np.float32(np.log1p(len(others))), state, one.seen)
