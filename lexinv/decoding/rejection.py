"""Drawing a token under a constraint by testing few tokens: adaptive weighted rejection sampling (Lipkin et al. 2025, arXiv 2504.05410).

With p over the vocabulary and a(x) = 1 for tokens that the constraint accepts, a draw (x, w) is properly weighted: E[w 1[x = v]] is
p(v) a(v), and so E[w] = Z = sum_v p(v) a(v). x itself is distributed as under masking, p a / Z, for which the whole vocabulary is tested.
Of the paper's estimators these are the two of the released code (genlm-control), which differ from the one of its first version.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.randomness import threefry
from lexinv.validation import choose, require

ESTIMATORS = ("auto", "recursive", "geometric")
PEAKED = 2 / 3
"""Above this probability of one token `geometric` needs fewer tests than `recursive`, which always makes two."""
MOST = 2**30
"""Of rejections, where there is no budget."""


class Drawn(NamedTuple):
    """log_weight: ln w, of which `log_probs` that are not normalised add their log sum; -inf with a token that the constraint rejects.

    evaluations: how many tokens were tested, none of them twice.
    """

    token: Int[Array, ""]
    log_weight: Float[Array, ""]
    evaluations: Int[Array, ""]


def adaptive_rejection(
    key: Key[Array, ""],
    log_probs: Float[Array, " vocab"],
    accept: Bool[Array, " vocab"],
    estimator: str = "auto",
    max_accepts: int = 2,
    max_rejects: int = MOST,
) -> Drawn:
    """A token and its weight, for constraints that are known on the whole vocabulary; `reject_lazily` is for those that are asked.

    recursive: `reject_in_order` of Gumbel noise. geometric: `reject_with_repeats`. auto: geometric where one token has a probability of 2/3
    or `max_accepts` is above 2, as in the released code. max_rejects: after so many rejections the weight is 0; both stay unbiased.
    Raises `InvalidConfig` for another estimator, fewer than 2 of either, and probabilities that are NaN or all zero.
    """
    choose("estimator", estimator, ESTIMATORS)
    for name, most in (("max_accepts", max_accepts), ("max_rejects", max_rejects)):
        require(
            isinstance(most, Tracer) or most >= 2, name, most, "at least 2: one test alone says nothing of the others"
        )
    _check(log_probs)

    def recursive() -> Drawn:
        return reject_in_order(jax.random.gumbel(key, log_probs.shape), log_probs, accept, max_rejects)

    def geometric() -> Drawn:
        return reject_with_repeats(key, log_probs, accept, max_accepts, max_rejects)

    if estimator != "auto":
        return recursive() if estimator == "recursive" else geometric()
    peak = jnp.max(log_probs) - jax.nn.logsumexp(log_probs)
    return jax.lax.cond((peak >= np.log(PEAKED)) | (jnp.asarray(max_accepts) > 2), geometric, recursive)


def reject_in_order(
    noise: Float[Array, " vocab"],
    log_probs: Float[Array, " vocab"],
    accept: Bool[Array, " vocab"],
    max_rejects: int | Array = MOST,
) -> Drawn:
    """Tokens in the order of log p + Gumbel noise, which draws without replacement, up to the first that is accepted.

    With R the mass rejected until then, w = 1 - R if the next token is accepted, too, or there is none, otherwise w = p(x): the recursion
    E f = q f(x) + (1 - q) E[f | not x] with q = p(x) / (1 - R), which telescopes. At the last rejection allowed but one the next token is
    not looked at, and w = 1 - R.
    """
    vocab = len(log_probs)
    order = jnp.argsort(-(log_probs + noise))
    ordered = log_probs[order]
    support = jnp.sum(ordered > -jnp.inf, dtype=jnp.int32)
    fits = accept[order] & (ordered > -jnp.inf)
    top = jnp.max(log_probs)
    left = top + jnp.log(jnp.cumsum(jnp.exp(ordered - top)[::-1])[::-1])  # summed from the end: 1 - R would cancel
    first = jnp.argmax(fits).astype(jnp.int32)
    found = jnp.any(fits) & (first < max_rejects)
    looked = (first + 1 < support) & (first + 1 < max_rejects)
    certain = ~looked | fits[jnp.minimum(first + 1, vocab - 1)]
    tested = jnp.minimum(support, max_rejects)
    return Drawn(
        order[jnp.where(found, first, tested - 1)].astype(jnp.int32),
        jnp.where(found, jnp.where(certain, left[first], ordered[first]), -jnp.inf),
        jnp.where(found, first + 1 + looked.astype(jnp.int32), tested),
    )


class _Repeats(NamedTuple):
    key: Key[Array, ""]
    left: Float[Array, " vocab"]
    accepts: Float[Array, ""]
    rejects: Float[Array, ""]
    first: Int[Array, ""]
    last: Int[Array, ""]
    tested: Bool[Array, " vocab"]


def reject_with_repeats(
    key: Key[Array, ""],
    log_probs: Float[Array, " vocab"],
    accept: Bool[Array, " vocab"],
    max_accepts: int | Array = 2,
    max_rejects: int | Array = MOST,
) -> Drawn:
    """Rejection with replacement up to `max_accepts` acceptances, where repeats of rejected tokens are drawn as a number, not tested.

    The token is the first accepted one, and w = min(A - 1, accepts) / (accepts + rejects - 1), the unbiased estimate of negative binomial
    trials, given the acceptances where the rejections end the run.
    """
    key, total = threefry(key), jax.nn.logsumexp(log_probs)

    def going(state: _Repeats) -> Array:
        return (state.accepts < max_accepts) & (state.rejects < max_rejects) & jnp.any(state.left > -jnp.inf)

    def go_on(state: _Repeats) -> _Repeats:
        key, repeats_key, token_key = jax.random.split(state.key, 3)
        share = jnp.exp(jnp.minimum(jax.nn.logsumexp(state.left) - total, 0.0))
        uniform = jax.random.uniform(repeats_key, minval=jnp.finfo(jnp.float32).tiny)
        rejects = state.rejects + jnp.floor(jnp.log(uniform) / jnp.log1p(-share))
        token = jnp.argmax(state.left + jax.random.gumbel(token_key, log_probs.shape)).astype(jnp.int32)
        drawn = rejects < max_rejects
        good = accept[token]
        return _Repeats(
            key,
            state.left.at[token].set(jnp.where(drawn & ~good, -jnp.inf, state.left[token])),
            state.accepts + (drawn & good).astype(jnp.float32),
            rejects + (drawn & ~good).astype(jnp.float32),
            jnp.where(drawn & good & (state.accepts == 0), token, state.first),
            jnp.where(drawn & ~good, token, state.last),
            state.tested.at[token].set(state.tested[token] | drawn),
        )

    none, zero = jnp.int32(0), jnp.float32(0)
    start = _Repeats(key, log_probs, zero, zero, none, none, jnp.zeros(log_probs.shape, bool))
    end = jax.lax.while_loop(going, go_on, start)
    trials = end.accepts + jnp.minimum(end.rejects, jnp.asarray(max_rejects, jnp.float32)) - 1
    share = jnp.minimum(jnp.asarray(max_accepts, jnp.float32) - 1, end.accepts) / jnp.maximum(trials, 1)
    found = end.accepts > 0
    weight = jnp.where(found, total + jnp.log(share), -jnp.inf)
    return Drawn(jnp.where(found, end.first, end.last), weight, jnp.sum(end.tested, dtype=jnp.int32))


def reject_lazily(
    noise: Float[np.ndarray, " vocab"],
    log_probs: Float[np.ndarray, " vocab"],
    check: Callable[[int], bool],
    max_rejects: int = MOST,
) -> tuple[int, float, int]:
    """`reject_in_order` on the host, which asks `check(token)` of as few tokens as that counts: (token, log weight, evaluations)."""
    require(max_rejects >= 2, "max_rejects", max_rejects, "at least 2")
    log_probs = np.asarray(log_probs, np.float64)
    _check(log_probs)
    places = log_probs + np.asarray(noise, np.float64)
    order, support = np.empty(0, np.int64), int(np.sum(log_probs > -np.inf))
    rejected = np.zeros(len(places), bool)
    for index in range(min(support, max_rejects)):
        order = _first_of(places, order, index + 2)
        token = int(order[index])
        if not check(token):
            rejected[token] = True
            continue
        left = float(np.logaddexp.reduce(log_probs[~rejected]))
        if index + 1 >= min(support, max_rejects):
            return token, left, index + 1
        return token, left if check(int(order[index + 1])) else float(log_probs[token]), index + 2
    return token, -np.inf, min(support, max_rejects)


def _first_of(places: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    """At least `count` indices from the highest place down, if there are as many; `order` is what was sorted already."""
    if count <= len(order) or len(order) == len(places):
        return order
    count = min(max(64, 2 * len(order)), len(places))
    best = np.argpartition(-places, count - 1)[:count]
    return best[np.argsort(-places[best], kind="stable")]


def _check(log_probs: Array | np.ndarray) -> None:
    if not isinstance(log_probs, Tracer):
        values = np.asarray(log_probs)
        some = bool(np.all(values < np.inf) and np.any(values > -np.inf))
        require(some, "log_probs", float(values.max()), "below infinity and not NaN, with a token above -inf")
