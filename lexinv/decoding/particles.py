"""Texts under a constraint by sequential Monte Carlo: particles go on token by token, and weights repair what each step distorts.

The target is p(text) where the constraint allows it, the posterior of a language model given the constraint. A step draws a token and a
weight that is proper for p(token) a(token) (`lexinv.decoding.rejection`); particles of little weight give way to copies of others. The
mean weight, times what resampling has taken out, is an unbiased estimate of the mass Z of all allowed texts. Locally constrained decoding
is the same with its weights dropped: each token is right given those before it, and the text is not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.data.automata import Acceptor, allowed
from lexinv.decoding.rejection import Drawn, adaptive_rejection, reject_lazily
from lexinv.randomness import threefry
from lexinv.validation import choose, require

Scheme = Literal["systematic", "multinomial"]
Draw = Callable[[Key[Array, ""], Float[Array, " outcomes"], Bool[Array, " outcomes"]], Drawn]
"""`draw(key, log_probs, accept)`: a token and what its particle's log weight grows by."""
ENDED = -1
"""In the place of tokens after the end of a text."""


class Particles(NamedTuple):
    """tokens: of each text, with its end, then `ENDED`. log_weights: of texts, -inf for those that the constraint forbids or cut off.

    log_evidence: ln of the estimate of Z. evaluations, draws: how many tokens were tested, and how many drawn, by all particles.
    """

    tokens: Int[Array, "particles time"]
    log_weights: Float[Array, " particles"]
    log_evidence: Float[Array, ""]
    evaluations: Int[Array, ""]
    draws: Int[Array, ""]


def free(key: Key[Array, ""], log_probs: Array, accept: Array) -> Drawn:
    """From the model, whatever the constraint says; nothing is tested."""
    token = jax.random.categorical(key, log_probs).astype(jnp.int32)
    return Drawn(token, jnp.zeros(()), jnp.int32(0))


def verified(key: Key[Array, ""], log_probs: Array, accept: Array) -> Drawn:
    """From the model, then tested: the weight is what the model gives to all tokens, or 0."""
    token = free(key, log_probs, accept).token
    return Drawn(token, jnp.where(accept[token], jax.nn.logsumexp(log_probs), -jnp.inf), jnp.int32(1))


def masked(key: Key[Array, ""], log_probs: Array, accept: Array) -> Drawn:
    """From the model without what is forbidden, for which all tokens are tested: the weight is what it gives to allowed ones."""
    kept = jnp.where(accept, log_probs, -jnp.inf)
    weight = jax.nn.logsumexp(kept)
    token = jax.random.categorical(key, jnp.where(weight > -jnp.inf, kept, log_probs)).astype(jnp.int32)
    return Drawn(token, weight, jnp.int32(len(log_probs)))


def first_accepted(key: Key[Array, ""], log_probs: Array, accept: Array) -> Drawn:
    """The same token by adaptive rejection; its weight says only whether there was one."""
    order = jnp.argsort(-(log_probs + jax.random.gumbel(key, log_probs.shape)))
    fits = (accept & (log_probs > -jnp.inf))[order]
    support = jnp.sum(log_probs > -jnp.inf, dtype=jnp.int32)
    place = jnp.where(jnp.any(fits), jnp.argmax(fits).astype(jnp.int32), support - 1)
    return Drawn(order[place].astype(jnp.int32), jnp.where(jnp.any(fits), 0.0, -jnp.inf), place + 1)


def unweighted(draw: Draw) -> Draw:
    """The same tokens, every allowed one with weight 1: what is decoded locally."""

    def drawn(key: Key[Array, ""], log_probs: Array, accept: Array) -> Drawn:
        found = draw(key, log_probs, accept)
        return found._replace(log_weight=jnp.where(found.log_weight > -jnp.inf, 0.0, -jnp.inf))

    return drawn


class Method(NamedTuple):
    """resampled: whether particles give way to others. tested: "token" by token, or "text", once and at its end."""

    draw: Draw
    resampled: bool
    tested: Literal["token", "text"] = "token"


METHODS = {
    "lm": Method(free, False),
    "verify": Method(verified, False, "text"),
    "lcd": Method(unweighted(masked), False),
    "ars": Method(first_accepted, False),
    "twisted-smc": Method(verified, True),
    "mask-smc": Method(masked, True),
    "awrs-smc": Method(partial(adaptive_rejection, estimator="recursive"), True),
}
"""From the model alone to its posterior: unconstrained; tested at the end; masked and, by rejection, the same; and weighted ones."""


def effective_size(log_weights: Float[Array, " particles"]) -> Float[Array, ""]:
    """(sum w)^2 / sum w^2, from 1 to their number; 0 where all weights are."""
    top = jnp.max(log_weights)
    weights = jnp.exp(log_weights - jnp.where(top > -jnp.inf, top, 0.0))
    return jnp.sum(weights) ** 2 / jnp.maximum(jnp.sum(weights**2), jnp.finfo(jnp.float32).tiny)


def ancestors(key: Key[Array, ""], log_weights: Float[Array, " particles"], scheme: Scheme) -> Int[Array, " particles"]:
    """Whose copies the particles become, in expectation as many of each as its share of the weight; themselves where all weights are 0."""
    count = len(log_weights)
    if scheme == "multinomial":
        places = jnp.sort(jax.random.uniform(key, (count,)))
    else:
        places = (jnp.arange(count, dtype=jnp.float32) + jax.random.uniform(key)) / count
    ends = jnp.cumsum(jax.nn.softmax(log_weights))
    found = jnp.searchsorted(ends / ends[-1], places, side="right").astype(jnp.int32)
    last = count - 1 - jnp.argmax((log_weights > -jnp.inf)[::-1])  # never one of weight 0, by rounding
    return jnp.where(jnp.any(log_weights > -jnp.inf), jnp.minimum(found, last), jnp.arange(count)).astype(jnp.int32)


class _State(NamedTuple):
    model: Any
    places: Int[Array, " particles"]
    last: Int[Array, " particles"]
    tokens: Int[Array, "particles time"]
    log_weights: Float[Array, " particles"]
    log_evidence: Float[Array, ""]
    evaluations: Int[Array, ""]
    draws: Int[Array, ""]


def smc(
    key: Key[Array, ""],
    predict: Callable[[Any, Int[Array, " particles"]], tuple[Float[Array, "particles outcomes"], Any]],
    start: Any,
    constraint: Acceptor,
    count: int,
    steps: int,
    method: Method,
    resample_below: float = 0.5,
    scheme: Scheme = "systematic",
    foresee: bool = True,
) -> Particles:
    """`count` texts of at most `steps` outcomes under an automaton; to be compiled by the caller, and `vmap`ped over keys for many runs.

    predict(state, last) -> (log_probs[particles, V + 1], state): of every token and, as the last outcome, the end, given the token drawn
    before, at first `ENDED`. Leaves of the state have an axis of particles in front, which resampling gathers. resample_below: the
    effective size, as a share of `count`, under which it happens. The last of the steps can only end the text.
    foresee: see `lexinv.data.automata.allowed`. Raises `InvalidConfig` for no particle or step, and a share outside of 0 to 1.
    """
    require(count >= 1, "count", count, "at least 1")
    require(steps >= 1, "steps", steps, "at least 1")
    require(0 <= resample_below <= 1, "resample_below", resample_below, "from 0 to 1")
    choose("scheme", scheme, ("systematic", "multinomial"))
    may, end = allowed(constraint, foresee), constraint.next_state.shape[1]
    keys = jax.random.split(threefry(key), steps)

    def go_on(state: _State, step: tuple[Array, Key[Array, ""]]) -> tuple[_State, None]:
        index, key = step
        draw_key, resample_key = jax.random.split(key)
        log_probs, model = predict(state.model, state.last)
        ending = jnp.arange(end + 1) == end
        log_probs = jnp.where((index < steps - 1) | ending[None], log_probs, -jnp.inf)
        alive = (state.last != end) & ((state.last != ENDED) | (index == 0))
        if method.tested == "token":
            alive &= state.log_weights > -jnp.inf
        accept = jnp.where((state.places >= 0)[:, None], may[jnp.maximum(state.places, 0)], False)
        # What is impossible here has no distribution to draw from.
        possible = jnp.any(log_probs > -jnp.inf, axis=1)
        log_probs = jnp.where(possible[:, None], log_probs, 0.0)
        found = jax.vmap(method.draw)(jax.random.split(draw_key, count), log_probs, accept & possible[:, None])
        token = jnp.where(alive, found.token, ENDED)
        moved = constraint.next_state[jnp.maximum(state.places, 0), jnp.clip(token, 0, end - 1)]
        moved = jnp.where((token == end) | (state.places < 0), state.places, moved)
        grown = jnp.where(alive, found.log_weight, 0.0)
        tested = jnp.where(token == end, 1, 0) if method.tested == "text" else found.evaluations
        state = _State(
            model,
            jnp.where(alive, moved, state.places),
            token,
            state.tokens.at[:, index].set(token),
            state.log_weights + grown,
            state.log_evidence,
            state.evaluations + jnp.sum(jnp.where(alive, tested, 0)),
            state.draws + jnp.sum(alive, dtype=jnp.int32),
        )
        if not method.resampled:
            return state, None
        few = effective_size(state.log_weights) < resample_below * count
        return jax.lax.cond(few, partial(_resampled, resample_key, scheme), lambda same: same, state), None

    nothing = jnp.zeros(count)
    begun = jnp.full((count, steps), ENDED, jnp.int32)
    places = jnp.zeros(count, jnp.int32)
    state = _State(
        start, places, places + ENDED, begun, nothing, jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    )
    found = jax.lax.scan(go_on, state, (jnp.arange(steps), keys))[0]
    evidence = found.log_evidence + jax.nn.logsumexp(found.log_weights) - np.log(count)
    return Particles(found.tokens, found.log_weights, evidence, found.evaluations, found.draws)


def _resampled(key: Key[Array, ""], scheme: Scheme, state: _State) -> _State:
    chosen = ancestors(key, state.log_weights, scheme)
    mean = jax.nn.logsumexp(state.log_weights) - np.log(len(chosen))
    there = mean > -jnp.inf
    copied = state._replace(
        model=jax.tree.map(lambda leaf: leaf[chosen], state.model),
        places=state.places[chosen],
        last=state.last[chosen],
        tokens=state.tokens[chosen],
    )
    weights = jnp.where(there, 0.0, state.log_weights)
    return copied._replace(log_weights=weights, log_evidence=state.log_evidence + jnp.where(there, mean, 0.0))


def smc_lazily(
    rng: np.random.Generator,
    predict: Callable[[Any, Int[np.ndarray, " particles"]], tuple[Float[np.ndarray, "particles vocab"], Any]],
    start: Any,
    check: Callable[[tuple[int, ...], int], bool],
    count: int,
    steps: int,
    end: int,
    resample_below: float = 0.5,
    scheme: Scheme = "systematic",
) -> Particles:
    """`smc` by adaptive weighted rejection on the host, for constraints that can only be asked.

    check(tokens before, token): whether the text may go on like this; of `end`, which is one of the vocabulary, whether it is whole.
    """
    require(count >= 1, "count", count, "at least 1")
    require(steps >= 1, "steps", steps, "at least 1")
    texts: list[tuple[int, ...]] = [()] * count
    weights, state, evidence, evaluations, draws = np.zeros(count), start, 0.0, 0, 0
    for step in range(steps):
        alive = [i for i, text in enumerate(texts) if weights[i] > -np.inf and end not in text[-1:]]
        if not alive:
            break
        last = np.array([text[-1] if len(text) == step > 0 else ENDED for text in texts], np.int32)
        log_probs, state = predict(state, last)
        for i in alive:
            row = np.asarray(log_probs[i], np.float64)
            if step == steps - 1:
                row = np.where(np.arange(len(row)) == end, row, -np.inf)
            token, weight, tested = reject_lazily(rng.gumbel(size=len(row)), row, partial(check, texts[i]))
            texts[i], weights[i] = (*texts[i], token), weights[i] + weight
            evaluations, draws = evaluations + tested, draws + 1
        held = jnp.asarray(weights, jnp.float32)
        if weights.max() > -np.inf and float(effective_size(held)) < resample_below * count:
            chosen = np.asarray(ancestors(jax.random.key(int(rng.integers(2**32))), held, scheme))
            state, texts = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], state), [texts[i] for i in chosen]
            evidence, weights = evidence + float(np.logaddexp.reduce(weights)) - np.log(count), np.zeros(count)
    tokens = np.full((count, steps), ENDED, np.int32)
    for i, text in enumerate(texts):
        tokens[i, : len(text)] = text
    evidence += float(np.logaddexp.reduce(weights)) - np.log(count)
    weights, evidence = jnp.asarray(weights, jnp.float32), jnp.float32(evidence)
    return Particles(jnp.asarray(tokens), weights, evidence, jnp.int32(evaluations), jnp.int32(draws))
